//! The only place that sleeps: polling for a condition until a deadline.

use std::time::{Duration, Instant};

/// For one answer of a server of this host, on a busy machine.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(50);

/// Asks every 50 ms until the answer is `Some`, at least once; `None` when the time is over.
pub async fn poll<T>(within: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Does nothing until then. For a pause that is itself what shall happen: whoever waits for something uses [`poll`].
pub async fn pause_until(moment: Instant) {
    tokio::time::sleep_until(moment.into()).await;
}

/// As [`poll`], for `Drop`, which cannot wait asynchronously.
pub fn poll_blocking(within: Duration, mut ask: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if ask() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(INTERVAL / 5);
    }
}
