//! Who publishes the TXT records of orders that the customer does not publish by hand.
//!
//! A presenter adds and removes single values at owner names, and is safe to repeat. It knows nothing of orders.

mod test_dns;

use countersign_shared::model::presenter::{Presenter, PublishedBy};
use countersign_shared::store::StoreError;
use thiserror::Error;
use url::Url;

pub use test_dns::TestDns;

/// What this worker can publish with.
pub struct Presenters {
    test_dns: Option<TestDns>,
}

/// Who writes the records of one order.
pub enum Publisher<'a> {
    /// Nobody of ours: the customer does, or our name servers answer from the database.
    Nobody,
    TestDns(&'a TestDns),
}

#[derive(Debug, Error)]
pub enum PresenterError {
    #[error("this worker is not set up to publish TXT records by {0}")]
    NotSetUp(&'static str),
    #[error("the presenter's settings cannot be read")]
    Store(#[from] StoreError),
    #[error("the DNS server cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("the DNS server answered {0}")]
    Refused(u16),
}

impl Presenters {
    /// `test_dns`: management URL of a pebble-challtestsrv.
    pub fn new(test_dns: Option<&Url>) -> anyhow::Result<Self> {
        Ok(Self { test_dns: test_dns.map(TestDns::new).transpose()? })
    }

    pub async fn of(&self, published_by: PublishedBy) -> Result<Publisher<'_>, PresenterError> {
        match published_by.presenter {
            Presenter::Manual | Presenter::Delegated => Ok(Publisher::Nobody),
            presenter @ Presenter::TestDns => {
                self.test_dns.as_ref().map(Publisher::TestDns).ok_or(PresenterError::NotSetUp(presenter.as_str()))
            }
            presenter @ (Presenter::Rfc2136 | Presenter::Webhook) => Err(PresenterError::NotSetUp(presenter.as_str())),
        }
    }
}

impl Publisher<'_> {
    /// Adds a value at an owner name (with the final dot), beside those that are there.
    pub async fn present(&self, owner_name: &str, value: &str) -> Result<(), PresenterError> {
        match self {
            Self::Nobody => Ok(()),
            Self::TestDns(server) => server.present(owner_name, value).await,
        }
    }

    /// Removes one value. `others` are those that are still needed at the name: a server that can only empty a name keeps them
    /// all, until it is the last one's turn.
    pub async fn remove(&self, owner_name: &str, value: &str, others: &[String]) -> Result<(), PresenterError> {
        match self {
            Self::Nobody => Ok(()),
            _ if others.iter().any(|other| other == value) => Ok(()),
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
