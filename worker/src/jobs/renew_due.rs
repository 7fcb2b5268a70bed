//! Every minute: certificates that are to be renewed before they expire get a successor when their time has come.
//!
//! What was issued since the last run gets a time by its lifetime; then the CA is asked for a better one (`windows`).
//! One transaction makes renewal, successor, order and job of one certificate, or nothing. The order is an order like any
//! other: it fails or succeeds by itself, and ends the renewal. Where the customer publishes TXT records nothing is ordered,
//! unless their domain turns out to be delegated.

mod windows;

use std::sync::Arc;
use std::time::Duration;

use countersign_shared::model::challenge::challenge_owner;
use countersign_shared::model::ids::PublicId;
use countersign_shared::model::order::OrderOrigin;
use countersign_shared::model::schedule::{next_renewal_try, renewal_time};
use countersign_shared::store::events::{self, EventName};
use countersign_shared::store::jobs::{self, Lane, Outcome};
use countersign_shared::store::orders::{self, NewOrder};
use countersign_shared::store::renewals::due::{self, Due, StillDue};
use countersign_shared::store::renewals::{self, NewRenewal, Renewable};
use countersign_shared::store::{PgConnection, StoreError, domains, in_time};
use countersign_shared::telemetry::{chain, spans};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::result;
use crate::advance::Advance;
use crate::queue::Lease;
use windows::Asked;

const EVERY: Duration = Duration::from_secs(60);
/// Certificates that are read at once.
const BATCH: i64 = 100;
/// Reads of one run; what is left after them is the next run's, at once.
const MOST_BATCHES: usize = 20;
/// Challenge names that are looked up at the same time.
const LOOKS_AT_ONCE: usize = 20;
/// For a certificate whose records the customer publishes: somebody may have changed that by then.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(24 * 3600);
/// A renewal that was ordered by call, and whose issue call has not come by then.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);
/// For one with a renewal under way, and for one that met an error.
const LOOK_AGAIN_SOON: Duration = Duration::from_secs(3600);

pub async fn run(advance: &Arc<Advance>, lease: &Lease) {
    let mut run = Run { advance, found: Found::default() };
    let outcome = tokio::select! {
        biased;
        // Whoever has the row now does the rest.
        () = lease.ended() => None,
        () = advance.abandon.cancelled() => None,
        outcome = run.all() => Some(outcome),
    };
    let found = run.found;
    if found.renewing > 0 {
        spans::tell();
        tracing::info!(renewing = found.renewing, "certificates are being renewed");
    }
    let saw = result(lease, serde_json::json!({ "planned": found.planned, "renewing": found.renewing }));
    let outcome = match outcome {
        None => Outcome::Release,
        Some(Ok(is_all)) => {
            let pause = if is_all { EVERY } else { Duration::ZERO };
            Outcome::Wait { until: lease.now() + pause, saw: Some(saw) }
        }
        Some(Err(error)) => {
            tracing::warn!(error = chain(&error), "certificates could not be renewed");
            Outcome::Wait { until: lease.now() + EVERY, saw: None }
        }
    };
    lease.settle(outcome).await;
}

/// What a run did.
#[derive(Clone, Copy, Default)]
struct Found {
    planned: usize,
    renewing: usize,
}

struct Run<'a> {
    advance: &'a Arc<Advance>,
    found: Found,
}

impl Run<'_> {
    /// Whether nothing is left to do.
    async fn all(&mut self) -> Result<bool, StoreError> {
        let is_planned = self.plan().await?;
        // Before what is due is renewed: the CA may have thought of another time.
        let asked = windows::ask(self.advance).await?;
        Ok(self.renew().await? && is_planned && asked != Asked::Some)
    }

    /// Gives what was issued since the last run its time.
    async fn plan(&mut self) -> Result<bool, StoreError> {
        for _ in 0..MOST_BATCHES {
            let planned = in_time(async {
                let mut conn = self.advance.tools.pool.acquire().await?;
                let unplanned = due::unplanned(&mut conn, BATCH).await?;
                let times: Vec<_> =
                    unplanned.iter().map(|one| (one.id, renewal_time(one.not_before, one.not_after, one.id))).collect();
                due::plan(&mut conn, &times).await?;
                Ok(times.len())
            });
            let planned = planned.await?;
            self.found.planned += planned;
            if planned < BATCH as usize {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn renew(&mut self) -> Result<bool, StoreError> {
        for _ in 0..MOST_BATCHES {
            let all = in_time(async { due::due(&mut *self.advance.tools.pool.acquire().await?, BATCH).await }).await?;
            self.notice_delegations(&all).await?;
            for one in &all {
                if self.advance.stopping.is_cancelled() {
                    return Ok(false);
                }
                match in_time(self.renew_one(one)).await {
                    Ok(is_renewing) => self.found.renewing += usize::from(is_renewing),
                    Err(error) if error.is_outage() => return Err(error),
                    // No other certificate waits for this one.
                    Err(error) => {
                        tracing::error!(
                            certificate.id = one.id,
                            error = chain(&error),
                            "a certificate cannot be renewed"
                        );
                        in_time(self.postpone(one, LOOK_AGAIN_SOON)).await?;
                    }
                }
            }
            if all.len() < BATCH as usize {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Nothing is ordered where a person publishes, so that no order would notice a CNAME that is back.
    async fn notice_delegations(&self, due: &[Due]) -> Result<(), StoreError> {
        let tools = &self.advance.tools;
        let Some(zone) = &tools.challenge_zone else { return Ok(()) };
        let domains: Vec<_> = due.iter().map(|one| one.domain_id).collect();
        let by_hand = in_time(async { due::published_by_hand(&mut *tools.pool.acquire().await?, &domains).await });
        let looks = stream::iter(by_hand.await?).map(|domain| async move {
            let (owner, target) = (challenge_owner(&domain.name), zone.target(&domain.delegation_label));
            if self.advance.stopping.is_cancelled()
                || tools.doctor.authoritative.leads_to(&owner, &target).await != Some(true)
            {
                return Ok(());
            }
            tracing::info!(domain.name = domain.name, "a domain that is due for renewal is delegated");
            in_time(async { domains::mark_delegated(&mut *tools.pool.acquire().await?, domain.id, true).await }).await
        });
        looks.buffer_unordered(LOOKS_AT_ONCE).try_collect::<()>().await
    }

    /// Whether a successor was ordered.
    async fn renew_one(&self, one: &Due) -> Result<bool, StoreError> {
        let mut tx = self.advance.tools.pool.begin().await?;
        let is_renewing = match domains::lock_live(&mut tx, one.domain_id).await? {
            None => {
                due::end(&mut tx, one.id).await?;
                false
            }
            Some(domain) => match due::still_due(&mut tx, one.id).await? {
                None => false,
                Some(still) if !still.published_by.presenter.is_automatic() => {
                    if still.was_tried {
                        due::postpone(&mut tx, one.id, LOOK_AGAIN_AFTER.as_secs_f64()).await?;
                    } else {
                        // Told once, in time: a person has to act.
                        events::certificate(&mut tx, EventName::CertificateAutoRenewalFailed, one.id).await?;
                        due::mark_tried(&mut tx, one.id, still.now + LOOK_AGAIN_AFTER).await?;
                        tracing::info!(certificate.id = one.id, domain.name = %domain.name, "a certificate is due for renewal by hand");
                    }
                    false
                }
                Some(still) => match self.renewable(&mut tx, one.id).await? {
                    Renewable::Yes => {
                        self.order(&mut tx, one, &still).await?;
                        due::mark_tried(&mut tx, one.id, next_renewal_try(still.now, still.not_after)).await?;
                        true
                    }
                    Renewable::Underway => {
                        due::postpone(&mut tx, one.id, LOOK_AGAIN_SOON.as_secs_f64()).await?;
                        false
                    }
                    Renewable::Expired | Renewable::NotIssued => {
                        tracing::warn!(certificate.id = one.id, domain.name = %domain.name, "a certificate expired before it was renewed");
                        due::end(&mut tx, one.id).await?;
                        false
                    }
                },
            },
        };
        tx.commit().await?;
        Ok(is_renewing)
    }

    /// A renewal that was ordered by call and never issued must not let the certificate expire.
    async fn renewable(&self, conn: &mut PgConnection, certificate_id: i64) -> Result<Renewable, StoreError> {
        match renewals::renewable(conn, certificate_id).await? {
            Renewable::Underway
                if renewals::cancel_forgotten(conn, certificate_id, FORGOTTEN_AFTER.as_secs_f64()).await? =>
            {
                renewals::renewable(conn, certificate_id).await
            }
            renewable => Ok(renewable),
        }
    }

    /// The successor, with the same names and the same algorithm, and the order that works for it.
    async fn order(&self, conn: &mut PgConnection, one: &Due, still: &StillDue) -> Result<(), StoreError> {
        let (certificate_id, order_id) = (PublicId::from_random(rand::random()), PublicId::from_random(rand::random()));
        let new = NewRenewal {
            old_certificate_id: one.id,
            public_id: &certificate_id,
            algorithm: None,
            auto_renew: still.auto_renew,
            is_automatic: true,
        };
        let renewal = renewals::insert(conn, &new).await?;
        renewals::start(conn, renewal.id).await?;
        let new = NewOrder {
            public_id: &order_id,
            domain_id: one.domain_id,
            certificate_id: renewal.new_certificate_id,
            origin: OrderOrigin::Renewal,
            published_by: still.published_by,
            place_by_secs: None,
            retry_of: None,
            actor: &self.advance.worker,
        };
        let order = orders::insert(conn, &new).await?;
        jobs::enqueue(conn, order, Lane::Orders, &spans::cause("renew-due")).await
    }

    async fn postpone(&self, one: &Due, by: Duration) -> Result<(), StoreError> {
        due::postpone(&mut *self.advance.tools.pool.acquire().await?, one.id, by.as_secs_f64()).await
    }
}
