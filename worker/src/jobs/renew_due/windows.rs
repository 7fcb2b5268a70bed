//! Asks the CA when it would like certificates to be renewed (RFC 9773), and chooses the moment, once for each window.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use countersign_shared::model::schedule::{next_renewal_try, next_window_check, renewal_time_in_window};
use countersign_shared::store::renewals::due::{self, ToAsk};
use countersign_shared::store::{StoreError, acme_accounts, in_time};
use countersign_shared::telemetry::chain;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{BATCH, MOST_BATCHES};
use crate::acme::{ErrorClass, RenewalWindow};
use crate::advance::Advance;

/// Certificates asked about at the same time.
const AT_ONCE: usize = 8;
/// Where there is nothing to ask now.
const LATER: Duration = Duration::from_secs(12 * 3600);
/// After a failure of the CA that does not say when to come back.
const AFTER_FAILURE: Duration = Duration::from_secs(3600);

/// How far a run came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    All,
    /// More is due than one run does.
    Some,
    /// The CA does not answer, or wants to be left alone: the rest is the next run's.
    Refused,
}

pub(super) async fn ask(advance: &Advance) -> Result<Asked, StoreError> {
    let directory = advance.tools.acme.directory();
    let held =
        in_time(async { acme_accounts::are_windows_held(&mut *advance.tools.pool.acquire().await?, directory).await });
    if held.await? {
        return Ok(Asked::Refused);
    }
    let refused = AtomicBool::new(false);
    for _ in 0..MOST_BATCHES {
        let all = in_time(async { due::to_ask(&mut *advance.tools.pool.acquire().await?, BATCH).await }).await?;
        let is_last = all.len() < BATCH as usize;
        let refused = &refused;
        let asked = stream::iter(all).map(|one| async move {
            match refused.load(Ordering::Relaxed) || advance.stopping.is_cancelled() {
                true => Ok(()),
                false => ask_about(advance, &one, refused).await,
            }
        });
        asked.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        match () {
            () if refused.load(Ordering::Relaxed) => return Ok(Asked::Refused),
            () if advance.stopping.is_cancelled() => return Ok(Asked::Some),
            () if is_last => return Ok(Asked::All),
            () => {}
        }
    }
    Ok(Asked::Some)
}

async fn ask_about(advance: &Advance, one: &ToAsk, refused: &AtomicBool) -> Result<(), StoreError> {
    let acme = &advance.tools.acme;
    let is_ours = one.directory.as_ref().is_none_or(|directory| directory == acme.directory());
    let suggested = match one.is_automatic && is_ours {
        true => acme.renewal_window(&one.chain_pem).await,
        false => Ok(None),
    };
    let again_after = match suggested {
        Ok(None) => LATER,
        Ok(Some(RenewalWindow { window, retry_after })) => {
            if one.window != Some(window) {
                store(advance, one, window).await?;
            }
            next_window_check(retry_after)
        }
        Err(error) if matches!(error.class, ErrorClass::RetryLater | ErrorClass::RateLimited) => {
            tracing::warn!(
                certificate.id = one.id,
                error = chain(&error),
                "the CA does not say when to renew a certificate"
            );
            refused.store(true, Ordering::Relaxed);
            if let Some(pause) = error.retry_after {
                hold(advance, next_window_check(Some(pause))).await?;
            }
            next_window_check(Some(error.retry_after.unwrap_or(AFTER_FAILURE)))
        }
        Err(error) => {
            tracing::info!(certificate.id = one.id, error = chain(&error), "the CA suggests no time for a certificate");
            LATER
        }
    };
    in_time(async {
        let mut conn = advance.tools.pool.acquire().await?;
        due::ask_again(&mut conn, one.id, again_after.as_secs_f64()).await
    })
    .await
}

/// What the CA says of one certificate it means for all: the next runs ask nothing, in whichever worker.
async fn hold(advance: &Advance, pause: Duration) -> Result<(), StoreError> {
    in_time(async {
        let mut conn = advance.tools.pool.acquire().await?;
        acme_accounts::hold_windows(&mut conn, advance.tools.acme.directory(), pause.as_secs_f64()).await
    })
    .await
}

/// A new window, and a moment inside it; a renewal that has just failed is not tried again for that.
async fn store(
    advance: &Advance,
    one: &ToAsk,
    window: (time::OffsetDateTime, time::OffsetDateTime),
) -> Result<(), StoreError> {
    let Some(chosen) = renewal_time_in_window(window, rand::random(), one.not_before, one.not_after) else {
        tracing::warn!(certificate.id = one.id, "the CA suggests a window that ends before it begins");
        return Ok(());
    };
    let not_before = one.tried_at.map(|tried_at| next_renewal_try(tried_at, one.not_after));
    let renew_at = not_before.map_or(chosen, |not_before| chosen.max(not_before));
    tracing::info!(certificate.id = one.id, %renew_at, "the CA suggests when to renew a certificate");
    in_time(async {
        let mut conn = advance.tools.pool.acquire().await?;
        due::suggest(&mut conn, one.id, window, renew_at).await
    })
    .await
}
