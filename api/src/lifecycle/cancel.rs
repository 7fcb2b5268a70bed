//! The end of an open order from this side: deleted, or not placed while its caller waited.

use countersign_shared::model::order::OrderEvent;
use countersign_shared::model::problem::{OrderProblem, ProblemCode};
use countersign_shared::store::{PgConnection, jobs, orders};

use super::error::ApiError;
use crate::request_id::RequestId;

/// Cancels an order whose row is locked, and wakes its job to clean up.
pub(super) async fn cancel(
    conn: &mut PgConnection,
    order_id: i64,
    code: ProblemCode,
    because: Option<&str>,
    request_id: &RequestId,
) -> Result<(), ApiError> {
    let unstorable = || ApiError::Internal("the order could not be cancelled".to_owned());
    let order = orders::load(conn, order_id).await?.ok_or_else(unstorable)?;
    let mut problem = OrderProblem::new(code, &order.domain_name);
    if let Some(because) = because {
        problem = problem.because(because);
    }
    let event = OrderEvent::Cancelled { at: orders::now(conn).await?, problem };
    let after = order.apply(&event).map_err(|_| unstorable())?;
    if !orders::record(conn, &after, &event, "api").await? {
        return Err(unstorable());
    }
    Ok(jobs::wake_for_clean_up(conn, order_id, request_id.as_str()).await?)
}
