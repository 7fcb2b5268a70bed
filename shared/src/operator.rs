//! What an operator does to orders and jobs, whichever door it came through: the command line or the operators' listener.
//!
//! Every function works inside the caller's transaction and answers with what it did or why it did not.

use serde::Serialize;

use crate::model::certificate::KeyAlgorithm;
use crate::model::domain::DomainStatus;
use crate::model::ids::PublicId;
use crate::model::order::{Order, OrderEvent, OrderOrigin, OrderState};
use crate::model::problem::{OrderProblem, ProblemCode};
use crate::store::jobs::{self, Lane, overview};
use crate::store::orders::{self, NewOrder};
use crate::store::{PgConnection, StoreError, certificates, domains, presenter_configs};
use crate::telemetry::spans;

/// Who is named in an order's timeline.
const ACTOR: &str = "operator";

/// What became of one order or job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Deed {
    /// A new order stands in for it.
    NewOrder {
        new_order_id: String,
    },
    /// Its job is due now, with all attempts before it.
    Due,
    /// What was left of its clean-up is due now. There is no new order, for this reason.
    CleanUp {
        reason: String,
    },
    Cancelled,
    Parked,
    /// Its state does not allow it, and nothing was changed.
    Refused {
        reason: String,
    },
    NotFound,
}

/// Random ids for the rows of a new order; the caller brings the randomness.
pub struct NewIds {
    pub order: PublicId,
    pub certificate: PublicId,
}

impl Deed {
    /// Whether what was asked for cannot be done.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::NotFound)
    }

    fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into() }
    }
}

/// Tries again, by whatever way is open: an open order's job becomes due now; an order that has ended without a certificate
/// gets a new one in its place, if it is the newest of its domain. A parked job is un-parked, so that its clean-up goes on.
///
/// `new` are the ids of the new order, if there is one. `request_id` is logged with what follows.
pub async fn retry_order(
    conn: &mut PgConnection,
    id: &PublicId,
    new: &NewIds,
    request_id: &str,
) -> Result<Deed, StoreError> {
    let Some((domain, order)) = lock(conn, id).await? else {
        return Ok(Deed::NotFound);
    };
    if order.state.is_open() {
        jobs::wake(conn, order.id, &spans::cause(request_id)).await?;
        return Ok(Deed::Due);
    }
    // Whatever else is refused: what is left of the old order must not stay so.
    let cleans_up = order.cleaned_up_at.is_none();
    if cleans_up {
        jobs::wake(conn, order.id, &spans::cause(request_id)).await?;
    }
    let in_vain = |reason: &str| {
        let reason = reason.to_owned();
        Ok(if cleans_up { Deed::CleanUp { reason } } else { Deed::Refused { reason } })
    };
    if order.state == OrderState::Issued {
        return in_vain("it is issued");
    }
    let Some(domain) = domain else {
        return in_vain("its domain is deleted");
    };
    if order.origin != OrderOrigin::Challenge {
        return in_vain("its certificate has failed for good; its client has to order another");
    }
    match orders::newest_of_domain(conn, order.domain_id).await? {
        Some((newest, _)) if newest == order.id => {}
        Some((_, newest)) => return in_vain(&format!("order {newest} of the same domain is newer")),
        None => return in_vain("it is gone"),
    }
    if !matches!(domain.status, DomainStatus::Verified | DomainStatus::Failed) {
        return in_vain(&format!("its domain is {}", domain.status.as_str()));
    }
    let certificate_id =
        certificates::insert_requested(conn, &new.certificate, domain.id, KeyAlgorithm::Rsa2048).await?;
    let new_order = NewOrder {
        public_id: &new.order,
        domain_id: domain.id,
        certificate_id,
        origin: OrderOrigin::Challenge,
        published_by: presenter_configs::of_domain(conn, domain.id, OrderOrigin::Challenge).await?,
        place_by_secs: None,
        retry_of: Some(order.id),
        actor: ACTOR,
    };
    let new_order = orders::insert(conn, &new_order).await?;
    // Not in the lane of those who wait: nobody does, and there may be thousands.
    jobs::enqueue(conn, new_order, Lane::Orders, &spans::cause(request_id)).await?;
    Ok(Deed::NewOrder { new_order_id: new.order.to_string() })
}

/// Cancels an open order. If it was placed, its domain becomes `failed`, and the customer may retry.
pub async fn cancel_order(conn: &mut PgConnection, id: &PublicId, request_id: &str) -> Result<Deed, StoreError> {
    let Some((_, order)) = lock(conn, id).await? else {
        return Ok(Deed::NotFound);
    };
    if !order.state.is_open() {
        return Ok(Deed::refused(format!("it is {}", order.state.as_str())));
    }
    let problem = OrderProblem::new(ProblemCode::CancelledByOperator, &order.domain_name);
    cancel(conn, order, problem, ACTOR, request_id).await?;
    Ok(Deed::Cancelled)
}

/// Cancels an open order whose row is locked, and wakes its job to clean up. `actor` is named in the timeline. Who commits
/// it counts it: `metrics::orders_cancelled`.
pub async fn cancel(
    conn: &mut PgConnection,
    order: Order,
    problem: OrderProblem,
    actor: &str,
    request_id: &str,
) -> Result<(), StoreError> {
    let event = OrderEvent::Cancelled { at: orders::now(conn).await?, problem };
    let corrupt = StoreError::Corrupt { column: "orders.state" };
    let Ok(after) = order.apply(&event) else {
        return Err(corrupt);
    };
    if !orders::record(conn, &after, &event, actor).await? {
        return Err(corrupt);
    }
    jobs::wake(conn, after.id, &spans::cause(request_id)).await
}

/// Makes one job due now, parked or not.
pub async fn retry_job(conn: &mut PgConnection, id: i64) -> Result<Deed, StoreError> {
    let retried = retry_jobs(conn, &[id]).await?;
    Ok(if retried.is_empty() { Deed::NotFound } else { Deed::Due })
}

/// The same for many, in one statement. Returns the ids of those that exist.
pub async fn retry_jobs(conn: &mut PgConnection, ids: &[i64]) -> Result<Vec<i64>, StoreError> {
    overview::retry(conn, ids).await
}

/// Stops one job until it is retried. A run that is under way loses its outcome.
pub async fn park_job(conn: &mut PgConnection, id: i64) -> Result<Deed, StoreError> {
    if overview::park(conn, id).await? {
        return Ok(Deed::Parked);
    }
    Ok(match overview::find(conn, id).await? {
        Some(_) => Deed::refused("it is parked already"),
        None => Deed::NotFound,
    })
}

/// Locks domain and order, in that order; the domain is None when it was deleted.
async fn lock(conn: &mut PgConnection, id: &PublicId) -> Result<Option<(Option<domains::Domain>, Order)>, StoreError> {
    let Some((order_id, domain_id)) = orders::find(conn, id).await? else {
        return Ok(None);
    };
    let domain = domains::lock_live(conn, domain_id).await?;
    orders::lock(conn, order_id).await?;
    Ok(orders::load(conn, order_id).await?.map(|order| (domain, order)))
}
