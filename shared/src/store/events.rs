//! `events`: the outbox. An event is written in the transaction of its effect, with a delivery and a job for each webhook of
//! the account; an account without a webhook costs one look into an index.

use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use strum::IntoStaticStr;

use super::webhooks::Webhook;
use super::{StoreError, accounts, certificates, domains};
use crate::model::entries::{CertificateEntry, DomainEntry, WebhookEntry};

/// The contract's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
pub enum EventName {
    #[strum(serialize = "certificate.issue")]
    CertificateIssue,
    #[strum(serialize = "certificate.auto_renewal_failed")]
    CertificateAutoRenewalFailed,
    #[strum(serialize = "domain.create")]
    DomainCreate,
    #[strum(serialize = "domain.delete")]
    DomainDelete,
    #[strum(serialize = "webhook.create")]
    WebhookCreate,
    #[strum(serialize = "webhook.delete")]
    WebhookDelete,
}

/// Who did it.
#[derive(Clone, Copy)]
enum Actor {
    /// We, in the background.
    System,
    /// The account, by one of its clients.
    Account,
}

/// `name` says what became of it; a renewal that failed is told of the certificate that was to be renewed.
pub async fn certificate(conn: &mut PgConnection, name: EventName, certificate_id: i64) -> Result<(), StoreError> {
    let account_id = sqlx::query_scalar!(
        "SELECT d.account_id FROM certificates c JOIN domains d ON d.id = c.domain_id
         WHERE c.id = $1 AND EXISTS (
             SELECT FROM webhooks w
             WHERE w.account_id = d.account_id AND w.deleted_at IS NULL AND w.suppressed_at IS NULL)",
        certificate_id
    );
    let Some(account_id) = account_id.fetch_optional(&mut *conn).await? else {
        return Ok(());
    };
    let certificate = certificates::ordered::find_in_account(conn, account_id, certificate_id).await?;
    let Some(certificate) = certificate else {
        return Ok(());
    };
    let data = Data::Certificate(certificate.entry(account_id));
    write(conn, account_id, name, Actor::System, &data).await
}

/// `name` says whether it was registered or deleted.
pub async fn domain(conn: &mut PgConnection, name: EventName, domain_id: i64) -> Result<(), StoreError> {
    let account_id = sqlx::query_scalar!(
        "SELECT d.account_id FROM domains d
         WHERE d.id = $1 AND EXISTS (
             SELECT FROM webhooks w
             WHERE w.account_id = d.account_id AND w.deleted_at IS NULL AND w.suppressed_at IS NULL)",
        domain_id
    );
    let Some(account_id) = account_id.fetch_optional(&mut *conn).await? else {
        return Ok(());
    };
    let domain = domains::of_account::find_even_deleted(conn, account_id, domain_id).await?;
    let Some(domain) = domain else {
        return Ok(());
    };
    write(conn, account_id, name, Actor::Account, &Data::Domain(domain.into())).await
}

/// `name` says whether it was created, and then hears of itself, or deleted.
pub async fn webhook(
    conn: &mut PgConnection,
    name: EventName,
    account_id: i64,
    webhook: &Webhook,
) -> Result<(), StoreError> {
    write(conn, account_id, name, Actor::Account, &Data::Webhook(webhook.clone().into())).await
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Data {
    Certificate(CertificateEntry),
    Domain(DomainEntry),
    Webhook(WebhookEntry),
}

async fn write(
    conn: &mut PgConnection,
    account_id: i64,
    name: EventName,
    actor: Actor,
    data: &Data,
) -> Result<(), StoreError> {
    let Some(account) = accounts::find(conn, account_id).await? else {
        return Ok(());
    };
    let shown = if account.email.is_empty() { &account.name } else { &account.email };
    let actor = match actor {
        Actor::System => json!({ "id": "system", "entity": "dnsimple", "pretty": "Countersign" }),
        Actor::Account => json!({ "id": account_id.to_string(), "entity": "account", "pretty": shown }),
    };
    let name: &str = name.into();
    let payload: Value = json!({
        "name": name,
        "api_version": "v2",
        "data": data,
        "account": { "id": account_id, "display": account.name, "identifier": shown },
        "actor": actor,
    });
    sqlx::query!(
        "WITH receiver AS MATERIALIZED (
             SELECT id FROM webhooks WHERE account_id = $1 AND deleted_at IS NULL AND suppressed_at IS NULL
         ), event AS (
             INSERT INTO events (request_identifier, account_id, name, payload)
             SELECT made.id, $1, $2, $3 || jsonb_build_object('request_identifier', made.id)
             FROM (SELECT gen_random_uuid() AS id OFFSET 0) AS made WHERE EXISTS (SELECT FROM receiver)
             RETURNING id
         ), delivery AS (
             INSERT INTO deliveries (event_id, webhook_id) SELECT event.id, receiver.id FROM event, receiver RETURNING id
         )
         INSERT INTO jobs (kind, delivery_id, lane) SELECT 'deliver-event', id, 3 FROM delivery",
        account_id,
        name,
        payload
    )
    .execute(conn)
    .await?;
    Ok(())
}
