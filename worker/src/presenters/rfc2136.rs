//! Publishes by dynamic updates to a zone's primary (RFC 2136), signed with a TSIG key (RFC 8945).
//!
//! A value is added beside others and removed by itself. Where the name is an alias within that server's zones, the value goes
//! where the alias leads.

mod exchange;

use std::net::SocketAddr;

use countersign_shared::model::presenter::{Rfc2136Settings, TsigAlgorithm, tsig_key};
use countersign_shared::model::secret::Secret;
use hickory_proto::ProtoError;
use hickory_proto::op::{Message, Query, ResponseCode, update_message};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::rdata::tsig::{self, TsigError};
use hickory_proto::rr::{Name, RData, Record, RecordType, TSigner};
use thiserror::Error;

use exchange::Channel;

/// Seconds; a resolver that saw the name without the value has forgotten it by then.
const TTL: u32 = 60;
/// Seconds by which clocks may differ (RFC 8945 section 10).
const FUDGE: u16 = 300;
const MOST_ALIASES: usize = 8;

pub struct Rfc2136 {
    channel: Channel,
    /// None: found by its SOA.
    zone: Option<Name>,
}

/// All but `NotBase64` and `NotAName` name the server: somebody must know where to look.
#[derive(Debug, Error)]
pub enum UpdateError {
    #[error("the TSIG key is not base64")]
    NotBase64,
    #[error("`{0}` is not a DNS name")]
    NotAName(String),
    #[error("the DNS server {server} cannot be reached")]
    Unreachable { server: SocketAddr, source: std::io::Error },
    #[error("the DNS server {0} does not answer")]
    Silent(SocketAddr),
    #[error("the DNS server {server} answers what makes no sense")]
    Malformed { server: SocketAddr, source: ProtoError },
    #[error("the DNS server {server} is not authoritative for {name}")]
    NotItsZone { server: SocketAddr, name: String },
    #[error("{name} is not in the zone {zone}")]
    NotInZone { name: String, zone: String },
    #[error("the DNS server {server} has an endless row of aliases at {name}")]
    TooManyAliases { server: SocketAddr, name: String },
    #[error("the DNS server {server} refused {what}: {code}")]
    Refused { server: SocketAddr, what: String, code: String },
    #[error("the DNS server {server} does not accept the TSIG key {key}: {reason}")]
    KeyRefused { server: SocketAddr, key: String, reason: &'static str },
    #[error("the answer of the DNS server {server} is not signed with the TSIG key {key}")]
    NotSigned { server: SocketAddr, key: String },
}

/// Where a value is written: an owner name, aliases followed, and its zone.
struct Place {
    name: Name,
    zone: Name,
}

impl Rfc2136 {
    pub(super) fn new(settings: &Rfc2136Settings, secret: Option<&Secret>) -> Result<Self, UpdateError> {
        let key = secret.and_then(tsig_key).ok_or(UpdateError::NotBase64)?;
        let algorithm = match settings.algorithm {
            TsigAlgorithm::HmacSha256 => tsig::TsigAlgorithm::HmacSha256,
            TsigAlgorithm::HmacSha384 => tsig::TsigAlgorithm::HmacSha384,
            TsigAlgorithm::HmacSha512 => tsig::TsigAlgorithm::HmacSha512,
        };
        let server = settings.server;
        // It fails for unknown algorithms only.
        let signer = TSigner::new(key, algorithm, absolute(&settings.key_name)?, FUDGE)
            .map_err(|error| UpdateError::Malformed { server, source: error.to_string().into() })?;
        let zone = settings.zone.as_deref().map(absolute).transpose()?;
        Ok(Self { channel: Channel { server, transport: settings.transport, signer }, zone })
    }

    /// Adds a value at an owner name; one that is there already stays as it is.
    pub async fn present(&self, owner_name: &str, value: &str) -> Result<(), UpdateError> {
        let place = self.place(owner_name).await?;
        let update = update_message::append(txt(&place.name, value).into(), place.zone.clone(), false, false);
        self.update(&place, update).await
    }

    /// Removes one value, if it is there.
    pub async fn remove(&self, owner_name: &str, value: &str) -> Result<(), UpdateError> {
        let place = self.place(owner_name).await?;
        let update = update_message::delete_by_rdata(txt(&place.name, value).into(), place.zone.clone(), false);
        self.update(&place, update).await
    }

    /// What this very server shows at an owner name.
    pub async fn values(&self, owner_name: &str) -> Result<Vec<String>, UpdateError> {
        let place = self.place(owner_name).await?;
        let answer = self.ask(&place.name, RecordType::TXT).await?;
        let values = answer.answers.iter().filter_map(|record| match &record.data {
            RData::TXT(txt) => Some(txt.txt_data.iter().map(|part| String::from_utf8_lossy(part)).collect()),
            _ => None,
        });
        Ok(values.collect())
    }

    async fn update(&self, place: &Place, message: Message) -> Result<(), UpdateError> {
        let answer = self.channel.ask(message).await?;
        match answer.metadata.response_code {
            ResponseCode::NoError => Ok(()),
            ResponseCode::NotAuth | ResponseCode::NotZone => {
                Err(UpdateError::NotItsZone { server: self.channel.server, name: place.zone.to_string() })
            }
            code => Err(self.refused(format!("the update of the zone {}", place.zone), code)),
        }
    }

    /// Asks for the SOA: that of the zone comes with the answer that the name has none, and so does an alias.
    async fn place(&self, owner_name: &str) -> Result<Place, UpdateError> {
        let server = self.channel.server;
        let mut name = absolute(owner_name)?;
        for _ in 0..=MOST_ALIASES {
            let answer = match (self.ask(&name, RecordType::SOA).await, &self.zone) {
                (Ok(answer), _) => answer,
                // It takes updates and answers no questions.
                (Err(UpdateError::Refused { .. } | UpdateError::NotItsZone { .. }), Some(_)) => Message::query(),
                (Err(error), _) => return Err(error),
            };
            let target = behind_aliases(&answer, &name);
            let is_end = target == name;
            name = target;
            let zone = match &self.zone {
                None => zone_of(&answer, &name),
                Some(zone) => is_end.then(|| zone.clone()),
            };
            match zone {
                Some(zone) if zone.zone_of(&name) => return Ok(Place { name, zone }),
                Some(zone) => return Err(UpdateError::NotInZone { name: name.to_string(), zone: zone.to_string() }),
                None if is_end => return Err(UpdateError::NotItsZone { server, name: name.to_string() }),
                // What is at the end of an alias, nobody has said yet.
                None => {}
            }
        }
        Err(UpdateError::TooManyAliases { server, name: owner_name.to_owned() })
    }

    async fn ask(&self, name: &Name, record_type: RecordType) -> Result<Message, UpdateError> {
        let mut question = Message::query();
        question.add_query(Query::query(name.clone(), record_type));
        let answer = self.channel.ask(question).await?;
        match answer.metadata.response_code {
            // A server that answers for others too is not to be mistaken for theirs.
            ResponseCode::NoError | ResponseCode::NXDomain if answer.metadata.authoritative => Ok(answer),
            ResponseCode::NoError | ResponseCode::NXDomain | ResponseCode::Refused | ResponseCode::NotAuth => {
                Err(UpdateError::NotItsZone { server: self.channel.server, name: name.to_string() })
            }
            code => Err(self.refused(format!("a question about {name}"), code)),
        }
    }

    fn refused(&self, what: String, code: ResponseCode) -> UpdateError {
        UpdateError::Refused { server: self.channel.server, what, code: mnemonic(code) }
    }
}

/// As an operator knows it from dig.
fn mnemonic(code: ResponseCode) -> String {
    format!("{code:?}").to_uppercase()
}

/// RFC 8945 section 5.3.2, in words.
fn key_fault(error: TsigError) -> &'static str {
    match error {
        TsigError::BadKey => "it does not know that name and algorithm (BADKEY)",
        TsigError::BadSig => "it has another secret (BADSIG)",
        TsigError::BadTime => "its clock and ours differ by more than five minutes (BADTIME)",
        TsigError::BadTrunc => "it wants another length of signatures (BADTRUNC)",
        TsigError::Unknown(_) => "for a reason that we do not know",
    }
}

fn absolute(text: &str) -> Result<Name, UpdateError> {
    let mut name = Name::from_ascii(text).map_err(|_| UpdateError::NotAName(text.to_owned()))?;
    name.set_fqdn(true);
    Ok(name)
}

fn txt(name: &Name, value: &str) -> Record {
    Record::from_rdata(name.clone(), TTL, RData::TXT(TXT::new(vec![value.to_owned()])))
}

/// The end of the aliases that an answer shows, from this name on.
fn behind_aliases(answer: &Message, name: &Name) -> Name {
    let mut end = name;
    // Each alias at most once, so that a circle ends.
    for _ in 0..answer.answers.len() {
        let alias = answer.answers.iter().find(|record| record.name == *end);
        match alias.map(|record| &record.data) {
            Some(RData::CNAME(target)) => end = target,
            _ => break,
        }
    }
    end.clone()
}

/// The zone that a name is in, as an answer to the question for its SOA tells.
fn zone_of(answer: &Message, name: &Name) -> Option<Name> {
    let mut soas =
        answer.answers.iter().chain(&answer.authorities).filter(|record| record.record_type() == RecordType::SOA);
    soas.find(|record| record.name.zone_of(name)).map(|record| record.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(from: &str, to: &str) -> Record {
        use hickory_proto::rr::rdata::CNAME;
        Record::from_rdata(absolute(from).unwrap(), 60, RData::CNAME(CNAME(absolute(to).unwrap())))
    }

    #[test]
    fn aliases_are_followed_as_far_as_the_answer_goes_and_a_circle_ends() {
        let mut answer = Message::query();
        answer.add_answers([alias("b.test.", "c.test."), alias("a.test.", "B.test.")]);
        let end = |answer: &Message| behind_aliases(answer, &absolute("a.test.").unwrap()).to_string();
        assert_eq!(end(&answer), "c.test.");
        assert_eq!(end(&Message::query()), "a.test.");
        answer.add_answers([alias("c.test.", "a.test.")]);
        end(&answer);
    }
}
