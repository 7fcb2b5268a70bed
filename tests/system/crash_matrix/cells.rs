//! The cells: where a worker is, and what happens to it there.

use std::fmt;

use countersign_tests::acme_front::{Kind, Moment};

#[derive(Clone, Copy)]
pub(super) struct Cell {
    pub(super) at: At,
    pub(super) way: Way,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum At {
    /// In a request to the CA: before the CA has it, or after the CA has done it.
    Request(Kind, Moment),
    /// In the transaction that stores this event: before COMMIT, or in the middle of it, so that it counts and nobody is told.
    Commit(&'static str, Moment),
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Way {
    /// SIGKILL.
    Kill,
    /// SIGTERM; what is held outlasts the grace.
    Terminate,
    /// SIGSTOP until another worker has taken over, then SIGCONT.
    Pause,
}

/// Every event that a worker stores on the way to a certificate, by a commit of its own but for `presented`, which the customer's
/// publishing leaves to that of `placed`: `others` has the commit that it is elsewhere.
pub(super) const EVENTS: [&str; 10] = [
    "placed",
    "presented",
    "seen",
    "confirmed",
    "responded",
    "authorized",
    "prepared",
    "finalizing",
    "issued",
    "cleaned_up",
];

impl At {
    /// Whether it happens while a caller waits for the order to be placed.
    pub(super) fn is_while_placing(self) -> bool {
        match self {
            Self::Request(kind, _) => self.is_once_per_worker() || kind == Kind::Authorization,
            Self::Commit(event, _) => event == "placed",
        }
    }

    /// Whether a worker does it once for all of its orders, or for one order at a time.
    pub(super) fn is_once_per_worker(self) -> bool {
        self.needs_fresh_workers() || matches!(self, Self::Request(Kind::NewOrder, _))
    }

    /// Whether only a worker that has not talked to the CA yet does it.
    pub(super) fn needs_fresh_workers(self) -> bool {
        matches!(self, Self::Request(Kind::Directory | Kind::NewNonce | Kind::NewAccount, _))
    }

    pub(super) fn needs_fresh_account(self) -> bool {
        matches!(self, Self::Request(Kind::NewAccount, _))
    }

    pub(super) fn is_in_commit(self) -> bool {
        matches!(self, Self::Commit(_, Moment::After))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.way {
            Way::Kill => "kill -9",
            Way::Terminate => "SIGTERM",
            Way::Pause => "SIGSTOP",
        };
        match self.at {
            At::Request(kind, moment) => write!(f, "{kind:?}, {moment:?} the CA acts, {way}"),
            At::Commit(event, Moment::Before) => write!(f, "commit of {event}, Before COMMIT, {way}"),
            At::Commit(event, Moment::After) => write!(f, "commit of {event}, in COMMIT, {way}"),
        }
    }
}
