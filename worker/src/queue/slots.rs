//! How many jobs this process runs at once, and how the lanes share that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_shared::store::jobs::Lane;
use tokio::sync::Notify;

/// Every lane keeps one slot free of the others, so that none starves: silent DNS may hold all the polls, but not a caller
/// who waits for an order to be placed. Housekeeping and deliveries take at most a quarter each.
pub struct Slots {
    total: usize,
    running: Mutex<[usize; 4]>,
    freed: Notify,
}

/// One slot in use; free again when dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    lane: Lane,
}

impl Slots {
    /// `total` is at least 4, so that every lane gets one.
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { total: total.max(4), running: Mutex::default(), freed: Notify::new() })
    }

    /// How many of `total` slots a lane may take.
    pub fn most(total: usize, lane: Lane) -> usize {
        match lane {
            Lane::Waiting | Lane::Orders => total,
            Lane::Housekeeping | Lane::Deliveries => total / 4,
        }
    }

    /// How many jobs of `lane` may start now.
    pub fn free_for(&self, lane: Lane) -> usize {
        let running = *self.running();
        let free = self.total - running.iter().sum::<usize>();
        let kept_for_others =
            Lane::ALL.into_iter().filter(|&other| other != lane && running[other as usize] == 0).count();
        free.saturating_sub(kept_for_others).min(Self::most(self.total, lane).saturating_sub(running[lane as usize]))
    }

    pub(super) fn take(self: &Arc<Self>, lane: Lane) -> Slot {
        self.running()[lane as usize] += 1;
        Slot { slots: Arc::clone(self), lane }
    }

    /// Ends when a slot has become free since the last call.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn running(&self) -> MutexGuard<'_, [usize; 4]> {
        // Four counters: no panic can leave them half-written.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.running()[self.lane as usize] -= 1;
        self.slots.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_lane_takes_the_last_slot_of_another() {
        let slots = Slots::new(8);
        let free = || Lane::ALL.map(|lane| slots.free_for(lane));
        assert_eq!(free(), [5, 5, 2, 2]);
        let mut held: Vec<Slot> = (0..5).map(|_| slots.take(Lane::Orders)).collect();
        assert_eq!(free(), [1, 0, 1, 1]);
        held.push(slots.take(Lane::Waiting));
        assert_eq!(free(), [0, 0, 1, 1]);
        held.push(slots.take(Lane::Deliveries));
        assert_eq!(free(), [0, 0, 1, 0], "deliveries leave the scheduled jobs their slot");
        held.push(slots.take(Lane::Housekeeping));
        assert_eq!(free(), [0, 0, 0, 0]);
        held.clear();
        assert_eq!(free(), [5, 5, 2, 2]);
        let smallest = Slots::new(4);
        assert_eq!(Lane::ALL.map(|lane| smallest.free_for(lane)), [1, 1, 1, 1]);
    }
}
