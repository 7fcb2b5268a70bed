//! The `/domains` surface: the life cycle of one domain, as documented.

mod cancel;
pub(crate) mod deletion;
pub(crate) mod error;
pub(crate) mod handlers;
mod issue;
mod verify;
mod view;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use countersign_shared::dns::TxtLookup;
use countersign_shared::model::delegation::ChallengeZone;
use countersign_shared::store::Pool;
use tokio::sync::broadcast;

use crate::diagnosis::Practice;

/// What the handlers need.
pub(crate) struct App {
    pub(crate) pool: Pool,
    pub(crate) lookup: TxtLookup,
    /// Public ids of orders that left `accepted`; an empty string means that some may have been missed.
    pub(crate) orders_moved: broadcast::Sender<String>,
    pub(crate) place_wait: Duration,
    pub(crate) allow_special_use_names: bool,
    /// Where challenges can be delegated to.
    pub(crate) challenge_zone: Option<ChallengeZone>,
    pub(crate) practice: Arc<Practice>,
}
