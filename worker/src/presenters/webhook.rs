//! Publishes by an HTTP service of the customer's, in the shape of lego's `httpreq` (default mode): POST `<url>/present` and
//! `<url>/cleanup` with the owner name and the value. 2xx is success.

use std::sync::Arc;

use countersign_shared::model::presenter::WebhookSettings;
use countersign_shared::model::secret::Secret;
use countersign_shared::model::webhook::target;
use serde_json::json;
use thiserror::Error;
use url::Url;

use crate::outward::{NoAnswer, OutwardHttp};

pub struct WebhookPresenter {
    http: Arc<OutwardHttp>,
    base: Url,
    settings: WebhookSettings,
    secret: Option<Secret>,
}

/// Without the URL, which may hold what only its owner should know.
#[derive(Debug, Error)]
pub enum WebhookError {
    #[error("the DNS webhook's URL {0}")]
    Url(&'static str),
    #[error("the DNS webhook cannot be reached: not a public address")]
    Inward,
    #[error("the DNS webhook does not answer within {0} s")]
    Late(u64),
    #[error("the DNS webhook cannot be reached")]
    Unreachable(#[source] NotReached),
    #[error("the DNS webhook answered {0}")]
    Refused(u16),
}

/// In the words of a library: for operators.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct NotReached(String);

impl From<NoAnswer> for WebhookError {
    fn from(reason: NoAnswer) -> Self {
        match reason {
            NoAnswer::Inward => Self::Inward,
            NoAnswer::Late(within) => Self::Late(within.as_secs()),
            NoAnswer::Failed(text) => Self::Unreachable(NotReached(text)),
        }
    }
}

impl WebhookPresenter {
    pub(super) fn new(
        http: &Arc<OutwardHttp>,
        settings: WebhookSettings,
        secret: Option<Secret>,
    ) -> Result<Self, WebhookError> {
        let mut base = target(&settings.url).map_err(WebhookError::Url)?;
        let folder = format!("{}/", base.path().trim_end_matches('/'));
        base.set_path(&folder);
        Ok(Self { http: Arc::clone(http), base, settings, secret })
    }

    pub async fn present(&self, owner_name: &str, value: &str) -> Result<(), WebhookError> {
        self.post("present", owner_name, value).await
    }

    pub async fn remove(&self, owner_name: &str, value: &str) -> Result<(), WebhookError> {
        self.post("cleanup", owner_name, value).await
    }

    async fn post(&self, what: &str, owner_name: &str, value: &str) -> Result<(), WebhookError> {
        let url = self.base.join(what).map_err(|_| WebhookError::Url("must be a URL"))?;
        let mut request = self.http.post(url)?.json(&json!({ "fqdn": owner_name, "value": value }));
        for (name, value) in &self.settings.headers {
            request = request.header(name, value);
        }
        request = match (&self.settings.username, &self.secret) {
            (Some(username), secret) => request.basic_auth(username, secret.as_ref().map(Secret::expose)),
            (None, Some(token)) => request.bearer_auth(token.expose()),
            (None, None) => request,
        };
        let status = self.http.status(request).await?;
        if status.is_success() { Ok(()) } else { Err(WebhookError::Refused(status.as_u16())) }
    }
}
