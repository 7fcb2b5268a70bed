//! `orders`: the truth that jobs only point at.

mod load;
pub mod of_domains;
pub mod overview;
pub mod purge;

pub use load::{load, load_all};
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::events::{self, EventName};
use super::{StoreError, authorizations, certificates, delegations, domains, notifications, order_events, renewals};
use crate::model::domain::DomainStatus;
use crate::model::ids::PublicId;
use crate::model::order::{Order, OrderEvent, OrderOrigin, OrderState};
use crate::model::presenter::PublishedBy;
use crate::model::problem::OrderProblem;

/// Unique index: one open order per domain for `/domains`.
pub const ONE_OPEN_PER_DOMAIN: &str = "orders_one_open_per_domain";
/// Unique index: a CA's order belongs to one open order of ours.
pub const ACME_URL_OPEN_KEY: &str = "orders_acme_url_open_key";

pub struct NewOrder<'a> {
    pub public_id: &'a PublicId,
    pub domain_id: i64,
    pub certificate_id: i64,
    pub origin: OrderOrigin,
    pub published_by: PublishedBy,
    /// How long a caller waits for it to be placed; None when nobody does.
    pub place_by_secs: Option<f64>,
    /// The ended order that it stands in for.
    pub retry_of: Option<i64>,
    /// Who asked for it.
    pub actor: &'a str,
}

/// An order, `accepted`, and its first event. Returns the internal key, for its job.
///
/// A domain with an open order is a conflict on [`ONE_OPEN_PER_DOMAIN`].
pub async fn insert(conn: &mut PgConnection, new: &NewOrder<'_>) -> Result<i64, StoreError> {
    let id = sqlx::query_scalar!(
        "INSERT INTO orders (public_id, domain_id, certificate_id, origin, presenter, presenter_config_id, place_by, retry_of)
         VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7), $8) RETURNING id",
        new.public_id.as_str(),
        new.domain_id,
        new.certificate_id,
        <&str>::from(new.origin),
        new.published_by.presenter.as_str(),
        new.published_by.config_id,
        new.place_by_secs,
        new.retry_of
    )
    .fetch_one(&mut *conn)
    .await?;
    order_events::insert(conn, id, "accepted", OrderState::Accepted, new.actor, None).await?;
    Ok(id)
}

/// Records `event`, which led to `after`, unless somebody changed the order since it was loaded: false then, and the
/// caller rolls back. Locks the domain row, then the order row; the caller goes on with the job row.
pub async fn record(
    conn: &mut PgConnection,
    after: &Order,
    event: &OrderEvent,
    actor: &str,
) -> Result<bool, StoreError> {
    let to_status = domain_status_after(after, event);
    let is_delegated = match event {
        OrderEvent::Seen { is_delegated, .. } => *is_delegated,
        OrderEvent::DelegationLost => Some(false),
        _ => None,
    };
    if to_status.is_some() || is_delegated.is_some() {
        domains::lock_by_key(conn, after.domain_id).await?;
    }
    let problem = after.problem.as_ref().map(to_json);
    let placement = after.placement.as_ref();
    let recorded = sqlx::query!(
        "UPDATE orders SET state = $3, revision = revision + 1, directory = $4, acme_url = $5, placed_at = $6,
             deadline_at = $7, seen_at = $8, ended_at = $9, cleaned_up_at = $10, problem = $11, updated_at = now()
         WHERE id = $1 AND revision = $2",
        after.id,
        after.revision - 1,
        after.state.as_str(),
        placement.map(|p| p.directory.as_str()),
        placement.map(|p| p.acme_url.as_str()),
        placement.map(|p| p.placed_at),
        placement.map(|p| p.deadline_at),
        after.seen_at,
        after.ended_at,
        after.cleaned_up_at,
        problem
    )
    .execute(&mut *conn)
    .await?;
    if recorded.rows_affected() == 0 {
        return Ok(false);
    }
    let first_of_its_kind = match event {
        OrderEvent::Placed { .. } => {
            authorizations::insert(conn, after).await?;
            true
        }
        OrderEvent::Authorized { at } => {
            authorizations::mark_proved(conn, after.id, *at).await?;
            true
        }
        OrderEvent::Prepared(key) => certificates::store_key(conn, after.certificate_id, key).await?,
        OrderEvent::Issued { at, certificate } => {
            certificates::store_issued(conn, after.certificate_id, *at, certificate).await?
        }
        OrderEvent::GaveUp { .. } | OrderEvent::Cancelled { .. } => {
            certificates::end_unissued(conn, after.certificate_id, after.state.as_str()).await?;
            true
        }
        _ => true,
    };
    if let Some(is_delegated) = is_delegated {
        domains::mark_delegated(conn, after.domain_id, is_delegated).await?;
    }
    if !first_of_its_kind {
        // The order has not changed, its certificate has: no step can mend that.
        return Err(StoreError::Corrupt { column: "certificates.state" });
    }
    if after.origin == OrderOrigin::Renewal && !matches!(event, OrderEvent::CleanedUp { .. }) {
        renewals::end(conn, after.certificate_id, after.state).await?;
    }
    if let Some(status) = to_status {
        domains::move_status(conn, after.domain_id, status).await?;
    }
    order_events::insert(conn, after.id, event.name(), after.state, actor, event_detail(event)).await?;
    if matches!(event, OrderEvent::Issued { .. }) {
        if after.origin == OrderOrigin::Challenge {
            renewals::due::supersede(conn, after.domain_id, after.certificate_id).await?;
        }
        events::certificate(conn, EventName::CertificateIssue, after.certificate_id).await?;
    }
    if matches!(event, OrderEvent::Placed { .. } | OrderEvent::CleanedUp { .. }) {
        delegations::notify(conn, &after.delegation_label).await?;
    }
    if matches!(event, OrderEvent::Placed { .. } | OrderEvent::GaveUp { .. } | OrderEvent::Cancelled { .. }) {
        sqlx::query!("SELECT pg_notify($1, $2)", notifications::ORDERS, after.public_id.as_str()).execute(conn).await?;
    }
    Ok(true)
}

/// An order that ends before it was placed never changes the domain's status, and one of `/v2` never does.
fn domain_status_after(after: &Order, event: &OrderEvent) -> Option<DomainStatus> {
    if after.origin != OrderOrigin::Challenge {
        return None;
    }
    match event {
        OrderEvent::Placed { .. } => Some(DomainStatus::CertificatePending),
        OrderEvent::Issued { .. } => Some(DomainStatus::Active),
        OrderEvent::GaveUp { .. } | OrderEvent::Cancelled { .. } if after.placement.is_some() => {
            Some(DomainStatus::Failed)
        }
        _ => None,
    }
}

/// What a person wants to know of an event. Never a key, never a chain.
fn event_detail(event: &OrderEvent) -> Option<serde_json::Value> {
    match event {
        OrderEvent::Placed { placement, .. } => Some(serde_json::json!({ "acme_url": placement.acme_url })),
        OrderEvent::Issued { certificate, .. } => Some(serde_json::json!({
            "serial_number": certificate.serial_number,
            "fingerprint_sha256": certificate.fingerprint_sha256,
            "issuer": certificate.issuer,
        })),
        OrderEvent::GaveUp { problem, .. } | OrderEvent::Cancelled { problem, .. } => Some(to_json(problem)),
        OrderEvent::CleanedUp { finding: Some(finding), .. } => Some(serde_json::json!({ "finding": finding })),
        _ => None,
    }
}

/// Another order of ours that the CA's order URL belongs, or belonged, to.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    pub is_open: bool,
    pub domain_id: i64,
    /// A CSR may have been sent for it.
    pub has_csr: bool,
}

/// Who else holds `acme_url`: an open order first, otherwise the newest ended one.
pub async fn holder(conn: &mut PgConnection, acme_url: &str, but_not: i64) -> Result<Option<Holder>, StoreError> {
    let holder = sqlx::query_as!(
        Holder,
        r#"SELECT o.ended_at IS NULL AS "is_open!", o.domain_id, c.csr IS NOT NULL AS "has_csr!"
           FROM orders o JOIN certificates c ON c.id = o.certificate_id
           WHERE o.acme_url = $1 AND o.id <> $2
           ORDER BY o.ended_at IS NULL DESC, c.csr IS NOT NULL DESC, o.id DESC LIMIT 1"#,
        acme_url,
        but_not
    )
    .fetch_optional(conn)
    .await?;
    Ok(holder)
}

/// The CA's order of the order with the key `retried`, if that failed and no CSR was made for it. What a cancelled one had there is given up.
pub async fn retried_acme_url(
    conn: &mut PgConnection,
    retried: i64,
    directory: &str,
) -> Result<Option<String>, StoreError> {
    let url = sqlx::query_scalar!(
        r#"SELECT o.acme_url AS "acme_url!" FROM orders o JOIN certificates c ON c.id = o.certificate_id
           WHERE o.id = $1 AND o.state = 'failed' AND o.acme_url IS NOT NULL AND o.directory = $2 AND c.csr IS NULL"#,
        retried,
        directory
    )
    .fetch_optional(conn)
    .await?;
    Ok(url)
}

/// Internal key of the domain's open order of `/domains`, its row locked. None when there is none.
pub async fn lock_open_of_domain(conn: &mut PgConnection, domain_id: i64) -> Result<Option<i64>, StoreError> {
    let id = sqlx::query_scalar!(
        "SELECT id FROM orders
         WHERE domain_id = $1 AND origin = 'challenge' AND ended_at IS NULL FOR UPDATE",
        domain_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(id)
}

/// Internal keys of all open orders of a domain, their rows locked.
pub async fn lock_all_open_of_domain(conn: &mut PgConnection, domain_id: i64) -> Result<Vec<i64>, StoreError> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM orders WHERE domain_id = $1 AND ended_at IS NULL
         ORDER BY id FOR UPDATE",
        domain_id
    )
    .fetch_all(conn)
    .await?;
    Ok(ids)
}

/// The database's time, for events that are made outside a run.
pub async fn now(conn: &mut PgConnection) -> Result<OffsetDateTime, StoreError> {
    Ok(sqlx::query_scalar!(r#"SELECT now() AS "now!""#).fetch_one(conn).await?)
}

/// Internal keys of an order and of its domain.
pub async fn find(conn: &mut PgConnection, public_id: &PublicId) -> Result<Option<(i64, i64)>, StoreError> {
    let row = sqlx::query!("SELECT id, domain_id FROM orders WHERE public_id = $1", public_id.as_str())
        .fetch_optional(conn)
        .await?;
    Ok(row.map(|row| (row.id, row.domain_id)))
}

/// The newest order of a domain by `/domains`, in whatever state.
pub async fn newest_of_domain(conn: &mut PgConnection, domain_id: i64) -> Result<Option<(i64, PublicId)>, StoreError> {
    let row = sqlx::query!(
        "SELECT id, public_id FROM orders WHERE domain_id = $1 AND origin = 'challenge' ORDER BY id DESC LIMIT 1",
        domain_id
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        let public_id = PublicId::parse(&row.public_id).ok_or(StoreError::Corrupt { column: "orders.public_id" })?;
        Ok((row.id, public_id))
    })
    .transpose()
}

/// Locks an order's row. Locks of domain rows come before, of job rows after.
pub async fn lock(conn: &mut PgConnection, id: i64) -> Result<(), StoreError> {
    sqlx::query!("SELECT id FROM orders WHERE id = $1 FOR UPDATE", id).fetch_optional(conn).await?;
    Ok(())
}

/// Whether nobody waits for this order to be placed: the wait is over by the database's clock, or there was none.
pub async fn place_by_is_over(conn: &mut PgConnection, id: i64) -> Result<bool, StoreError> {
    let over = sqlx::query_scalar!(
        r#"SELECT state = 'accepted' AND (place_by IS NULL OR place_by < now()) AS "over!" FROM orders WHERE id = $1"#,
        id
    )
    .fetch_optional(conn)
    .await?;
    Ok(over.unwrap_or(false))
}

/// The ended orders of a deleted domain that may have left live authorizations at the CA: their clean-up starts
/// again. Returns their internal keys. Authorizations outlive no CA's limit of 90 days.
pub async fn reopen_clean_up(conn: &mut PgConnection, domain_id: i64) -> Result<Vec<i64>, StoreError> {
    let ids = sqlx::query_scalar!(
        "UPDATE orders SET cleaned_up_at = NULL, revision = revision + 1, updated_at = now()
         WHERE domain_id = $1 AND state IN ('issued', 'failed', 'cancelled') AND acme_url IS NOT NULL
           AND ended_at > now() - interval '90 days'
         RETURNING id",
        domain_id
    )
    .fetch_all(conn)
    .await?;
    Ok(ids)
}

fn parse_state(text: &str) -> Result<OrderState, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt { column: "orders.state" })
}

fn parse_problem(json: serde_json::Value) -> Result<OrderProblem, StoreError> {
    serde_json::from_value(json).map_err(|_| StoreError::Corrupt { column: "orders.problem" })
}

fn to_json(problem: &OrderProblem) -> serde_json::Value {
    serde_json::to_value(problem).expect("a problem has string keys only")
}
