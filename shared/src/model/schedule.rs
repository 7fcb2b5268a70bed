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

/// When to come back to a CA that is to be left alone until `until`: up to a tenth of the time later, at most 30 s, so that
/// those who wait do not all come in the same instant. `random` is in `[0, 1)`.
pub fn after_hold(now: OffsetDateTime, until: OffsetDateTime, random: f64) -> OffsetDateTime {
    let hold_for = Duration::try_from(until - now).unwrap_or_default();
    until + (hold_for / 10).min(Duration::from_secs(30)).mul_f64(random.clamp(0.0, 1.0))
}

const DAY: time::Duration = time::Duration::DAY;

/// When a certificate is renewed whose CA suggests no time: with a third of its lifetime left, or half of it where it lives
/// less than ten days. Up to a twentieth of the lifetime earlier, by its id, so that certificates which were issued at once
/// are not renewed at once.
pub fn renewal_time(not_before: OffsetDateTime, not_after: OffsetDateTime, certificate_id: i64) -> OffsetDateTime {
    let lifetime: time::Duration = not_after - not_before;
    let left = if lifetime < 10 * DAY { lifetime / 2 } else { lifetime / 3 };
    not_after - left - lifetime / 20 * fraction(certificate_id)
}

/// The moment inside a window that a CA suggests (RFC 9773 section 4.2), `random` in `[0, 1)` of the way through it. Never in the
/// last tenth of the certificate's lifetime, whatever the CA says. None when the window ends before it begins.
pub fn renewal_time_in_window(
    window: (OffsetDateTime, OffsetDateTime),
    random: f64,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Option<OffsetDateTime> {
    let (start, end) = window;
    let latest = not_after - (not_after - not_before) / 10;
    (start < end).then(|| (start + (end - start) * random.clamp(0.0, 1.0)).min(latest))
}

/// Until a CA is asked again for the window: what it says, but at least twice a day (RFC 9773 section 4.3).
pub fn next_window_check(retry_after: Option<Duration>) -> Duration {
    const HOUR: Duration = Duration::from_secs(3600);
    retry_after.unwrap_or(6 * HOUR).clamp(Duration::from_secs(60), 12 * HOUR)
}

/// When a renewal that was tried at `tried_at` and failed is tried again: a day later, sooner where the certificate expires
/// before long.
pub fn next_renewal_try(tried_at: OffsetDateTime, not_after: OffsetDateTime) -> OffsetDateTime {
    let left: time::Duration = not_after - tried_at;
    tried_at + (left / 2_i32).clamp(time::Duration::HOUR, DAY)
}

/// A number in `[0, 1)` that depends on `id` alone, without neighbours being close (SplitMix64).
fn fraction(id: i64) -> f64 {
    let mut bits = (id as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(hours: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::hours(hours)
    }

    #[test]
    fn those_who_were_held_back_come_one_after_the_other_and_never_too_early() {
        let second = |second| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(second);
        for (hold_for, random, comes_at) in
            [(100, 0.0, 100), (100, 0.5, 105), (3600, 0.9, 3627), (86_400, 0.5, 86_415), (-5, 0.9, -5)]
        {
            assert_eq!(after_hold(second(0), second(hold_for), random), second(comes_at), "held for {hold_for} s");
        }
    }

    #[test]
    fn a_third_of_the_lifetime_is_left_or_half_of_a_short_one() {
        // Lifetime in days; hours after which it is renewed at the latest, and at the earliest.
        for (days, latest, earliest) in
            [(90, 1440, 1332), (45, 720, 666), (10, 160, 148), (9, 108, 97), (6, 72, 64), (1, 12, 10)]
        {
            for id in 1..1000 {
                let at = renewal_time(hours(0), hours(24 * days), id);
                assert!((hours(earliest)..=hours(latest)).contains(&at), "{days} days, certificate {id}: {at}");
            }
        }
    }

    #[test]
    fn certificates_of_one_moment_are_renewed_at_many_and_always_the_same() {
        let at = |id| renewal_time(hours(0), hours(24 * 90), id);
        assert_eq!(at(7), at(7));
        let mut in_each_hour = [0; 108];
        for id in 1..=108_000 {
            in_each_hour[usize::try_from((at(id) - hours(1332)).whole_hours()).unwrap().min(107)] += 1;
        }
        assert!(in_each_hour.iter().all(|count| (850..1150).contains(count)), "{in_each_hour:?}");
    }

    #[test]
    fn a_suggested_window_is_kept_to_but_not_past_reason() {
        let at = |start, end, random| renewal_time_in_window((hours(start), hours(end)), random, hours(0), hours(1000));
        for (start, end, random, chosen) in [
            (100, 200, 0.0, Some(100)),
            (100, 200, 0.5, Some(150)),
            (-10, -5, 0.2, Some(-9)),
            (890, 2000, 0.9, Some(900)),
            (5000, 6000, 0.0, Some(900)),
            (200, 200, 0.5, None),
            (200, 100, 0.5, None),
        ] {
            assert_eq!(at(start, end, random), chosen.map(hours), "{start} to {end}");
        }
    }

    #[test]
    fn a_window_is_asked_for_at_least_twice_a_day() {
        for (said, pause) in
            [(None, 6 * 3600), (Some(0), 60), (Some(61), 61), (Some(21_600), 21_600), (Some(86_400), 43_200)]
        {
            assert_eq!(next_window_check(said.map(Duration::from_secs)).as_secs(), pause, "{said:?}");
        }
    }

    #[test]
    fn a_failed_renewal_is_tried_again_a_day_later_and_more_often_before_the_end() {
        for (left, pause) in [(720, 24), (48, 24), (40, 20), (2, 1), (1, 1), (-5, 1)] {
            assert_eq!(next_renewal_try(hours(0), hours(left)), hours(pause), "{left} hours left");
        }
    }

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
