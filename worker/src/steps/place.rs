//! `accepted` → `placed`: newOrder at the CA (RFC 8555 section 7.4).
//!
//! All domains share one CA account, so neither a valid authorization nor a ready order proves anything about *this*
//! domain: it counts only if this domain row itself passed dns-01 since it was registered. Anything else is deactivated
//! and ordered again.

use std::time::Duration;

use countersign_shared::model::order::{Authorization, OrderEvent, OrderOrigin, Placement};
use countersign_shared::model::problem::ProblemCode;
use countersign_shared::store::{StoreError, authorizations, in_time, orders, renewals};

use time::OffsetDateTime;

use super::{Step, StepError, StepOutcome, StepResult};
use crate::acme::{AuthorizationStatus, AuthorizationView, ErrorClass, OrderStatus, PlacedOrder, Turn, certificate_id};

/// A CA that keeps handing out what was just deactivated is asked this often in one run.
const ROUNDS: usize = 3;
/// The longest pause until an order that nobody waits for looks for a turn again.
const STAND_BACK: Duration = Duration::from_secs(6);

pub(super) async fn run(step: &Step<'_>) -> StepResult {
    if let Some(outcome) = keep_retried_order(step).await? {
        return Ok(outcome);
    }
    let replaces = replaces(step).await?;
    for _ in 0..ROUNDS {
        let turn = match step.order.place_by {
            Some(place_by) => match turn_until(step, place_by).await {
                Some(turn) => turn,
                None => {
                    let problem = step.problem(ProblemCode::NotPlacedInTime);
                    let problem = problem.because("the certificate authority did not answer in time");
                    return Ok(StepOutcome::Advance(OrderEvent::Cancelled { at: step.now(), problem }));
                }
            },
            // Nobody waits for it: it must not queue in front of those that somebody waits for.
            None => match step.tools.acme.turn_now() {
                Some(turn) => turn,
                None => return Ok(StepOutcome::WaitUntil(step.now() + STAND_BACK.mul_f64(rand::random()), None)),
            },
        };
        let placed = match step.tools.acme.place(turn, &step.order.names, replaces.as_deref()).await {
            Ok(placed) => placed,
            Err(error) => return step.ca_failed(&error),
        };
        match judge(step, &placed).await? {
            Verdict::Ours(authorizations) => return Ok(record(step, placed, authorizations)),
            Verdict::NotYet => {
                // Every look is a newOrder: ever more rarely.
                let pause = (step.waited() / 4).clamp(Duration::from_secs(2), Duration::from_secs(60));
                return Ok(StepOutcome::WaitUntil(step.now() + pause, None));
            }
            Verdict::NotOurs => {
                tracing::info!("the CA offers an order or a proof that this domain did not earn: deactivating it");
                for authorization in &placed.authorizations {
                    if let Err(error) = step.tools.acme.deactivate_authorization(&authorization.url).await {
                        return step.ca_failed(&error);
                    }
                }
            }
        }
    }
    let detail = "the certificate authority keeps re-using an order of somebody else".to_owned();
    Err(StepError::Retry { after: None, counted: true, cause: detail.clone(), detail })
}

/// The certificate that the ordered one succeeds, as its CA calls it, if that is the CA of this worker.
async fn replaces(step: &Step<'_>) -> Result<Option<String>, StepError> {
    if step.order.origin != OrderOrigin::Renewal {
        return Ok(None);
    }
    let predecessor = in_time(async {
        let mut conn = step.tools.pool.acquire().await?;
        renewals::predecessor(&mut conn, step.order.certificate_id).await
    });
    let of_this_ca = predecessor
        .await?
        .filter(|old| old.directory.as_ref().is_none_or(|directory| directory == step.tools.acme.directory()));
    Ok(of_this_ca.and_then(|old| certificate_id(&old.chain_pem)))
}

/// The turn to send newOrder, unless the caller has stopped waiting by then: an order that nobody wants must not use up
/// the CA's patience.
async fn turn_until<'a>(step: &Step<'a>, place_by: OffsetDateTime) -> Option<Turn<'a>> {
    let left = Duration::try_from(place_by - step.now()).ok().filter(|left| !left.is_zero())?;
    tokio::time::timeout(left, step.tools.acme.turn()).await.ok()
}

/// A retry keeps the CA's order of a failed one, and with it the TXT value, if that is still pending there.
async fn keep_retried_order(step: &Step<'_>) -> Result<Option<StepOutcome>, StepError> {
    let Some(retried) = step.order.retry_of else {
        return Ok(None);
    };
    let acme_url = in_time(async {
        let mut conn = step.tools.pool.acquire().await?;
        orders::retried_acme_url(&mut conn, retried, step.tools.acme.directory()).await
    });
    let Some(acme_url) = acme_url.await? else {
        return Ok(None);
    };
    let placed = match step.tools.acme.placed(&acme_url, &step.order.names).await {
        Ok(placed) => placed,
        Err(error) if error.class == ErrorClass::NewOrderNeeded => return Ok(None),
        Err(error) => return step.ca_failed(&error).map(Some),
    };
    match judge(step, &placed).await? {
        Verdict::Ours(authorizations) => Ok(Some(record(step, placed, authorizations))),
        Verdict::NotYet | Verdict::NotOurs => Ok(None),
    }
}

enum Verdict {
    /// May be used, with what is proved already.
    Ours(Vec<Authorization>),
    /// Another open order of ours holds the CA's order, or clean-up is about to deactivate what a cancelled one left.
    NotYet,
    /// Proof or order of somebody else: deactivate and order again.
    NotOurs,
}

async fn judge(step: &Step<'_>, placed: &PlacedOrder) -> Result<Verdict, StepError> {
    in_time(verdict(step, placed)).await?.ok_or_else(|| StepError::bug("the CA offers no dns-01 challenge"))
}

/// None when some authorization has no dns-01 challenge.
async fn verdict(step: &Step<'_>, placed: &PlacedOrder) -> Result<Option<Verdict>, StoreError> {
    let order = step.order;
    let mut conn = step.tools.pool.acquire().await?;
    if let Some(holder) = orders::holder(&mut conn, &placed.url, order.id).await? {
        if holder.is_open {
            return Ok(Some(Verdict::NotYet));
        }
        if holder.domain_id != order.domain_id || holder.has_csr {
            return Ok(Some(Verdict::NotOurs));
        }
    }
    if !matches!(placed.status, OrderStatus::Pending | OrderStatus::Ready) {
        return Ok(Some(Verdict::NotOurs));
    }
    let mut ours = Vec::new();
    for view in &placed.authorizations {
        if authorizations::was_anothers(&mut conn, &view.url, order.domain_id).await? {
            return Ok(Some(Verdict::NotOurs));
        }
        if authorizations::is_to_be_deactivated(&mut conn, &view.url).await? {
            return Ok(Some(Verdict::NotYet));
        }
        let is_proved = match view.status {
            AuthorizationStatus::Pending => false,
            AuthorizationStatus::Valid => {
                authorizations::domain_proved(&mut conn, order.domain_id, &view.identifier).await?
            }
            _ => return Ok(Some(Verdict::NotOurs)),
        };
        if view.status == AuthorizationStatus::Valid && !is_proved {
            return Ok(Some(Verdict::NotOurs));
        }
        match authorization(step, view, is_proved) {
            Some(authorization) => ours.push(authorization),
            None => return Ok(None),
        }
    }
    Ok(Some(Verdict::Ours(ours)))
}

fn authorization(step: &Step<'_>, view: &AuthorizationView, is_proved: bool) -> Option<Authorization> {
    let dns01 = view.dns01.as_ref()?;
    Some(Authorization {
        identifier: view.identifier.clone(),
        wildcard: view.wildcard,
        url: view.url.clone(),
        challenge_url: dns01.url.clone(),
        token: dns01.token.clone(),
        txt_value: dns01.txt_value.clone(),
        proved_at: is_proved.then(|| step.now()),
    })
}

fn record(step: &Step<'_>, placed: PlacedOrder, authorizations: Vec<Authorization>) -> StepOutcome {
    let placed_at = step.now();
    StepOutcome::Advance(OrderEvent::Placed {
        placement: Placement {
            directory: step.tools.acme.directory().to_owned(),
            acme_url: placed.url,
            placed_at,
            deadline_at: placed_at + step.tools.poll_timeout,
        },
        authorizations,
    })
}
