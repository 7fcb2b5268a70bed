//! Who publishes the TXT records of orders that the customer does not publish by hand.
//!
//! A presenter adds and removes single values at owner names, and is safe to repeat. It knows nothing of orders.

mod rfc2136;
mod test_dns;
pub mod trial;
mod webhook;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_shared::model::presenter::{Presenter, PresenterSettings, PublishedBy};
use countersign_shared::model::secret::Secret;
use countersign_shared::sealed::KeyRing;
use countersign_shared::store::{Pool, StoreError, in_time, presenter_configs};
use thiserror::Error;
use url::Url;

pub use rfc2136::{Rfc2136, UpdateError};
pub use test_dns::TestDns;
pub use webhook::{WebhookError, WebhookPresenter};

use crate::outward::{OutwardHttp, SetupError};

/// For one request to a webhook.
const WEBHOOK_WITHIN: Duration = Duration::from_secs(10);
/// Configurations kept ready; they never change, so that the bound is for the memory's sake only.
const MOST_KEPT: usize = 256;

/// What this worker can publish with.
pub struct Presenters {
    pool: Pool,
    ring: KeyRing,
    test_dns: Option<TestDns>,
    configured: Configured,
    kept: Mutex<HashMap<i64, Publisher>>,
}

/// Makes publishers out of settings.
pub struct Configured {
    http: Arc<OutwardHttp>,
}

/// Who writes the records of one order.
#[derive(Clone)]
pub enum Publisher {
    /// Nobody of ours: the customer does, or our name servers answer from the database.
    Nobody,
    TestDns(TestDns),
    Rfc2136(Arc<Rfc2136>),
    Webhook(Arc<WebhookPresenter>),
}

#[derive(Debug, Error)]
pub enum PresenterError {
    #[error("this worker is not set up to publish TXT records by {0}")]
    NotSetUp(&'static str),
    #[error("the presenter's settings are gone")]
    Gone,
    #[error("the presenter's settings cannot be read")]
    Store(#[from] StoreError),
    #[error("the test DNS server cannot be reached")]
    TestDns(#[source] reqwest::Error),
    #[error("the test DNS server answered {0}")]
    TestDnsRefused(u16),
    #[error(transparent)]
    Update(#[from] UpdateError),
    #[error(transparent)]
    Webhook(#[from] WebhookError),
}

impl Configured {
    /// Where webhooks may lead, and the roots that are trusted for them besides the system's.
    pub fn new(allows_inward: bool, ca_file: Option<&Path>) -> Result<Self, SetupError> {
        let agent = concat!("countersign-presenter/", env!("CARGO_PKG_VERSION"));
        Ok(Self { http: Arc::new(OutwardHttp::new(agent, allows_inward, ca_file, WEBHOOK_WITHIN)?) })
    }

    pub fn publisher(
        &self,
        settings: &PresenterSettings,
        secret: Option<&Secret>,
    ) -> Result<Publisher, PresenterError> {
        Ok(match settings {
            PresenterSettings::Manual {} => Publisher::Nobody,
            PresenterSettings::Rfc2136(settings) => Publisher::Rfc2136(Arc::new(Rfc2136::new(settings, secret)?)),
            PresenterSettings::Webhook(settings) => {
                let webhook = WebhookPresenter::new(&self.http, settings.clone(), secret.cloned())?;
                Publisher::Webhook(Arc::new(webhook))
            }
        })
    }
}

impl Presenters {
    /// `test_dns`: management URL of a pebble-challtestsrv.
    pub fn new(pool: Pool, ring: KeyRing, test_dns: Option<&Url>, configured: Configured) -> anyhow::Result<Self> {
        let test_dns = test_dns.map(TestDns::new).transpose()?;
        Ok(Self { pool, ring, test_dns, configured, kept: Mutex::default() })
    }

    pub fn configured(&self) -> &Configured {
        &self.configured
    }

    pub async fn of(&self, published_by: PublishedBy) -> Result<Publisher, PresenterError> {
        match (published_by.presenter, published_by.config_id) {
            (Presenter::Manual | Presenter::Delegated, _) => Ok(Publisher::Nobody),
            (presenter @ Presenter::TestDns, _) => {
                let server = self.test_dns.clone().ok_or(PresenterError::NotSetUp(presenter.as_str()))?;
                Ok(Publisher::TestDns(server))
            }
            (Presenter::Rfc2136 | Presenter::Webhook, Some(id)) => self.configured_by(id).await,
            // The schema rules it out.
            (Presenter::Rfc2136 | Presenter::Webhook, None) => Err(PresenterError::Gone),
        }
    }

    async fn configured_by(&self, id: i64) -> Result<Publisher, PresenterError> {
        // Single insertions and removals: no panic can leave the map half-written.
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(publisher) = kept().get(&id) {
            return Ok(publisher.clone());
        }
        let loaded = in_time(async {
            let mut conn = self.pool.acquire().await?;
            presenter_configs::load(&mut conn, id).await
        });
        let config = loaded.await?.ok_or(PresenterError::Gone)?;
        let secret = config.secret(&self.ring).map_err(StoreError::from)?;
        let publisher = self.configured.publisher(&config.settings, secret.as_ref())?;
        let mut kept = kept();
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        kept.insert(id, publisher.clone());
        Ok(publisher)
    }
}

impl Publisher {
    /// Adds a value at an owner name (with the final dot), beside those that are there.
    pub async fn present(&self, owner_name: &str, value: &str) -> Result<(), PresenterError> {
        match self {
            Self::Nobody => Ok(()),
            Self::TestDns(server) => server.present(owner_name, value).await,
            Self::Rfc2136(server) => Ok(server.present(owner_name, value).await?),
            Self::Webhook(webhook) => Ok(webhook.present(owner_name, value).await?),
        }
    }

    /// Removes one value. `others` are those that are still needed at the name: a server that can only empty a name keeps them
    /// all, until it is the last one's turn.
    pub async fn remove(&self, owner_name: &str, value: &str, others: &[String]) -> Result<(), PresenterError> {
        match self {
            Self::Nobody => Ok(()),
            _ if others.iter().any(|other| other == value) => Ok(()),
            Self::Rfc2136(server) => Ok(server.remove(owner_name, value).await?),
            Self::Webhook(webhook) => Ok(webhook.remove(owner_name, value).await?),
            Self::TestDns(server) if others.is_empty() => server.remove_all(owner_name).await,
            // Again, because a run before this one may have emptied the name and died.
            Self::TestDns(server) => {
                for other in others {
                    server.present(owner_name, other).await?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator as _;

    use super::*;

    #[tokio::test]
    async fn nobody_publishes_exactly_where_a_worker_writes_nothing() {
        let pool = Pool::new("postgres://unreachable.invalid".parse().unwrap(), 1, Duration::from_secs(1));
        let configured = Configured::new(false, None).unwrap();
        let presenters = Presenters::new(pool, KeyRing::default(), None, configured).unwrap();
        for presenter in Presenter::iter() {
            let publisher = presenters.of(PublishedBy { presenter, config_id: None }).await;
            assert_eq!(matches!(publisher, Ok(Publisher::Nobody)), !presenter.writes(), "{presenter:?}");
        }
    }
}
