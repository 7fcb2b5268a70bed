//! What is at each label, from Postgres: read once for many questions, and never older than half a second while Postgres answers.
//!
//! While it does not, what was read in the last hour is answered, and of everything else it is said that nobody knows.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use countersign_shared::store::{Pool, StoreError, delegations};
use countersign_shared::telemetry::chain;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::packet::Found;
use super::zone::Label;

/// A value must be seen within a second of its commit: a notification may be lost, and reading takes time too.
const REUSED_FOR: Duration = Duration::from_millis(500);
/// How old an answer may be while the database is away.
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// A database that takes longer is away. Those who ask give up soon after.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Pause between attempts to reach a database that is away.
const TRY_AGAIN: Duration = Duration::from_millis(200);
const MOST_ENTRIES: usize = 100_000;
/// Reads of one lane that run or wait: beyond them nobody would live to see the answer.
const MOST_READS: usize = 1_000;

pub(super) struct Records {
    pool: Pool,
    state: Mutex<State>,
    /// Questions about labels that nobody has heard of must not hold up the others: anybody can ask them.
    known: Lane,
    unheard_of: Lane,
    away: watch::Sender<bool>,
    reading: TaskTracker,
    began_at: Instant,
}

struct Lane {
    /// Never all connections of the pool.
    places: Semaphore,
    waiting: Semaphore,
}

#[derive(Default)]
struct State {
    kept: HashMap<Label, Kept>,
    reads: HashMap<Label, Read>,
    reads_so_far: u64,
}

/// What is known of a label.
struct Kept {
    what: What,
    read_at: Instant,
    has_changed: bool,
}

enum What {
    Values(Arc<[String]>),
    Nothing,
    /// Something was said to have changed here; nobody has asked yet.
    Announced,
}

/// A read that has not ended.
struct Read {
    number: u64,
    began_at: Instant,
    ended: watch::Receiver<Option<Found>>,
}

/// What can be said about a label at once.
enum Look {
    Found(Found),
    Await(watch::Receiver<Option<Found>>),
}

impl Kept {
    fn is_current(&self, now: Instant) -> bool {
        !self.has_changed && now < self.read_at + REUSED_FOR
    }

    fn is_of_use(&self, now: Instant) -> bool {
        self.is_current(now) || (self.is_known() && now < self.read_at + KEPT_FOR)
    }

    fn is_known(&self) -> bool {
        !matches!(self.what, What::Nothing)
    }
}

impl State {
    fn keep(&mut self, label: Label, kept: Kept) {
        if self.kept.len() >= MOST_ENTRIES && !self.kept.contains_key(&label) {
            let now = Instant::now();
            self.kept.retain(|_, kept| kept.is_of_use(now));
            if self.kept.len() >= MOST_ENTRIES {
                let mut ages: Vec<Instant> = self.kept.values().map(|kept| kept.read_at).collect();
                let (_, &mut median, _) = ages.select_nth_unstable(MOST_ENTRIES / 2);
                self.kept.retain(|_, kept| kept.read_at > median);
            }
        }
        self.kept.insert(label, kept);
    }

    /// For a database that does not answer.
    fn at_hand(&self, label: Label, now: Instant) -> Found {
        match self.kept.get(&label) {
            Some(Kept { what: What::Values(values), read_at, .. }) if now < *read_at + KEPT_FOR => {
                Found::Values(Arc::clone(values))
            }
            _ => Found::Away,
        }
    }
}

impl Records {
    /// The database counts as away until [`Self::watch_database`] has reached it.
    pub(super) fn new(pool: Pool) -> Arc<Self> {
        // Besides whoever asks whether this process is ready.
        let connections = (pool.max_connections() as usize).saturating_sub(1);
        let lane = |places: usize| Lane { places: Semaphore::new(places.max(1)), waiting: Semaphore::new(MOST_READS) };
        Arc::new(Self {
            known: lane(connections.div_ceil(2)),
            unheard_of: lane(connections / 2),
            pool,
            state: Mutex::default(),
            away: watch::Sender::new(true),
            reading: TaskTracker::new(),
            began_at: Instant::now(),
        })
    }

    /// What is at a label, if that is known without waiting.
    pub(super) fn at_once(self: &Arc<Self>, label: Label) -> Option<Found> {
        let (now, state) = (Instant::now(), self.state());
        if let Some(kept) = state.kept.get(&label).filter(|kept| kept.is_current(now)) {
            return Some(match &kept.what {
                What::Values(values) => Found::Values(Arc::clone(values)),
                What::Nothing | What::Announced => Found::Nothing,
            });
        }
        self.is_away().then(|| state.at_hand(label, now))
    }

    /// What is at a label, not older than half a second before the question.
    pub(super) async fn find(self: &Arc<Self>, label: Label) -> Found {
        match self.look(label) {
            Look::Found(found) => found,
            Look::Await(mut ended) => match ended.wait_for(Option::is_some).await {
                Ok(found) => found.clone().unwrap_or(Found::Away),
                // It panicked.
                Err(_) => Found::Away,
            },
        }
    }

    fn look(self: &Arc<Self>, label: Label) -> Look {
        if let Some(found) = self.at_once(label) {
            return Look::Found(found);
        }
        let (now, mut state) = (Instant::now(), self.state());
        if let Some(read) = state.reads.get(&label).filter(|read| now < read.began_at + REUSED_FOR) {
            return Look::Await(read.ended.clone());
        }
        self.begin_read(&mut state, label, now).map_or(Look::Found(Found::Away), Look::Await)
    }

    /// None where too many wait already.
    fn begin_read(
        self: &Arc<Self>,
        state: &mut State,
        label: Label,
        now: Instant,
    ) -> Option<watch::Receiver<Option<Found>>> {
        let is_known = state.kept.get(&label).is_some_and(Kept::is_known);
        let lane = if is_known { &self.known } else { &self.unheard_of };
        lane.waiting.try_acquire().ok()?.forget();
        state.reads_so_far += 1;
        let (number, (done, ended)) = (state.reads_so_far, watch::channel(None));
        state.reads.insert(label, Read { number, began_at: now, ended: ended.clone() });
        let records = Arc::clone(self);
        self.reading.spawn(async move {
            let found = records.read(label, number, is_known).await;
            done.send_replace(Some(found));
        });
        Some(ended)
    }

    async fn read(&self, label: Label, number: u64, is_known: bool) -> Found {
        let lane = if is_known { &self.known } else { &self.unheard_of };
        let place = tokio::time::timeout(ANSWER_WITHIN, lane.places.acquire()).await;
        lane.waiting.add_permits(1);
        let (read_at, result) = match place {
            Ok(_place) => (Instant::now(), Some(self.values(label).await)),
            Err(_) => (Instant::now(), None),
        };
        let mut state = self.state();
        // Another one has begun since, because something changed: this answer is for those who asked before.
        let is_latest = match state.reads.entry(label) {
            Entry::Occupied(entry) if entry.get().number == number => {
                entry.remove();
                true
            }
            _ => false,
        };
        match result {
            Some(Ok(values)) => {
                let (what, found) = match values {
                    Some(values) => {
                        let values: Arc<[String]> = values.into();
                        (What::Values(Arc::clone(&values)), Found::Values(values))
                    }
                    None => (What::Nothing, Found::Nothing),
                };
                if is_latest || state.kept.get(&label).is_none_or(|kept| kept.read_at < read_at) {
                    state.keep(label, Kept { what, read_at, has_changed: !is_latest });
                }
                found
            }
            Some(Err(error)) => {
                if !self.away.send_replace(true) {
                    tracing::warn!(error, "the database does not answer: only what is known is answered");
                }
                state.at_hand(label, read_at)
            }
            // Not the database's fault.
            None => Found::Away,
        }
    }

    async fn values(&self, label: Label) -> Result<Option<Vec<String>>, String> {
        let read = async {
            let mut conn = self.pool.acquire().await?;
            delegations::values(&mut conn, &label.to_string()).await
        };
        in_time(read).await
    }

    /// Follows the notifications about what has changed. Those that are missed cost half a second.
    pub(super) async fn listen(self: Arc<Self>, mut notified: broadcast::Receiver<String>, stop: CancellationToken) {
        let listening = async {
            loop {
                match notified.recv().await {
                    Ok(payload) => Label::parse(payload.as_bytes()).into_iter().for_each(|label| self.changed(label)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        };
        stop.run_until_cancelled(listening).await;
    }

    /// What was read no longer holds. What somebody has asked for is read again at once, so that it is known should the database go.
    fn changed(self: &Arc<Self>, label: Label) {
        let (now, mut state) = (Instant::now(), self.state());
        let is_being_read = state.reads.remove(&label).is_some();
        let has_values = match state.kept.get_mut(&label) {
            Some(kept) if kept.is_known() => {
                kept.has_changed = true;
                matches!(kept.what, What::Values(_))
            }
            _ => {
                // As old as can be, so that whatever is being read replaces it.
                let announced = Kept { what: What::Announced, read_at: self.began_at, has_changed: true };
                state.keep(label, announced);
                false
            }
        };
        if is_being_read || has_values {
            self.begin_read(&mut state, label, now);
        }
    }

    /// Notices when a database that was away is back.
    pub(super) async fn watch_database(self: Arc<Self>, stop: CancellationToken) {
        let watching = async {
            let mut away = self.away.subscribe();
            while away.wait_for(|is_away| *is_away).await.is_ok() {
                if in_time(self.pool.acquire()).await.is_ok() {
                    self.away.send_replace(false);
                    tracing::info!("the database answers");
                } else {
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        };
        stop.run_until_cancelled(watching).await;
    }

    fn is_away(&self) -> bool {
        *self.away.borrow()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked has left nothing half-written that the next read would not replace.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, String> {
    match tokio::time::timeout(ANSWER_WITHIN, work).await {
        Ok(result) => result.map_err(|error| chain(&error)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}
