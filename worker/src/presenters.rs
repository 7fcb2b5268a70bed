//! Who publishes the TXT records of orders that the customer does not publish by hand.
//!
//! A presenter adds values and empties owner names, and is safe to repeat. It knows nothing of orders.

mod test_dns;

use countersign_shared::model::order::Presenter;
use thiserror::Error;
use url::Url;

pub use test_dns::TestDns;

/// What this worker can publish with.
pub struct Presenters {
    test_dns: Option<TestDns>,
}

#[derive(Debug, Error)]
pub enum PresenterError {
    #[error("this worker is not set up to publish TXT records by {0}")]
    NotSetUp(&'static str),
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

    /// None where the customer publishes.
    pub fn of(&self, presenter: Presenter) -> Result<Option<&TestDns>, PresenterError> {
        match presenter {
            Presenter::Manual => Ok(None),
            Presenter::TestDns => {
                self.test_dns.as_ref().map(Some).ok_or(PresenterError::NotSetUp(Presenter::TestDns.as_str()))
            }
        }
    }
}
