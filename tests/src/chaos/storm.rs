//! Carries out the blows of a plan, each process in a task of its own, and keeps the record of who was away when.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::narrator::Narrator;
use super::plan::{Blow, BlowKind};
use crate::stack::waiting::pause_until;
use crate::stack::{Shutdown, Stack};

/// A process told to stop may take its SHUTDOWN_GRACE of 20 s, and a moment to give back what is left.
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// A time in which a process did not serve, from the blow until it served again.
#[derive(Clone, Debug)]
pub struct Absence {
    pub victim: String,
    pub kind: BlowKind,
    pub from: Instant,
    /// None while it lasts.
    pub until: Option<Instant>,
}

impl Absence {
    pub fn overlaps(&self, from: Instant, until: Instant) -> bool {
        self.from < until && self.until.is_none_or(|end| end > from)
    }
}

/// Everybody's absences so far.
#[derive(Clone, Default)]
pub struct Absences(Arc<Mutex<Vec<Absence>>>);

impl Absences {
    pub fn all(&self) -> Vec<Absence> {
        self.with(|absences| absences.clone())
    }

    fn begin(&self, victim: &str, kind: BlowKind) -> usize {
        self.with(|absences| {
            absences.push(Absence { victim: victim.to_owned(), kind, from: Instant::now(), until: None });
            absences.len() - 1
        })
    }

    fn end(&self, number: usize) -> Duration {
        self.with(|absences| {
            let now = Instant::now();
            absences[number].until = Some(now);
            now - absences[number].from
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Vec<Absence>) -> T) -> T {
        // Pushes and single writes: no panic can leave the list half-written.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Deals one process its blows, and leaves it serving. Returns what it did that no blow explains.
pub async fn strike(
    stack: Arc<Stack>,
    narrator: Narrator,
    absences: Absences,
    victim: String,
    blows: Vec<Blow>,
) -> Result<Vec<String>> {
    let mut unexplained = Vec::new();
    for blow in blows {
        pause_until(narrator.began() + blow.at).await;
        if !stack.is_running(&victim) {
            unexplained.push(format!("{victim} ended by itself"));
            stack.restart(&victim).await;
        }
        narrator.say(&format!("{victim:<10} {}", blow.kind));
        let absence = absences.begin(&victim, blow.kind);
        match blow.kind {
            BlowKind::Kill => stack.kill(&victim),
            BlowKind::Terminate => {
                let status = stack.terminate(&victim, STOPS_WITHIN).await;
                if !status.success() {
                    unexplained.push(format!("{victim} ended with {status} after SIGTERM"));
                }
            }
            BlowKind::Pause => stack.pause(&victim),
            BlowKind::StopFast => stack.stop_postgres(Shutdown::Fast).await,
            BlowKind::StopImmediate => stack.stop_postgres(Shutdown::Immediate).await,
        }
        pause_until(Instant::now() + blow.away_for).await;
        match blow.kind {
            BlowKind::Pause => stack.resume(&victim),
            _ => stack.restart(&victim).await,
        }
        let away_for = absences.end(absence);
        narrator.say(&format!("{victim:<10} is back after {:.1} s", away_for.as_secs_f64()));
    }
    Ok(unexplained)
}
