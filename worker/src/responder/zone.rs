//! The zone as it is whatever orders there are: apex, name servers, and the shape of the names below.

use std::fmt;
use std::net::IpAddr;

use anyhow::{Context as _, ensure};
use countersign_shared::model::delegation::ChallengeZone;
use hickory_server::proto::rr::rdata::{A, AAAA, NS, SOA};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordType};

/// What is there stays there: for SOA, NS and addresses.
const STANDING_TTL: u32 = 3600;
/// Values come and go with orders, and nobody may remember that one was not there.
pub(super) const PASSING_TTL: u32 = 1;

pub struct Zone {
    apex: LowerName,
    soa: SOA,
    name_servers: Vec<Name>,
    addresses: Vec<Record>,
}

/// A delegation label: the 32 digits of a random UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Label(u128);

impl Label {
    /// From lower case, as all names are compared.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        if text.len() != 32 || !text.iter().all(is_digit) {
            return None;
        }
        u128::from_str_radix(str::from_utf8(text).ok()?, 16).ok().map(Self)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What a name is in this zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Outside,
    Apex,
    /// A name server, or a name between one and the apex.
    NameServer,
    /// The orders of a domain are answered here, if there is such a domain.
    Label(Label),
    Nothing,
}

impl Zone {
    /// `contact`: a mail address, or a name that stands for one; `addresses`: those of name servers in the zone.
    pub fn new(
        apex: &ChallengeZone,
        name_servers: &[String],
        contact: Option<&str>,
        addresses: &[(String, IpAddr)],
    ) -> anyhow::Result<Self> {
        let apex = Name::from_ascii(apex.apex()).context("CHALLENGE_ZONE is no name")?;
        let mut servers = name_servers.iter().map(|text| name(text)).collect::<anyhow::Result<Vec<Name>>>()?;
        if servers.is_empty() {
            servers.push(apex.prepend_label("ns1")?);
        }
        let contact = match contact {
            None => apex.prepend_label("hostmaster")?,
            Some(text) => match text.split_once('@') {
                Some((mailbox, host)) => {
                    name(host)?.prepend_label(mailbox).context("DNS_CONTACT is no mail address")?
                }
                None => name(text)?,
            },
        };
        let mut glue = Vec::new();
        for (text, ip) in addresses {
            let owner = name(text)?;
            ensure!(
                servers.contains(&owner) && apex.zone_of(&owner),
                "{text} in DNS_ADDRESSES is no name server of DNS_NAME_SERVERS in the zone"
            );
            let address = match *ip {
                IpAddr::V4(ip) => RData::A(A(ip)),
                IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
            };
            glue.push(Record::from_rdata(owner, STANDING_TTL, address));
        }
        // Nobody transfers the zone, so that nobody compares serial numbers; the last field is how long nothing is remembered.
        let soa = SOA::new(servers[0].clone(), contact, 1, 3600, 600, 604_800, PASSING_TTL);
        Ok(Self { apex: LowerName::new(&apex), soa, name_servers: servers, addresses: glue })
    }

    pub(super) fn place(&self, name: &LowerName) -> Place {
        if !self.apex.zone_of(name) {
            return Place::Outside;
        }
        if *name == self.apex {
            return Place::Apex;
        }
        if self.name_servers.iter().any(|server| name.zone_of(&LowerName::new(server))) {
            return Place::NameServer;
        }
        if name.num_labels() != self.apex.num_labels() + 1 {
            return Place::Nothing;
        }
        Name::from(name).iter().next().and_then(Label::parse).map_or(Place::Nothing, Place::Label)
    }

    /// What is at the apex, of one type, under the name as it was asked for.
    pub(super) fn at_apex(&self, asked: &Name, record_type: RecordType) -> Vec<Record> {
        let standing = |data| Record::from_rdata(asked.clone(), STANDING_TTL, data);
        match record_type {
            RecordType::SOA => vec![standing(RData::SOA(self.soa.clone()))],
            RecordType::NS => self.name_servers.iter().map(|server| standing(RData::NS(NS(server.clone())))).collect(),
            _ => Vec::new(),
        }
    }

    /// The addresses of a name server, of one type, under the name as it was asked for.
    pub(super) fn at_name_server(&self, asked: &Name, record_type: RecordType) -> Vec<Record> {
        let of_it =
            self.addresses.iter().filter(|address| address.name == *asked && address.record_type() == record_type);
        of_it.map(|address| Record::from_rdata(asked.clone(), STANDING_TTL, address.data.clone())).collect()
    }

    /// The addresses of all name servers in the zone, for those who ask for the name servers.
    pub(super) fn glue(&self) -> &[Record] {
        &self.addresses
    }

    /// What goes with "there is nothing": from whom, and how long that may be remembered (RFC 2308).
    pub(super) fn negative(&self) -> Record {
        Record::from_rdata(Name::from(&self.apex), PASSING_TTL, RData::SOA(self.soa.clone()))
    }
}

/// An absolute name, with or without the final dot.
fn name(text: &str) -> anyhow::Result<Name> {
    let mut name = Name::from_ascii(text.trim()).with_context(|| format!("{text} is no name"))?;
    name.set_fqdn(true);
    Ok(name)
}
