//! Places in the lane of what waits for customers' servers: so many at once for one account, and fewer for one of its
//! servers.
//!
//! What finds no place comes back later, and waits in no slot.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of one process at once: a slow server must not hold every place of its account.
const MOST_OF_SERVER: usize = 2;

/// Who is being waited for, so that neither a server nor an account holds every slot of the lane.
pub struct Places {
    most_of_account: usize,
    taken: Mutex<HashMap<Holder, Arc<Semaphore>>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Holder {
    Account(i64),
    Webhook(i64),
    /// The trials of an account.
    Trials(i64),
}

/// The right to call a server of a customer.
pub struct Place {
    _permits: [OwnedSemaphorePermit; 2],
}

impl Places {
    /// `most_of_account`: of one process for one account at once.
    pub fn new(most_of_account: usize) -> Self {
        Self { most_of_account: most_of_account.max(1), taken: Mutex::default() }
    }

    /// None when the webhook or its account has as many as it may.
    pub fn of_webhook(&self, account_id: i64, webhook_id: i64) -> Option<Place> {
        self.take(account_id, Holder::Webhook(webhook_id))
    }

    /// To try what the account wants its TXT records to be published by. None when it has as many as it may.
    pub fn of_trial(&self, account_id: i64) -> Option<Place> {
        self.take(account_id, Holder::Trials(account_id))
    }

    fn take(&self, account_id: i64, server: Holder) -> Option<Place> {
        // Single insertions and removals: no panic can leave the map half-written.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|_, places| Arc::strong_count(places) > 1);
        let mut permit = |holder, most| {
            let places = taken.entry(holder).or_insert_with(|| Arc::new(Semaphore::new(most)));
            Arc::clone(places).try_acquire_owned().ok()
        };
        let of_server = permit(server, MOST_OF_SERVER)?;
        let of_account = permit(Holder::Account(account_id), self.most_of_account)?;
        Some(Place { _permits: [of_server, of_account] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_two_places_and_an_account_as_many_as_it_may_and_none_of_others() {
        let places = Places::new(3);
        let mut held = vec![places.of_webhook(1, 1).unwrap(), places.of_webhook(1, 1).unwrap()];
        assert!(places.of_webhook(1, 1).is_none());
        held.push(places.of_webhook(1, 2).unwrap());
        assert!(places.of_webhook(1, 3).is_none() && places.of_webhook(2, 4).is_some());
        held.truncate(1);
        assert!(places.of_webhook(1, 1).is_some() && places.of_webhook(1, 3).is_some());
    }

    #[test]
    fn trials_share_the_places_of_their_account_and_leave_some_to_its_webhooks() {
        let places = Places::new(3);
        let mut held = vec![places.of_trial(1).unwrap(), places.of_trial(1).unwrap()];
        assert!(places.of_trial(1).is_none() && places.of_trial(2).is_some());
        held.push(places.of_webhook(1, 1).unwrap());
        assert!(places.of_webhook(1, 2).is_none());
        held.truncate(1);
        assert!(places.of_trial(1).is_some());
    }
}
