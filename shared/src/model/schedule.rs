//! Deadlines, poll intervals and backoff, as functions of (now, facts).

use std::time::Duration;

use time::OffsetDateTime;

/// Pause until the next look-up of an order that has been waiting for its record for `waited`: `interval` for the
/// first 5 minutes, then 1 min until 1 h, 10 min until 1 day, then 1 h; never shorter than `interval`.
pub fn poll_interval(interval: Duration, waited: Duration) -> Duration {
    const MINUTE: u64 = 60;
    let decayed = match waited.as_secs() {
        secs if secs < 5 * MINUTE => interval,
        secs if secs < 60 * MINUTE => Duration::from_secs(MINUTE),
        secs if secs < 24 * 60 * MINUTE => Duration::from_secs(10 * MINUTE),
        _ => Duration::from_secs(60 * MINUTE),
    };
    decayed.max(interval)
}

/// When to look again after a look-up that began at `began_at` and did not see the value. A look-up falls exactly on
/// the deadline, because only one that began at or after it may fail the order.
pub fn next_look(
    began_at: OffsetDateTime,
    placed_at: OffsetDateTime,
    deadline_at: OffsetDateTime,
    interval: Duration,
) -> OffsetDateTime {
    let waited = Duration::try_from(began_at - placed_at).unwrap_or_default();
    let next = began_at + poll_interval(interval, waited);
    if began_at < deadline_at { next.min(deadline_at) } else { next }
}

/// Pause before the `attempt`th retry (from 1): 1 s doubling to 5 min, times a factor between ½ and 1½ so that a fleet
/// does not come back in step. `jitter` is a random number in `[0, 1)`.
pub fn backoff(attempt: u32, jitter: f64) -> Duration {
    let seconds = 2f64.powi(attempt.saturating_sub(1).min(16) as i32).min(300.0);
    Duration::from_secs_f64(seconds * (0.5 + jitter.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_SECONDS: Duration = Duration::from_secs(10);

    #[test]
    fn the_interval_decays_with_the_time_waited() {
        for (waited, interval) in
            [(0, 10), (299, 10), (300, 60), (3_599, 60), (3_600, 600), (86_399, 600), (86_400, 3_600), (604_800, 3_600)]
        {
            assert_eq!(poll_interval(TEN_SECONDS, Duration::from_secs(waited)).as_secs(), interval, "{waited} s");
        }
        let slow = Duration::from_secs(90);
        assert_eq!(poll_interval(slow, Duration::from_secs(400)), slow);
    }

    #[test]
    fn a_look_up_falls_on_the_deadline() {
        let placed_at = OffsetDateTime::UNIX_EPOCH;
        let at = |seconds| placed_at + Duration::from_secs(seconds);
        let next = |began| next_look(at(began), placed_at, at(295), TEN_SECONDS);
        assert_eq!(next(0), at(10));
        assert_eq!(next(290), at(295));
        assert_eq!(next(294), at(295));
        assert_eq!(next(295), at(305));
    }

    #[test]
    fn backoff_grows_is_bounded_and_jitters() {
        assert_eq!(backoff(1, 0.5), Duration::from_secs(1));
        assert_eq!(backoff(4, 0.5), Duration::from_secs(8));
        assert_eq!(backoff(40, 0.5), Duration::from_secs(300));
        assert!(backoff(4, 0.0) < backoff(4, 0.9));
    }
}
