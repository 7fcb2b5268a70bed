//! "Write, see it, remove it": what a configuration must manage before it is accepted.

use std::time::Duration;

use countersign_shared::dns::TxtLookup;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::{PresenterError, Publisher};

/// For the answers of recursive resolvers to follow what was written.
const SEEN_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Error)]
pub enum TrialError {
    #[error("the value could not be written")]
    NotWritten(#[source] PresenterError),
    #[error("the value could not be removed")]
    NotRemoved(#[source] PresenterError),
    #[error("DNS could not be asked about {owner}: {why}")]
    NotAsked { owner: String, why: String },
    #[error("the value was written and is not seen at {0}")]
    NotSeen(String),
    #[error("the value was removed and is still seen at {0}")]
    StillThere(String),
}

impl TrialError {
    /// With its cause, in our words.
    pub fn told(&self) -> String {
        match self {
            Self::NotWritten(cause) | Self::NotRemoved(cause) => format!("{self}: {cause}"),
            _ => self.to_string(),
        }
    }
}

/// Writes a value at an owner name (with the final dot), sees it there, removes it, and sees it gone. Where the zone's
/// server is known it is asked, otherwise the resolvers are, for up to 30 s.
pub async fn run(publisher: &Publisher, owner_name: &str, value: &str, lookup: &TxtLookup) -> Result<(), TrialError> {
    let written = publisher.present(owner_name, value).await.map_err(TrialError::NotWritten);
    let seen = match written {
        Ok(()) => see(publisher, owner_name, value, lookup, true).await,
        Err(error) => Err(error),
    };
    // Also where it did not seem to work: what was written shall not stay.
    let removed = publisher.remove(owner_name, value, &[]).await.map_err(TrialError::NotRemoved);
    seen.and(removed)?;
    see(publisher, owner_name, value, lookup, false).await
}

async fn see(
    publisher: &Publisher,
    owner_name: &str,
    value: &str,
    lookup: &TxtLookup,
    is_there: bool,
) -> Result<(), TrialError> {
    let owner = owner_name.to_owned();
    let until = Instant::now() + SEEN_WITHIN;
    loop {
        let values = match publisher {
            Publisher::Nobody => return Ok(()),
            Publisher::Rfc2136(server) => server.values(owner_name).await.map_err(|error| error.to_string()),
            Publisher::TestDns(_) | Publisher::Webhook(_) => {
                let answer = lookup.txt(owner_name).await;
                answer.map(|answer| answer.values).map_err(|error| error.to_string())
            }
        };
        match values {
            Ok(values) if values.iter().any(|seen| seen == value) == is_there => return Ok(()),
            // Its own answer is true at once.
            Ok(_) if Instant::now() >= until || matches!(publisher, Publisher::Rfc2136(_)) => {
                return Err(if is_there { TrialError::NotSeen(owner) } else { TrialError::StillThere(owner) });
            }
            Err(why) if Instant::now() >= until || matches!(publisher, Publisher::Rfc2136(_)) => {
                return Err(TrialError::NotAsked { owner, why });
            }
            _ => sleep(LOOK_AGAIN_AFTER).await,
        }
    }
}
