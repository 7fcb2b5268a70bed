//! What happens in a run, made from its seed alone: who is struck when and for how long, and what every customer does.
//!
//! Nothing here looks at the clock or at the stack, so the same options always give the same plan.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use rand::rngs::ChaCha12Rng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::Options;
use crate::stack::postgres;

/// Of all customers, how many never publish their record, and how many publish another value.
const NEVER: f64 = 0.08;
const WRONG: f64 = 0.05;

/// How often a customer asks both replicas for a certificate at the same moment.
const ASKS_TWICE: f64 = 0.15;

/// How often a customer says that the record is set.
const CHECKS: f64 = 0.5;

#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub customers: Vec<Customer>,
    /// What happens to each process, in the order of time.
    pub blows: BTreeMap<String, Vec<Blow>>,
}

/// One domain and who wants its certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct Customer {
    pub name: String,
    pub arrives_at: Duration,
    /// The replica asked first; after a failure the next one is.
    pub replica: usize,
    pub asks_twice: bool,
    pub record: Record,
    /// After publishing it, says so.
    pub checks: bool,
}

/// What a customer publishes once the value is known, and how much later.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Record {
    Right { after: Duration },
    Wrong { after: Duration },
    Never,
}

/// One process loses its life, or its senses, for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blow {
    pub at: Duration,
    pub kind: BlowKind,
    pub away_for: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlowKind {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Terminate,
    /// SIGSTOP, for longer than a lease, then SIGCONT.
    Pause,
    /// Postgres' fast shutdown.
    StopFast,
    /// Postgres' immediate shutdown: as after a crash.
    StopImmediate,
}

impl fmt::Display for BlowKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "SIGKILL",
            Self::Terminate => "SIGTERM",
            Self::Pause => "SIGSTOP",
            Self::StopFast => "fast stop",
            Self::StopImmediate => "immediate stop",
        })
    }
}

/// How the processes of one role are struck.
struct Role {
    kinds: &'static [BlowKind],
    /// Time in peace between two blows.
    peace: Range<f64>,
    /// Time away after everything but a pause.
    away: Range<f64>,
}

impl Plan {
    pub fn new(options: &Options) -> Self {
        let mut random = ChaCha12Rng::seed_from_u64(options.seed);
        let customers = customers(options, &mut random);
        Self { customers, blows: blows(options, &mut random) }
    }
}

fn customers(options: &Options, random: &mut ChaCha12Rng) -> Vec<Customer> {
    let share = |of_all: f64| ((options.orders as f64 * of_all) as usize).max(1);
    let latest = options.records_within.as_secs_f64();
    let mut records: Vec<Record> = (0..options.orders)
        .map(|number| {
            let after = Duration::from_secs_f64(random.random_range(0.0..latest));
            match number {
                number if number < share(NEVER) => Record::Never,
                number if number < share(NEVER) + share(WRONG) => Record::Wrong { after },
                _ => Record::Right { after },
            }
        })
        .collect();
    records.shuffle(random);
    let arrivals = options.arrivals_for.as_secs_f64();
    let mut customer = |(index, record)| Customer {
        name: format!("chaos-{}.example.com", index + 1),
        arrives_at: Duration::from_secs_f64(random.random_range(0.0..arrivals)),
        replica: random.random_range(0..options.apis),
        asks_twice: random.random_bool(ASKS_TWICE),
        record,
        checks: random.random_bool(CHECKS),
    };
    records.into_iter().enumerate().map(&mut customer).collect()
}

fn blows(options: &Options, random: &mut ChaCha12Rng) -> BTreeMap<String, Vec<Blow>> {
    use BlowKind::{Kill, Pause, StopFast, StopImmediate, Terminate};
    let lease = options.lease_for.as_secs_f64();
    // Measured in leases, because a worker takes over lost rows only after one lease in peace: blows that came closer would prove
    // nothing but patience.
    let worker = Role { kinds: &[Kill, Terminate, Pause], peace: 1.7 * lease..3.4 * lease, away: 0.1..0.5 * lease };
    let api = Role { kinds: &[Kill, Terminate], peace: 0.9 * lease..2.0 * lease, away: 0.1..0.4 * lease };
    let database = Role { kinds: &[StopFast, StopImmediate], peace: 2.2 * lease..3.8 * lease, away: 0.1..0.5 * lease };
    let names = |role, count| (1..=count).map(move |number| format!("{role}-{number}"));
    let mut blows = BTreeMap::new();
    for (role, victims) in [
        (worker, names("worker", options.workers).collect()),
        (api, names("api", options.apis).collect()),
        (database, vec![postgres::NAME.to_owned()]),
    ] {
        blows.extend(blows_of(&role, victims, options, random));
    }
    blows
}

fn blows_of(
    role: &Role,
    victims: Vec<String>,
    options: &Options,
    random: &mut ChaCha12Rng,
) -> Vec<(String, Vec<Blow>)> {
    let mut deck = Vec::new();
    let mut next_kind = |random: &mut ChaCha12Rng| {
        // A deck, so that every kind comes, also in a short run.
        if deck.is_empty() {
            deck = role.kinds.to_vec();
            deck.shuffle(random);
        }
        deck.pop().expect("every role has kinds")
    };
    let mut planned: Vec<(String, Vec<Blow>)> = victims.into_iter().map(|victim| (victim, Vec::new())).collect();
    let end = options.storm_for.as_secs_f64();
    for (_, blows) in &mut planned {
        // The first one comes somewhere in the first time of peace, so that victims of one role do not fall in step.
        let mut at = random.random_range(0.1..1.0) * role.peace.end;
        while at < end {
            let kind = next_kind(random);
            let away_for = match kind {
                BlowKind::Pause => options.lease_for.as_secs_f64() * random.random_range(1.1..1.8),
                _ => random.random_range(role.away.clone()),
            };
            blows.push(Blow { at: Duration::from_secs_f64(at), kind, away_for: Duration::from_secs_f64(away_for) });
            at += away_for + random.random_range(role.peace.clone());
        }
    }
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_seed_another_one() {
        let plan = |seed| Plan::new(&Options::new(300, seed));
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7).customers, plan(8).customers);
        assert_ne!(plan(7).blows, plan(8).blows);
    }

    #[test]
    fn every_kind_of_blow_and_of_record_comes_also_in_a_small_run() {
        for seed in 0..50 {
            for options in [Options::new(300, seed), Options::small(15, seed)] {
                let plan = Plan::new(&options);
                let blows = plan.blows.values().flatten();
                for kind in [BlowKind::Kill, BlowKind::Terminate, BlowKind::Pause, BlowKind::StopFast] {
                    let is_alike = |blow: &&Blow| {
                        let of_postgres = [BlowKind::StopFast, BlowKind::StopImmediate];
                        blow.kind == kind || (of_postgres.contains(&kind) && of_postgres.contains(&blow.kind))
                    };
                    assert!(blows.clone().any(|blow| is_alike(&blow)), "seed {seed}: no {kind}");
                }
                let records = |is: fn(&Record) -> bool| plan.customers.iter().filter(|one| is(&one.record)).count();
                assert!(records(|record| *record == Record::Never) >= 1);
                assert!(records(|record| matches!(record, Record::Wrong { .. })) >= 1);
                assert!(records(|record| matches!(record, Record::Right { .. })) * 10 >= options.orders * 8);
            }
        }
    }

    #[test]
    fn a_pause_is_longer_than_a_lease_and_blows_on_one_process_do_not_overlap() {
        let options = Options::new(300, 1);
        for blows in Plan::new(&options).blows.values() {
            for blow in blows {
                assert!(blow.kind != BlowKind::Pause || blow.away_for > options.lease_for);
                assert!(blow.at < options.storm_for);
            }
            assert!(blows.windows(2).all(|pair| pair[0].at + pair[0].away_for < pair[1].at));
        }
    }
}
