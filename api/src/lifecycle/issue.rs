//! `POST /domains/{id}/issue-certificate`: stores the order with its job, and waits for a worker to place it.

use std::time::Duration;

use countersign_shared::model::certificate::KeyAlgorithm;
use countersign_shared::model::challenge::{challenge_domain, issuance_instructions};
use countersign_shared::model::domain::DomainStatus;
use countersign_shared::model::ids::PublicId;
use countersign_shared::model::order::{Order, OrderEvent, OrderState};
use countersign_shared::model::problem::{OrderProblem, ProblemCode};
use countersign_shared::store::{StoreError, certificates, domains, jobs, orders};
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::App;
use super::error::ApiError;
use super::handlers::cancel;
use super::wire::IssuanceStarted;
use crate::request_id::RequestId;

/// Without a notification the order is read again this often.
const REREAD: Duration = Duration::from_millis(100);

pub(super) async fn run(app: &App, id: &PublicId, request_id: &RequestId) -> Result<IssuanceStarted, ApiError> {
    // Subscribed before the order exists, so that no notification about it is missed.
    let mut moved = app.orders_moved.subscribe();
    let wait_ends = Instant::now() + app.place_wait;
    let order_id = accept(app, id, request_id).await?;
    while Instant::now() < wait_ends {
        // A re-read that fails is not the end of the wait: the order is stored and a worker may place it yet.
        if let Ok(Some(order)) = load(app, order_id).await
            && order.state != OrderState::Accepted
        {
            return answer(&order);
        }
        something_moved(&mut moved, wait_ends).await;
    }
    end_wait(app, order_id).await
}

/// One transaction: the certificate row to fill, the order, its job.
async fn accept(app: &App, id: &PublicId, request_id: &RequestId) -> Result<i64, ApiError> {
    let mut tx = app.pool.begin().await.map_err(StoreError::from)?;
    let domain = domains::lock(&mut tx, id).await?.ok_or(ApiError::UNKNOWN_DOMAIN)?;
    if domain.status != DomainStatus::Verified {
        return Err(ApiError::BadRequest(format!(
            "a certificate can be issued only for a verified domain; its status is {}",
            domain.status.as_str()
        )));
    }
    if let Some(open) = orders::lock_open_of_domain(&mut tx, domain.id).await? {
        if !orders::place_by_is_over(&mut tx, open).await? {
            return Err(ApiError::BadRequest(
                "an issuance for this domain is being started; its status is still verified".to_owned(),
            ));
        }
        // Its caller is gone and no worker met it in time.
        cancel(&mut tx, open, |at, name| OrderEvent::Cancelled {
            at,
            problem: OrderProblem::new(ProblemCode::NotPlacedInTime, name),
        })
        .await?;
        jobs::wake_for_clean_up(&mut tx, open).await?;
    }
    let certificate_id = PublicId::from_random(rand::random());
    let certificate =
        certificates::insert_requested(&mut tx, &certificate_id, domain.id, KeyAlgorithm::Rsa2048).await?;
    let order_public_id = PublicId::from_random(rand::random());
    let place_by_secs = app.place_wait.as_secs_f64();
    let order = orders::insert(&mut tx, &order_public_id, domain.id, certificate, place_by_secs).await?;
    jobs::enqueue(&mut tx, order, request_id.as_str()).await?;
    tx.commit().await.map_err(StoreError::from)?;
    tracing::info!(domain.id = %domain.public_id, order.id = %order_public_id, name = %domain.name, "order accepted");
    Ok(order)
}

async fn load(app: &App, order_id: i64) -> Result<Option<Order>, ApiError> {
    let mut conn = app.pool.acquire().await.map_err(StoreError::from)?;
    Ok(orders::load(&mut conn, order_id).await?)
}

/// Returns at the next notification, after [`REREAD`], or when the wait ends: a hint to read again, no more.
async fn something_moved(moved: &mut broadcast::Receiver<String>, wait_ends: Instant) {
    let until = wait_ends.min(Instant::now() + REREAD);
    if let Ok(Err(broadcast::error::RecvError::Closed)) = tokio::time::timeout_at(until, moved.recv()).await {
        tokio::time::sleep_until(until).await;
    }
}

/// Nobody placed it in time: cancel it, unless somebody did at the last moment.
async fn end_wait(app: &App, order_id: i64) -> Result<IssuanceStarted, ApiError> {
    let mut tx = app.pool.begin().await.map_err(StoreError::from)?;
    orders::lock(&mut tx, order_id).await?;
    let order = orders::load(&mut tx, order_id).await?.ok_or(ApiError::UNKNOWN_DOMAIN)?;
    if order.state != OrderState::Accepted {
        return answer(&order);
    }
    let reason = match jobs::last_run(&mut tx, order_id).await? {
        Some(run) if run.was_claimed => match run.last_result.as_ref().and_then(|result| result["detail"].as_str()) {
            Some(detail) => detail.to_owned(),
            None => "the certificate authority did not answer in time".to_owned(),
        },
        _ => "no worker took it".to_owned(),
    };
    cancel(&mut tx, order_id, |at, name| OrderEvent::Cancelled {
        at,
        problem: OrderProblem::new(ProblemCode::NotPlacedInTime, name).because(&reason),
    })
    .await?;
    jobs::wake_for_clean_up(&mut tx, order_id).await?;
    tx.commit().await.map_err(StoreError::from)?;
    tracing::warn!(order.id = %order.public_id, name = %order.domain_name, reason, "order not placed in time: cancelled");
    Err(ApiError::Internal(format!("the order could not be placed: {reason}")))
}

/// What became of an order that is no longer `accepted`.
fn answer(order: &Order) -> Result<IssuanceStarted, ApiError> {
    match (order.state, order.authorizations.first(), &order.problem) {
        (OrderState::Failed, _, Some(problem)) => {
            Err(ApiError::Internal(format!("the order could not be placed: {}", problem.detail)))
        }
        (OrderState::Cancelled, _, Some(problem)) if problem.code == ProblemCode::NotPlacedInTime => {
            Err(ApiError::Internal(format!("the order could not be placed: {}", problem.detail)))
        }
        (OrderState::Cancelled, ..) => Err(ApiError::UNKNOWN_DOMAIN),
        (_, Some(authorization), _) => Ok(IssuanceStarted {
            order_id: order.public_id.to_string(),
            status: DomainStatus::CertificatePending.as_str(),
            challenge_domain: challenge_domain(&order.domain_name),
            expected_txt_value: authorization.txt_value.clone(),
            instructions: issuance_instructions(&order.domain_name, &authorization.txt_value),
        }),
        (_, None, _) => Err(ApiError::Internal("the order was placed without a challenge".to_owned())),
    }
}
