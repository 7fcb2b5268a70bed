//! The deletion of a domain, by whichever surface: its open orders are cancelled and what they left at the CA is withdrawn.

use countersign_shared::model::problem::ProblemCode;
use countersign_shared::store::domains::{self, Domain};
use countersign_shared::store::events::{self, EventName};
use countersign_shared::store::{PgConnection, jobs, orders};
use countersign_shared::telemetry::metrics;

use super::cancel::cancel;
use super::error::ApiError;
use crate::request_id::RequestId;

/// In the caller's transaction, which holds the domain's lock. Says how many orders were cancelled: to be told to
/// [`count`] after the commit.
pub(crate) async fn delete(
    conn: &mut PgConnection,
    domain: &Domain,
    request_id: &RequestId,
) -> Result<usize, ApiError> {
    domains::mark_deleted(conn, domain.id).await?;
    let open = orders::lock_all_open_of_domain(conn, domain.id).await?;
    for &order_id in &open {
        cancel(conn, order_id, ProblemCode::DomainDeleted, None, request_id).await?;
    }
    for order_id in orders::reopen_clean_up(conn, domain.id).await? {
        jobs::wake(conn, order_id, &request_id.cause()).await?;
    }
    events::domain(conn, EventName::DomainDelete, domain.id).await?;
    Ok(open.len())
}

/// A deletion that cancelled so many orders is committed.
pub(crate) fn count(cancelled: usize) {
    metrics::orders_cancelled(ProblemCode::DomainDeleted, cancelled);
}
