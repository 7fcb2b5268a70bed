//! Webhooks: where an account is told of its events. Workers deliver them; nothing is sent from here.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use countersign_shared::model::address::{is_inward, is_inward_literal};
use countersign_shared::model::scope::Scope;
use countersign_shared::model::secret::Secret;
use countersign_shared::model::webhook::{signing_key, target};
use countersign_shared::store::events::{self, EventName};
use countersign_shared::store::{accounts, webhooks};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::{Host, Url};
use utoipa::{IntoParams, ToSchema};

use super::V2;
use super::auth::Authorized;
use super::error::{Error, FieldErrors};
use super::input::{self, Path};
use super::lists::sort;
use super::wire::{Data, WebhookEntry};
use crate::idempotency::Idempotency;
use crate::limits::Received;
use crate::openapi::AnyV2Call;
use crate::request_id::RequestId;

/// Every event of the account is sent to each.
const MOST: i64 = 100;
/// A name that is not resolved by then is accepted: what it leads to is judged at every delivery.
const RESOLVE_WITHIN: Duration = Duration::from_secs(3);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct WebhooksQuery {
    /// `id:asc` or `id:desc`; `id:asc` by default.
    sort: Option<String>,
}

/// Body of `POST /v2/{account}/webhooks`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct WebhookInput {
    /// https only, at a public address.
    #[schema(example = "https://shop.example.com/events")]
    url: String,
    /// Our addition: with it, what is sent carries `webhook-id`, `webhook-timestamp` and `webhook-signature` of Standard
    /// Webhooks. `whsec_` and the base64 of 24 to 64 random bytes; never shown again.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: Option<String>,
}

/// List webhooks
///
/// All of them, without pages.
#[utoipa::path(get, path = "/v2/{account}/webhooks", operation_id = "list_webhooks", tag = "Webhooks", params(("account" = i64, Path), WebhooksQuery),
    responses((status = 200, body = Data<Vec<WebhookEntry>>), AnyV2Call))]
pub(crate) async fn list(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path(account): Path<String>,
    query: Result<Query<WebhooksQuery>, QueryRejection>,
) -> Result<Json<Data<Vec<WebhookEntry>>>, Error> {
    let account = caller.account(&account)?;
    caller.may(Scope::Webhooks)?;
    let Query(query) = query.map_err(|_| Error::BadRequest("Invalid query".to_owned()))?;
    let sort = sort(Some(query.sort.filter(|sort| !sort.is_empty()).as_deref().unwrap_or("id:asc")))?;
    let mut conn = v2.pool.acquire().await?;
    let webhooks = webhooks::list(&mut conn, account, &sort).await?;
    Ok(Json(Data { data: webhooks.into_iter().map(Into::into).collect() }))
}

/// Create a webhook
///
/// From then on every event of the account is sent there by POST: `certificate.issue`, `domain.create`, `domain.delete`,
/// `webhook.create`, `webhook.delete`. Acknowledge by 200 within 10 s; otherwise an event is sent again, at most 10 times
/// within 2 hours, with the same `request_identifier`. Events may come twice and out of order. After 15 failures in a row
/// nothing is sent any more.
#[utoipa::path(post, path = "/v2/{account}/webhooks", operation_id = "create_webhook", tag = "Webhooks", params(("account" = i64, Path)),
    request_body = WebhookInput, responses((status = 201, body = Data<WebhookEntry>), AnyV2Call))]
pub(crate) async fn create(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path(account): Path<String>,
    request_id: RequestId,
    idempotency: Idempotency,
    body: Received,
) -> Result<(StatusCode, Json<Data<WebhookEntry>>), Error> {
    let account = caller.account(&account)?;
    caller.may(Scope::Webhooks)?;
    let input = Wanted::parse(&input::fields(&body)?)?;
    if !v2.allow_private_webhooks && leads_inward(&input.target).await {
        return Err(Error::invalid("url", "must lead to a public address"));
    }
    let mut tx = v2.pool.begin().await?;
    // Two calls at once must not both be the last one.
    accounts::lock(&mut tx, account).await?;
    if webhooks::count(&mut tx, account).await? >= MOST {
        return Err(Error::BadRequest(format!("An account has at most {MOST} webhooks")));
    }
    let webhook = webhooks::insert(&mut tx, &v2.ring, account, &input.url, input.secret.as_ref()).await?;
    events::webhook(&mut tx, EventName::WebhookCreate, account, &webhook).await?;
    let webhook_id = webhook.id;
    caller.audit(&mut tx, "webhook.create", &format!("webhook {webhook_id}"), &request_id).await?;
    let answer = Data { data: WebhookEntry::from(webhook) };
    idempotency.keep(&mut tx, StatusCode::CREATED, &answer).await?;
    tx.commit().await?;
    tracing::info!(account.id = account, webhook.id = webhook_id, "webhook created");
    Ok((StatusCode::CREATED, Json(answer)))
}

/// One webhook
#[utoipa::path(get, path = "/v2/{account}/webhooks/{webhook}", operation_id = "show_webhook", tag = "Webhooks",
    params(("account" = i64, Path), ("webhook" = i64, Path)),
    responses((status = 200, body = Data<WebhookEntry>), AnyV2Call))]
pub(crate) async fn show(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path((account, named)): Path<(String, String)>,
) -> Result<Json<Data<WebhookEntry>>, Error> {
    let account = caller.account(&account)?;
    caller.may(Scope::Webhooks)?;
    let id = input::id(&named).ok_or_else(|| Error::no_webhook(&named))?;
    let mut conn = v2.pool.acquire().await?;
    let webhook = webhooks::find(&mut conn, account, id).await?.ok_or_else(|| Error::no_webhook(&named))?;
    Ok(Json(Data { data: webhook.into() }))
}

/// Delete a webhook
///
/// What was not delivered to it yet is not sent any more.
#[utoipa::path(delete, path = "/v2/{account}/webhooks/{webhook}", operation_id = "delete_webhook", tag = "Webhooks",
    params(("account" = i64, Path), ("webhook" = i64, Path)), responses((status = 204), AnyV2Call))]
pub(crate) async fn delete(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path((account, named)): Path<(String, String)>,
    request_id: RequestId,
) -> Result<StatusCode, Error> {
    let account = caller.account(&account)?;
    caller.may(Scope::Webhooks)?;
    let id = input::id(&named).ok_or_else(|| Error::no_webhook(&named))?;
    let mut tx = v2.pool.begin().await?;
    let deleted = webhooks::mark_deleted(&mut tx, account, id).await?;
    let webhook = deleted.ok_or_else(|| Error::no_webhook(&named))?;
    events::webhook(&mut tx, EventName::WebhookDelete, account, &webhook).await?;
    caller.audit(&mut tx, "webhook.delete", &format!("webhook {id}"), &request_id).await?;
    tx.commit().await?;
    tracing::info!(account.id = account, webhook.id = webhook.id, "webhook deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// What a body asks for.
struct Wanted {
    /// As the caller wrote it.
    url: String,
    target: Url,
    secret: Option<Secret>,
}

impl Wanted {
    fn parse(fields: &Map<String, Value>) -> Result<Self, Error> {
        let mut errors = FieldErrors::default();
        let parsed = match fields.get("url") {
            None | Some(Value::Null) => Err("can't be blank"),
            Some(Value::String(url)) => target(url).map(|target| (url.clone(), target)),
            Some(_) => Err("must be a string"),
        };
        if let Err(why) = parsed {
            errors.add("url", why);
        }
        let secret = match fields.get("secret") {
            None | Some(Value::Null) => None,
            Some(Value::String(secret)) if signing_key(secret).is_some() => Some(Secret::new(secret.clone())),
            Some(_) => {
                errors.add("secret", "must be whsec_ and the base64 of 24 to 64 bytes");
                None
            }
        };
        errors.none_or_invalid()?;
        let (url, target) = parsed.map_err(|_| Error::Internal)?;
        Ok(Self { url, target, secret })
    }
}

/// Whether any address that the target has now is not of the public internet.
pub(super) async fn leads_inward(target: &Url) -> bool {
    let Some(host) = target.host() else {
        return true;
    };
    if let Some(inward) = is_inward_literal(&host) {
        return inward;
    }
    let Host::Domain(name) = host else {
        return true;
    };
    let port = target.port_or_known_default().unwrap_or(443);
    match tokio::time::timeout(RESOLVE_WITHIN, tokio::net::lookup_host((name, port))).await {
        Ok(Ok(mut addresses)) => addresses.any(|address| is_inward(address.ip())),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_of_our_own_network_are_known_in_every_spelling() {
        for url in [
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://169.254.169.254/latest",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[fd00::1]/",
            "https://100.64.0.1/",
            "https://localhost/",
            "https://hook.localhost./",
        ] {
            assert!(leads_inward(&target(url).unwrap()).await, "{url}");
        }
        for url in ["https://93.184.215.14/", "https://[2606:2800:21f::1]/", "https://no-such-name.invalid/"] {
            assert!(!leads_inward(&target(url).unwrap()).await, "{url}");
        }
    }
}
