//! `order_events`: what happened to an order, for people.

use sqlx::PgConnection;

use super::StoreError;
use crate::model::order::OrderState;

/// An event that changed the order. `detail` is shown to operators: never a secret.
pub async fn insert(
    conn: &mut PgConnection,
    order_id: i64,
    event: &str,
    state: OrderState,
    actor: &str,
    detail: Option<serde_json::Value>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO order_events (order_id, event, state, actor, detail) VALUES ($1, $2, $3, $4, $5)",
        order_id,
        event,
        state.as_str(),
        actor,
        detail
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Something that changed nothing of the order, such as a worker's end or a failure that counts.
pub async fn tell(
    conn: &mut PgConnection,
    order_id: i64,
    event: &str,
    actor: &str,
    detail: serde_json::Value,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO order_events (order_id, event, state, actor, detail)
         SELECT id, $2, state, $3, $4 FROM orders WHERE id = $1",
        order_id,
        event,
        actor,
        detail
    )
    .execute(conn)
    .await?;
    Ok(())
}
