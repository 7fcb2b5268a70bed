//! How long lost rows of the queue stand until another worker takes them, seen from the outside.
//!
//! A row whose `due_at` is over while `leased_by` is still set has lost its holder. All rows are read every 50 ms; when a lost one has a
//! greater `lease`, or is gone, somebody has taken it. The time past the lease's end is the database's (`now() - due_at`) at the last look
//! that saw it lost, plus the monotonic time since: at most one look more than the truth. While the database is away nobody can look, and
//! nobody can take anything either.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::storm::Absence;
use crate::stack::postgres;

/// One row of `jobs`.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Row {
    pub id: i64,
    pub lease: i64,
    pub leased_by: Option<String>,
    /// Seconds since `due_at`; negative before.
    pub overdue: f64,
}

pub const ROWS: &str = "SELECT id, lease, leased_by, extract(epoch FROM now() - due_at)::float8 AS overdue FROM jobs";

/// A row that one worker lost and another has taken.
#[derive(Clone, Debug)]
pub struct Takeover {
    pub lost_by: String,
    /// Who was seen to have it then, if it was not finished between two looks.
    pub taken_by: Option<String>,
    pub taken_at: Instant,
    /// Since the lease's end.
    pub late: Duration,
}

struct Lost {
    lease: i64,
    by: String,
    overdue: Duration,
    seen: Instant,
}

/// The rows that are lost now, and those that were taken.
#[derive(Default)]
pub struct Watch {
    lost: HashMap<i64, Lost>,
    pub takeovers: Vec<Takeover>,
}

impl Watch {
    /// All rows, as they were at `now`. Adds the take-overs since the last look.
    pub fn look(&mut self, now: Instant, rows: &[Row]) {
        let rows: HashMap<i64, &Row> = rows.iter().map(|row| (row.id, row)).collect();
        let Self { lost, takeovers } = self;
        lost.retain(|id, lost| match rows.get(id) {
            // Its own holder may settle or renew it late, as long as nobody else has taken it.
            Some(row) if row.lease == lost.lease => row.leased_by.is_some() && row.overdue > 0.0,
            row => {
                takeovers.push(Takeover {
                    lost_by: lost.by.clone(),
                    taken_by: row.and_then(|row| row.leased_by.clone()),
                    taken_at: now,
                    late: lost.overdue + (now - lost.seen),
                });
                false
            }
        });
        for row in rows.values().filter(|row| row.overdue > 0.0) {
            if let Some(by) = &row.leased_by {
                let overdue = Duration::from_secs_f64(row.overdue);
                lost.insert(row.id, Lost { lease: row.lease, by: by.clone(), overdue, seen: now });
            }
        }
    }
}

/// What was taken between two looks, a line for each pair of workers.
pub fn described(takeovers: &[Takeover]) -> Vec<String> {
    let mut pairs: BTreeMap<(&str, &str), Vec<Duration>> = BTreeMap::new();
    for takeover in takeovers {
        let by = takeover.taken_by.as_deref().unwrap_or("another worker");
        pairs.entry((&takeover.lost_by, by)).or_default().push(takeover.late);
    }
    let line = |((lost_by, taken_by), late): (_, Vec<Duration>)| {
        let (count, longest) = (late.len(), late.iter().max().map_or(0.0, Duration::as_secs_f64));
        format!("{lost_by:<10} has lost {count} to {taken_by}, up to {longest:.1} s past the lease's end")
    };
    pairs.into_iter().map(line).collect()
}

/// The longest of some take-overs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Longest {
    pub count: usize,
    /// Since the lease's end.
    pub late: Duration,
    /// Since the blow to the worker that had lost the row.
    pub since_blow: Duration,
}

/// All take-overs, and those that nothing but the loss of the worker delayed: from one lease before the lease's end the database was
/// there, and so was some other worker. Only such a worker may take lost rows (ARCHITECTURE.md, lost rows).
pub fn longest(takeovers: &[Takeover], absences: &[Absence], workers: &[String], lease_for: Duration) -> [Longest; 2] {
    let mut all = Longest::default();
    let mut undisturbed = Longest::default();
    for takeover in takeovers {
        let was_there = |who: &str| {
            let from = takeover.taken_at.checked_sub(takeover.late + lease_for).unwrap_or(takeover.taken_at);
            !absences.iter().any(|absence| absence.victim == who && absence.overlaps(from, takeover.taken_at))
        };
        let blows = absences.iter().filter(|absence| absence.victim == takeover.lost_by);
        let last_blow = blows.map(|absence| absence.from).filter(|from| *from < takeover.taken_at).max();
        let since_blow = last_blow.map_or(Duration::ZERO, |blow| takeover.taken_at - blow);
        let count_in = |longest: &mut Longest| {
            longest.count += 1;
            longest.late = longest.late.max(takeover.late);
            longest.since_blow = longest.since_blow.max(since_blow);
        };
        count_in(&mut all);
        if was_there(postgres::NAME) && workers.iter().any(|worker| *worker != takeover.lost_by && was_there(worker)) {
            count_in(&mut undisturbed);
        }
    }
    [all, undisturbed]
}

/// A lost row that nothing delays is taken within a second of its lease's end; three times that on a busy machine.
const TAKEN_WITHIN: Duration = Duration::from_secs(3);

/// What is wrong with undisturbed take-overs, in words.
pub fn too_late(undisturbed: &Longest) -> Option<String> {
    (undisturbed.late > TAKEN_WITHIN).then(|| {
        let late = undisturbed.late.as_secs_f64();
        format!(
            "a lost row was taken {late:.1} s past its lease's end only, though another worker and Postgres were there"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::plan::BlowKind;

    const SECOND: Duration = Duration::from_secs(1);

    fn row(lease: i64, leased_by: Option<&str>, overdue: f64) -> Row {
        Row { id: 1, lease, leased_by: leased_by.map(ToOwned::to_owned), overdue }
    }

    fn lateness(looks: &[&[Row]]) -> Vec<Duration> {
        let (mut watch, began) = (Watch::default(), Instant::now());
        for (number, rows) in looks.iter().enumerate() {
            watch.look(began + SECOND * number as u32, rows);
        }
        watch.takeovers.iter().map(|takeover| takeover.late).collect()
    }

    #[test]
    fn a_lost_row_counts_from_its_leases_end_until_another_lease() {
        let held = row(1, Some("worker-1"), -1.0);
        let lost = |overdue| [row(1, Some("worker-1"), overdue)];
        let taken = row(2, Some("worker-2"), -9.0);
        assert_eq!(lateness(&[&[held], &lost(0.5), &lost(1.5), &[taken]]), [Duration::from_millis(2500)]);
        assert_eq!(lateness(&[&lost(0.5), &[]]), [Duration::from_millis(1500)], "taken and done between two looks");
        let again = [row(2, Some("worker-2"), 3.0)];
        assert_eq!(lateness(&[&lost(0.5), &again, &[row(3, None, -1.0)]]).len(), 2, "lost twice, taken twice");
    }

    #[test]
    fn a_holder_that_settles_or_renews_late_is_no_take_over() {
        let lost = [row(1, Some("worker-1"), 0.5)];
        assert!(lateness(&[&lost, &[row(1, None, -1.0)], &[row(2, Some("worker-2"), -9.0)]]).is_empty());
        assert!(lateness(&[&lost, &[row(1, Some("worker-1"), -9.0)], &[]]).is_empty());
        assert!(lateness(&[&[row(1, None, 2.0)], &[row(2, Some("worker-2"), -9.0)]]).is_empty(), "due, not lost");
    }

    #[test]
    fn only_take_overs_with_the_database_and_another_worker_there_are_undisturbed() {
        let began = Instant::now();
        let at = |seconds: u32| began + SECOND * seconds;
        let lost_by = "worker-1".to_owned();
        let takeover = Takeover { lost_by, taken_by: None, taken_at: at(20), late: SECOND };
        let away = |victim: &str, from: u32, until: u32| Absence {
            victim: victim.to_owned(),
            kind: BlowKind::Kill,
            from: at(from),
            until: Some(at(until)),
        };
        let workers = ["worker-1".to_owned(), "worker-2".to_owned()];
        let undisturbed = |more: &[Absence]| {
            let absences = [&[away("worker-1", 11, 14)], more].concat();
            longest(std::slice::from_ref(&takeover), &absences, &workers, 9 * SECOND)
        };
        let counted = Longest { count: 1, late: SECOND, since_blow: 9 * SECOND };
        assert_eq!(undisturbed(&[]), [counted, counted]);
        assert_eq!(undisturbed(&[away("postgres", 2, 9), away("worker-2", 3, 8)]), [counted, counted], "before that");
        assert_eq!(too_late(&counted), None);
        assert!(too_late(&Longest { late: 4 * SECOND, ..counted }).is_some_and(|sentence| sentence.contains("4.0 s")));
        for disturbance in [away("postgres", 9, 11), away("postgres", 15, 16), away("worker-2", 5, 12)] {
            assert_eq!(undisturbed(&[disturbance]), [counted, Longest::default()]);
        }
    }
}
