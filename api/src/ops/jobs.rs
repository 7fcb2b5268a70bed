//! Jobs, on the operators' listener.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use countersign_shared::model::filter::{DEFAULT_LIMIT, JobFilter, MOST};
use countersign_shared::operator;
use countersign_shared::store::Pool;
use countersign_shared::store::jobs::overview::{self, JobLine};
use serde::{Deserialize, Serialize};

use super::{Done, answer, bad_query};
use crate::json;
use crate::lifecycle::error::ApiError;
use crate::limits::Received;

const UNKNOWN: &str = "job not found";

#[derive(Serialize)]
pub(super) struct JobList {
    jobs: Vec<JobLine>,
    /// `after` of the next page; null at the end.
    next_after: Option<i64>,
}

/// `GET /jobs`: in the order of their ids. The query is a [`JobFilter`].
pub(super) async fn list(
    State(pool): State<Arc<Pool>>,
    filter: Result<Query<JobFilter>, QueryRejection>,
) -> Result<Json<JobList>, ApiError> {
    let Query(filter) = filter.map_err(|rejection| bad_query(&rejection))?;
    let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
    let mut conn = pool.acquire().await?;
    // One more than the page holds tells whether another page follows.
    let mut jobs = overview::list(&mut conn, &filter, limit + 1).await?;
    let is_last = jobs.len() <= usize::from(limit);
    jobs.truncate(limit.into());
    let next_after = jobs.last().filter(|_| !is_last).map(|last| last.id);
    Ok(Json(JobList { jobs, next_after }))
}

/// `POST /jobs/{id}/retry`: due now, parked or not, with all attempts before it.
pub(super) async fn retry(
    State(pool): State<Arc<Pool>>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Done<i64>>), ApiError> {
    let id: i64 = id.parse().map_err(|_| ApiError::NotFound(UNKNOWN))?;
    let mut conn = pool.acquire().await?;
    let deed = operator::retry_job(&mut conn, id).await?;
    tracing::info!(job.id = id, ?deed, "an operator retried a job");
    answer(id, deed, UNKNOWN)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryMany {
    filter: JobFilter,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Serialize)]
pub(super) struct RetriedMany {
    dry_run: bool,
    /// What was retried, or would be.
    job_ids: Vec<i64>,
    /// `filter.after` of the rest; null when that was all.
    next_after: Option<i64>,
}

/// `POST /jobs/retry` with `{"filter": {…}, "dry_run": …}`: every job that a [`JobFilter`] selects, at most 1000 at a time. A
/// filter without a condition is refused.
pub(super) async fn retry_many(
    State(pool): State<Arc<Pool>>,
    headers: HeaderMap,
    body: Received,
) -> Result<Json<RetriedMany>, ApiError> {
    let RetryMany { filter, dry_run } = json::read_explained(&headers, &body)?;
    if filter.is_empty() {
        let text = "the filter must have a condition: state, kind, lane, worker, domain or failing";
        return Err(ApiError::BadRequest(text.to_owned()));
    }
    let limit = filter.limit.unwrap_or(MOST);
    let mut tx = pool.begin().await?;
    let jobs = overview::list(&mut tx, &filter, limit + 1).await?;
    let mut job_ids: Vec<i64> = jobs.iter().map(|job| job.id).collect();
    let is_all = job_ids.len() <= usize::from(limit);
    job_ids.truncate(limit.into());
    let next_after = job_ids.last().copied().filter(|_| !is_all);
    if !dry_run {
        job_ids = operator::retry_jobs(&mut tx, &job_ids).await?;
        tx.commit().await?;
        tracing::info!(jobs = job_ids.len(), ?filter, "an operator retried jobs");
    }
    Ok(Json(RetriedMany { dry_run, job_ids, next_after }))
}
