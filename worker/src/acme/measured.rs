//! Every HTTP request to the CA is measured, by what it is for. Who asks says so around the call, because instant-acme stands
//! between it and the wire.

use std::future::Future;

use countersign_shared::telemetry::labels::AcmeResource;
use countersign_shared::telemetry::{metrics, spans};
use http::Method;
use tokio::time::Instant;

use super::problem::RequestKind;
use super::transport::{Answer, Failure};

tokio::task_local! {
    static RESOURCE: AcmeResource;
}

/// Whatever is sent while `call` is awaited, is for this.
pub(super) async fn asking<T>(kind: RequestKind, call: impl Future<Output = T>) -> T {
    let resource = match kind {
        RequestKind::Directory => AcmeResource::Directory,
        RequestKind::NewAccount => AcmeResource::NewAccount,
        RequestKind::NewOrder => AcmeResource::NewOrder,
        RequestKind::Order => AcmeResource::Order,
        RequestKind::Authorization => AcmeResource::Authorization,
        RequestKind::Deactivate => AcmeResource::Deactivation,
        RequestKind::Challenge => AcmeResource::Challenge,
        RequestKind::Finalize => AcmeResource::Finalize,
        RequestKind::Certificate => AcmeResource::Certificate,
        RequestKind::RenewalInfo => AcmeResource::RenewalInfo,
        RequestKind::Account => AcmeResource::Account,
        RequestKind::Revoke => AcmeResource::Revocation,
    };
    RESOURCE.scope(resource, call).await
}

/// Sends one request. `known`: what it is for, where the request itself shows that.
pub(super) async fn measured(
    method: &Method,
    known: Option<AcmeResource>,
    sending: impl Future<Output = Result<Answer, Failure>>,
) -> Result<Answer, Failure> {
    let resource = known.or_else(|| RESOURCE.try_get().ok()).unwrap_or(AcmeResource::Other);
    let (began, started) = (spans::now(), Instant::now());
    let outcome = sending.await;
    let status = match &outcome {
        Ok(answer) => Some(answer.status),
        Err(Failure::Refused(answer)) => Some(answer.status),
        Err(_) => None,
    };
    metrics::acme_request(resource, status, started.elapsed());
    spans::acme_request(method.as_str(), resource, status, began);
    outcome
}
