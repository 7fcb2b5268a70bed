//! `authorizations`: the CA's authorizations of an order, one per name, and what they proved about a domain.

use std::collections::HashMap;

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::StoreError;
use crate::model::order::{Authorization, Order};
use crate::model::presenter::PublishedBy;

/// Those of each of these orders, by name.
pub async fn of_orders(
    conn: &mut PgConnection,
    order_ids: &[i64],
) -> Result<HashMap<i64, Vec<Authorization>>, StoreError> {
    let rows = sqlx::query!(
        "SELECT order_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at
         FROM authorizations WHERE order_id = ANY((SELECT $1::bigint[])::bigint[]) ORDER BY identifier, wildcard",
        order_ids
    )
    .fetch_all(conn)
    .await?;
    let mut of_orders: HashMap<i64, Vec<Authorization>> = HashMap::new();
    for row in rows {
        of_orders.entry(row.order_id).or_default().push(Authorization {
            identifier: row.identifier,
            wildcard: row.wildcard,
            url: row.url,
            challenge_url: row.challenge_url,
            token: row.token,
            txt_value: row.txt_value,
            proved_at: row.proved_at,
        });
    }
    Ok(of_orders)
}

/// Stores those of an order that was placed.
pub async fn insert(conn: &mut PgConnection, order: &Order) -> Result<(), StoreError> {
    for one in &order.authorizations {
        sqlx::query!(
            "INSERT INTO authorizations (order_id, domain_id, identifier, wildcard, url, challenge_url, token, txt_value, proved_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            order.id,
            order.domain_id,
            one.identifier,
            one.wildcard,
            one.url,
            one.challenge_url,
            one.token,
            one.txt_value,
            one.proved_at
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// The CA found them valid.
pub async fn mark_proved(conn: &mut PgConnection, order_id: i64, at: OffsetDateTime) -> Result<(), StoreError> {
    sqlx::query!("UPDATE authorizations SET proved_at = $2 WHERE order_id = $1 AND proved_at IS NULL", order_id, at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether this domain row itself passed dns-01 for the identifier since it was registered.
pub async fn domain_proved(conn: &mut PgConnection, domain_id: i64, identifier: &str) -> Result<bool, StoreError> {
    let proved = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM authorizations WHERE domain_id = $1 AND identifier = $2 AND proved_at IS NOT NULL) AS "proved!""#,
        domain_id,
        identifier
    )
    .fetch_one(conn)
    .await?;
    Ok(proved)
}

/// Whether clean-up is about to deactivate this authorization: an order that had it was cancelled.
pub async fn is_to_be_deactivated(conn: &mut PgConnection, url: &str) -> Result<bool, StoreError> {
    let is = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM authorizations a JOIN orders o ON o.id = a.order_id
               WHERE a.url = $1 AND o.state = 'cancelled' AND o.cleaned_up_at IS NULL) AS "is!""#,
        url
    )
    .fetch_one(conn)
    .await?;
    Ok(is)
}

/// Whether the CA gave this authorization to another domain row before: what becomes of it proves nothing about this one.
pub async fn was_anothers(conn: &mut PgConnection, url: &str, domain_id: i64) -> Result<bool, StoreError> {
    let was = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM authorizations WHERE url = $1 AND domain_id <> $2) AS "was!""#,
        url,
        domain_id
    )
    .fetch_one(conn)
    .await?;
    Ok(was)
}

/// The TXT values that other open orders need at the record of an identifier, where presenters publish them.
pub async fn values_of_others(
    conn: &mut PgConnection,
    identifier: &str,
    order_id: i64,
) -> Result<Vec<String>, StoreError> {
    let values = sqlx::query_scalar!(
        "SELECT DISTINCT a.txt_value FROM authorizations a JOIN orders o ON o.id = a.order_id
         WHERE a.identifier = $1 AND o.id <> $2 AND o.ended_at IS NULL
           AND o.presenter NOT IN ('manual', 'delegated')",
        identifier,
        order_id
    )
    .fetch_all(conn)
    .await?;
    Ok(values)
}

/// Who wrote this value at the record of an identifier, for this order and for others of its domain: where two orders
/// share a value, each with settings of its own, the last one to end removes it everywhere.
pub async fn written_by(
    conn: &mut PgConnection,
    order: &Order,
    identifier: &str,
    txt_value: &str,
) -> Result<Vec<PublishedBy>, StoreError> {
    let rows = sqlx::query!(
        "SELECT DISTINCT o.presenter, o.presenter_config_id FROM authorizations a JOIN orders o ON o.id = a.order_id
         WHERE a.identifier = $1 AND a.txt_value = $2 AND o.domain_id = $3 AND o.presenter NOT IN ('manual', 'delegated')",
        identifier,
        txt_value,
        order.domain_id
    )
    .fetch_all(conn)
    .await?;
    let parsed = rows.into_iter().map(|row| {
        let presenter = row.presenter.parse().map_err(|_| StoreError::Corrupt { column: "orders.presenter" })?;
        Ok(PublishedBy { presenter, config_id: row.presenter_config_id })
    });
    parsed.collect()
}
