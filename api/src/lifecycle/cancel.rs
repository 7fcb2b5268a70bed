//! The end of an open order from this side: deleted, or not placed while its caller waited.

use countersign_shared::model::problem::{OrderProblem, ProblemCode};
use countersign_shared::operator;
use countersign_shared::store::{PgConnection, orders};

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
    let order = orders::load(conn, order_id).await?;
    let order = order.ok_or_else(|| ApiError::Internal("the order could not be cancelled".to_owned()))?;
    let mut problem = OrderProblem::new(code, &order.domain_name);
    if let Some(because) = because {
        problem = problem.because(because);
    }
    Ok(operator::cancel(conn, order, problem, "api", request_id.as_str()).await?)
}
