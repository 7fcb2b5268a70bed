//! `issue-certificate` and `retry`: store the order with its job, and wait for a worker to place it.

use std::time::Duration;

use countersign_shared::model::certificate::KeyAlgorithm;
use countersign_shared::model::domain::DomainStatus;
use countersign_shared::model::ids::PublicId;
use countersign_shared::model::order::{Order, OrderOrigin, OrderState};
use countersign_shared::model::problem::ProblemCode;
use countersign_shared::store::domains::Domain;
use countersign_shared::store::jobs::{self, Lane};
use countersign_shared::store::orders::{self, NewOrder, of_domains};
use countersign_shared::store::{PgConnection, certificates, domains, presenter_configs};
use countersign_shared::telemetry::labels::PlaceOutcome;
use countersign_shared::telemetry::metrics;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::App;
use super::cancel::cancel;
use super::error::ApiError;
use super::wire::IssuanceStarted;
use crate::request_id::RequestId;

/// Without a notification the order is read again this often.
const REREAD: Duration = Duration::from_millis(250);

/// What a new order starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Issuance {
    /// A verified domain.
    First,
    /// A failed order.
    Retry,
}

pub(super) async fn run(
    app: &App,
    id: &PublicId,
    request_id: &RequestId,
    issuance: Issuance,
) -> Result<IssuanceStarted, ApiError> {
    // Subscribed before the order exists, so that no notification about it is missed.
    let mut moved = app.orders_moved.subscribe();
    let began = Instant::now();
    let wait_ends = began + app.place_wait;
    let (order_id, public_id) = accept(app, id, request_id, issuance).await?;
    while Instant::now() < wait_ends {
        // Not read before: nobody is so quick, and if somebody is, he has said so.
        order_moved(&mut moved, &public_id, wait_ends).await;
        // A re-read that fails is not the end of the wait: the order is stored and a worker may place it yet.
        if let Ok(Some(order)) = load(app, order_id).await
            && order.state != OrderState::Accepted
        {
            metrics::order_place_wait(came_of(&order), began.elapsed());
            return answer(app, &order);
        }
    }
    let (outcome, answer) = end_wait(app, order_id, request_id).await?;
    metrics::order_place_wait(outcome, began.elapsed());
    answer
}

/// Of an order that is no longer `accepted`.
fn came_of(order: &Order) -> PlaceOutcome {
    match order.state {
        OrderState::Failed => PlaceOutcome::Failed,
        OrderState::Cancelled => PlaceOutcome::Cancelled,
        _ => PlaceOutcome::Placed,
    }
}

/// One transaction: the certificate row to fill, the order, its job.
async fn accept(
    app: &App,
    id: &PublicId,
    request_id: &RequestId,
    issuance: Issuance,
) -> Result<(i64, PublicId), ApiError> {
    let mut tx = app.pool.begin().await?;
    let domain = domains::lock(&mut tx, id).await?.ok_or(ApiError::UNKNOWN_DOMAIN)?;
    let retry_of = match issuance {
        Issuance::First => check_verified(&domain).map(|()| None)?,
        Issuance::Retry => Some(order_to_retry(&mut tx, &domain).await?),
    };
    let abandoned = orders::lock_open_of_domain(&mut tx, domain.id).await?;
    if let Some(open) = abandoned {
        if !orders::place_by_is_over(&mut tx, open).await? {
            return Err(ApiError::BadRequest(format!(
                "an issuance for this domain is being started; its status is still {}",
                domain.status.as_str()
            )));
        }
        // Its caller is gone and no worker met it in time.
        cancel(&mut tx, open, ProblemCode::NotPlacedInTime, None, request_id).await?;
    }
    let certificate_id = PublicId::from_random(rand::random());
    let certificate =
        certificates::insert_requested(&mut tx, &certificate_id, domain.id, KeyAlgorithm::Rsa2048).await?;
    let order_public_id = PublicId::from_random(rand::random());
    let new = NewOrder {
        public_id: &order_public_id,
        domain_id: domain.id,
        certificate_id: certificate,
        origin: OrderOrigin::Challenge,
        published_by: presenter_configs::of_domain(&mut tx, domain.id, OrderOrigin::Challenge).await?,
        place_by_secs: Some(app.place_wait.as_secs_f64()),
        retry_of,
        actor: "api",
    };
    let order = orders::insert(&mut tx, &new).await?;
    jobs::enqueue(&mut tx, order, Lane::Waiting, &request_id.cause()).await?;
    tx.commit().await?;
    metrics::orders_cancelled(ProblemCode::NotPlacedInTime, abandoned.iter().len());
    tracing::info!(domain.id = %domain.public_id, order.id = %order_public_id, domain.name = %domain.name, "order accepted");
    Ok((order, order_public_id))
}

fn check_verified(domain: &Domain) -> Result<(), ApiError> {
    if domain.status == DomainStatus::Verified {
        return Ok(());
    }
    Err(ApiError::BadRequest(format!(
        "a certificate can be issued only for a verified domain; its status is {}",
        domain.status.as_str()
    )))
}

async fn order_to_retry(conn: &mut PgConnection, domain: &Domain) -> Result<i64, ApiError> {
    if domain.status != DomainStatus::Failed {
        return Err(ApiError::BadRequest(format!(
            "only a failed issuance can be retried; the domain's status is {}",
            domain.status.as_str()
        )));
    }
    let failure = of_domains::failures(conn, &[domain.id]).await?.remove(&domain.id);
    match failure {
        Some(failure) if failure.is_retryable() => Ok(failure.order_id),
        Some(failure) if failure.problem.code.retryable() => {
            Err(ApiError::BadRequest("the failed issuance is still being cleaned up; try again soon".to_owned()))
        }
        Some(failure) => Err(ApiError::BadRequest(format!("a retry cannot help: {}", failure.problem.detail))),
        None => Err(ApiError::BadRequest("there is no failed issuance to retry".to_owned())),
    }
}

async fn load(app: &App, order_id: i64) -> Result<Option<Order>, ApiError> {
    let mut conn = app.pool.acquire().await?;
    Ok(orders::load(&mut conn, order_id).await?)
}

/// Returns when this order is said to have moved, after [`REREAD`], or when the wait ends: a hint to read again, no more.
async fn order_moved(moved: &mut broadcast::Receiver<String>, order: &PublicId, wait_ends: Instant) {
    use broadcast::error::RecvError;
    let until = wait_ends.min(Instant::now() + REREAD);
    let said = async {
        loop {
            match moved.recv().await {
                Ok(id) if id == order.as_str() || id.is_empty() => return,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return,
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    };
    // Either way the caller reads again.
    let _ = tokio::time::timeout_at(until, said).await;
}

/// Nobody placed it in time: cancel it, unless somebody did at the last moment.
async fn end_wait(
    app: &App,
    order_id: i64,
    request_id: &RequestId,
) -> Result<(PlaceOutcome, Result<IssuanceStarted, ApiError>), ApiError> {
    let mut tx = app.pool.begin().await?;
    orders::lock(&mut tx, order_id).await?;
    let order = orders::load(&mut tx, order_id).await?.ok_or(ApiError::UNKNOWN_DOMAIN)?;
    if order.state != OrderState::Accepted {
        return Ok((came_of(&order), answer(app, &order)));
    }
    let reason = match jobs::last_run(&mut tx, order_id).await? {
        Some(run) if run.was_claimed => {
            match run.last_result.as_ref().and_then(|result| result["failure"]["detail"].as_str()) {
                Some(detail) => detail.to_owned(),
                None => "the certificate authority did not answer in time".to_owned(),
            }
        }
        _ => "no worker took it".to_owned(),
    };
    cancel(&mut tx, order_id, ProblemCode::NotPlacedInTime, Some(&reason), request_id).await?;
    tx.commit().await?;
    metrics::orders_cancelled(ProblemCode::NotPlacedInTime, 1);
    tracing::warn!(order.id = %order.public_id, domain.name = %order.domain_name, reason, "order not placed in time: cancelled");
    Ok((PlaceOutcome::TimedOut, Err(ApiError::Internal(format!("the order could not be placed: {reason}")))))
}

/// What became of an order that is no longer `accepted`.
fn answer(app: &App, order: &Order) -> Result<IssuanceStarted, ApiError> {
    match (order.state, order.authorizations.first(), &order.problem) {
        (OrderState::Failed, _, Some(problem)) => {
            Err(ApiError::Internal(format!("the order could not be placed: {}", problem.detail)))
        }
        (OrderState::Cancelled, _, Some(problem)) if problem.code != ProblemCode::DomainDeleted => {
            Err(ApiError::Internal(problem.detail.clone()))
        }
        (OrderState::Cancelled, ..) => Err(ApiError::UNKNOWN_DOMAIN),
        (_, Some(authorization), _) => Ok(IssuanceStarted::new(order, authorization, app.challenge_zone.as_ref())),
        (_, None, _) => Err(ApiError::Internal("the order was placed without a challenge".to_owned())),
    }
}
