//! Orders, on the operators' listener.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use countersign_shared::model::filter::{DEFAULT_LIMIT, OrderFilter};
use countersign_shared::model::ids::PublicId;
use countersign_shared::operator::{self, NewIds};
use countersign_shared::store::Pool;
use countersign_shared::store::orders::overview::{self, OrderLine, OrderStory};
use serde::Serialize;

use super::{Done, answer, bad_query};
use crate::lifecycle::error::ApiError;
use crate::request_id::RequestId;

const UNKNOWN: &str = "order not found";

#[derive(Serialize)]
pub(super) struct OrderList {
    orders: Vec<OrderLine>,
    /// `before` of the next page; null at the end.
    next_before: Option<String>,
}

/// `GET /orders`: newest first. The query is an [`OrderFilter`].
pub(super) async fn list(
    State(pool): State<Arc<Pool>>,
    filter: Result<Query<OrderFilter>, QueryRejection>,
) -> Result<Json<OrderList>, ApiError> {
    let Query(filter) = filter.map_err(|rejection| bad_query(&rejection))?;
    let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
    let mut conn = pool.acquire().await?;
    // One more than the page holds tells whether another page follows.
    let mut orders = overview::list(&mut conn, &filter, limit + 1).await?;
    let is_last = orders.len() <= usize::from(limit);
    orders.truncate(limit.into());
    let next_before = orders.last().filter(|_| !is_last).map(|last| last.id.clone());
    Ok(Json(OrderList { orders, next_before }))
}

/// `GET /orders/{id}`: all that is known of it, with its timeline.
pub(super) async fn show(State(pool): State<Arc<Pool>>, Path(id): Path<String>) -> Result<Json<OrderStory>, ApiError> {
    let id = PublicId::parse(&id).ok_or(ApiError::NotFound(UNKNOWN))?;
    let mut conn = pool.acquire().await?;
    overview::story(&mut conn, &id).await?.map(Json).ok_or(ApiError::NotFound(UNKNOWN))
}

/// `POST /orders/{id}/retry`: as [`operator::retry_order`].
pub(super) async fn retry(
    State(pool): State<Arc<Pool>>,
    Path(id): Path<String>,
    request_id: RequestId,
) -> Result<(StatusCode, Json<Done<String>>), ApiError> {
    let public_id = PublicId::parse(&id).ok_or(ApiError::NotFound(UNKNOWN))?;
    let new =
        NewIds { order: PublicId::from_random(rand::random()), certificate: PublicId::from_random(rand::random()) };
    let mut tx = pool.begin().await?;
    let deed = operator::retry_order(&mut tx, &public_id, &new, request_id.as_str()).await?;
    tx.commit().await?;
    tracing::info!(order.id = id, ?deed, "an operator retried an order");
    answer(id, deed, UNKNOWN)
}
