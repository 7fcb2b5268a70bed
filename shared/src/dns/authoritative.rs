//! The walk: finds the zone of a name and asks every server of it directly, without recursion; follows aliases from zone to
//! zone. The resolvers are asked only where zones and servers are.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::lookup::SetupError;
use super::question::{Asked, Question, Unanswered, ask};
use crate::model::address::is_inward;
use crate::model::walk::{Hop, ServerAnswer, ServerResult, Walk, WalkEnd};

/// Walks and other examinations under way at once in one process.
const CONCURRENT_WALKS: usize = 32;
/// Until one of them ends; who waits longer is told so.
const PLACE_WITHIN: Duration = Duration::from_secs(5);
/// One server, by UDP and TCP; and everything.
const SERVER_TIMEOUT: Duration = Duration::from_secs(3);
const WALK_TIMEOUT: Duration = Duration::from_secs(10);
/// One question to the resolvers.
const LOOK_TIMEOUT: Duration = Duration::from_secs(8);
/// Name servers of one zone that are looked up; no zone in earnest has more.
const MOST_SERVERS: usize = 13;
const MOST_ADDRESSES: usize = 16;
const MOST_HOPS: usize = 8;
/// Delegations below the zone that the resolvers know of.
const MOST_REFERRALS: usize = 4;
const DNS_PORT: u16 = 53;

/// Cheap to clone.
#[derive(Clone)]
pub struct Authoritative {
    resolvers: Arc<[SocketAddr]>,
    slots: Arc<Semaphore>,
    /// Until one of them is free.
    pub(super) place_within: Duration,
    /// Whether the zones' own servers may be asked at all.
    walks: bool,
    allows_inward: bool,
}

/// One walk or examination: it ends in time, whatever is silent.
pub(super) struct Search {
    resolvers: Arc<[SocketAddr]>,
    deadline: Instant,
    /// Also asks for the alias of a name that has TXT records: no sound server has both.
    is_thorough: bool,
    /// Whether servers in our own network are asked.
    allows_inward: bool,
}

/// A zone and where its servers are.
struct Cut {
    zone: Name,
    servers: Vec<(Name, Vec<IpAddr>)>,
}

enum Said {
    Answer(ServerAnswer),
    /// Another zone is to be asked.
    Referral(Cut),
    /// This host cannot get there: the address does not count.
    NoRoute,
}

impl Authoritative {
    /// `walks`: whether the network lets us reach other servers than the resolvers; `allows_inward`: whether they may be in our own
    /// network, where strangers' NS records could lead us.
    pub fn new(resolvers: &[SocketAddr], walks: bool, allows_inward: bool) -> Result<Self, SetupError> {
        let resolvers = if resolvers.is_empty() { system_resolvers()? } else { resolvers.to_vec() };
        Ok(Self {
            resolvers: resolvers.into(),
            slots: Arc::new(Semaphore::new(CONCURRENT_WALKS)),
            place_within: PLACE_WITHIN,
            walks,
            allows_inward,
        })
    }

    /// Asks for the TXT records at `owner` (absolute, with the trailing dot). An alias of `home` is not followed: that
    /// is a name of ours. Without a single hop where no server could be found, or may be asked.
    pub async fn walk(&self, owner: &str, home: Option<&str>) -> Walk {
        let Ok(owner) = Name::from_ascii(owner) else { return Walk::default() };
        if !self.walks {
            return Walk::default();
        }
        let Some(_place) = self.place().await else { return Walk::not_begun() };
        self.search(WALK_TIMEOUT, false).walk(owner, home).await
    }

    /// Whether `owner` is an alias of `target` (both absolute, with the trailing dot), also where nothing is at the
    /// target. None when no resolver can say.
    pub async fn leads_to(&self, owner: &str, target: &str) -> Option<bool> {
        let mut at = Name::from_ascii(owner).ok()?;
        let answer = self.search(LOOK_TIMEOUT, false).resolve(&at, RecordType::TXT, Asked::ResolverUnchecked).await?;
        if !matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return None;
        }
        for _ in 0..MOST_HOPS {
            match alias_of(&answer.answers, &at) {
                Some(alias) if alias == target => return Some(true),
                Some(alias) => at = Name::from_ascii(alias).ok()?,
                None => break,
            }
        }
        Some(false)
    }

    pub(super) fn walks(&self) -> bool {
        self.walks
    }

    /// None when too many are under way.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        tokio::time::timeout(self.place_within, self.slots.acquire()).await.ok()?.ok()
    }

    pub(super) fn search(&self, within: Duration, is_thorough: bool) -> Search {
        Search {
            resolvers: Arc::clone(&self.resolvers),
            deadline: Instant::now() + within,
            is_thorough,
            allows_inward: self.allows_inward,
        }
    }
}

fn system_resolvers() -> Result<Vec<SocketAddr>, SetupError> {
    let (config, _) = read_system_conf().map_err(SetupError)?;
    let port = |connections: &[hickory_resolver::config::ConnectionConfig]| {
        connections.first().map_or(DNS_PORT, |connection| connection.port)
    };
    Ok(config.name_servers.iter().map(|server| SocketAddr::new(server.ip, port(&server.connections))).collect())
}

impl Search {
    pub(super) async fn walk(&self, owner: Name, home: Option<&str>) -> Walk {
        let mut walk = Walk::default();
        let mut at = owner.to_lowercase();
        loop {
            let Some(cut) = self.cut(&at).await else {
                if !walk.hops.is_empty() {
                    walk.hops.push(Hop { owner: at.to_ascii(), ..Hop::default() });
                }
                return walk;
            };
            let hop = self.hop(&at, cut).await;
            let next = hop.alias.clone();
            walk.hops.push(hop);
            let Some(next) = next else { return walk };
            walk.ended = if home == Some(next.as_str()) {
                WalkEnd::Home
            } else if walk.hops.iter().any(|hop| hop.owner == next) {
                WalkEnd::Loop
            } else if walk.hops.len() == MOST_HOPS {
                WalkEnd::TooLong
            } else if let Ok(name) = Name::from_ascii(&next) {
                at = name;
                continue;
            } else {
                WalkEnd::TooLong
            };
            return walk;
        }
    }

    /// The zone that a name is in (RFC 8499: the closest SOA at or above it), and its servers.
    async fn cut(&self, owner: &Name) -> Option<Cut> {
        let mut at = owner.clone();
        loop {
            let answer = self.resolve(&at, RecordType::SOA, Asked::ResolverUnchecked).await?;
            match answer.metadata.response_code {
                // Where a zone's servers all fail, those of the zone above say where they are.
                ResponseCode::NoError | ResponseCode::NXDomain | ResponseCode::ServFail => {}
                // Not a resolver that could help.
                _ => return None,
            }
            let is_alias = alias_of(&answer.answers, &at).is_some();
            let soa = answer
                .answers
                .iter()
                .chain(&answer.authorities)
                .find(|record| matches!(record.data, RData::SOA(_)) && record.name.zone_of(&at));
            // The SOA that comes with an alias may be that of the zone it leads to.
            if let Some(soa) = soa.filter(|_| !is_alias) {
                let zone = soa.name.to_lowercase();
                let servers = self.resolve(&zone, RecordType::NS, Asked::ResolverUnchecked).await?;
                let names = name_servers(&servers.answers, &zone);
                return Some(Cut { servers: self.locate(names, &servers.additionals).await, zone });
            }
            if at.is_root() {
                return None;
            }
            at = at.base_name();
        }
    }

    /// Every server of the zone, or of the zone that they refer to.
    async fn hop(&self, owner: &Name, mut cut: Cut) -> Hop {
        for _ in 0..=MOST_REFERRALS {
            let mut servers = Vec::new();
            let mut referral = None;
            for said in self.ask_all(owner, &cut).await {
                match said {
                    Said::Answer(answer) => servers.push(answer),
                    Said::Referral(to) => referral = Some(to),
                    Said::NoRoute => {}
                }
            }
            match referral {
                Some(to) if servers.iter().all(|server| !server.has_answered()) => {
                    let names = to.servers.iter().map(|(name, _)| name.clone()).collect();
                    let located = self.locate(names, &[]).await;
                    // Glue is for names that cannot be found otherwise.
                    let servers = located.into_iter().zip(to.servers).map(|((name, found), (_, glue))| {
                        let addresses = if found.is_empty() { glue } else { found };
                        (name, addresses)
                    });
                    cut = Cut { zone: to.zone, servers: servers.collect() };
                }
                _ => {
                    let alias = servers.iter().find_map(|server| server.alias.clone());
                    return Hop { owner: owner.to_ascii(), zone: Some(cut.zone.to_ascii()), servers, alias };
                }
            }
        }
        Hop { owner: owner.to_ascii(), zone: Some(cut.zone.to_ascii()), ..Hop::default() }
    }

    /// At once, in the servers' order.
    async fn ask_all(&self, owner: &Name, cut: &Cut) -> Vec<Said> {
        let mut asking = JoinSet::new();
        let mut said = Vec::new();
        let mut seen = BTreeSet::new();
        for (name, addresses) in &cut.servers {
            if addresses.is_empty() {
                said.push((said.len() + asking.len(), Said::Answer(answer_of(name, None, ServerResult::Unreachable))));
            }
            for &address in addresses {
                // However many a stranger's answer has: each costs a question, or a line of what is told.
                if seen.len() == MOST_ADDRESSES || !seen.insert(address) {
                    continue;
                }
                let number = said.len() + asking.len();
                if !self.allows_inward && is_inward(address) {
                    said.push((number, Said::Answer(answer_of(name, None, ServerResult::Unreachable))));
                    continue;
                }
                let (owner, zone, name) = (owner.clone(), cut.zone.clone(), name.clone());
                let (within, is_thorough) = (self.left(), self.is_thorough);
                asking.spawn(
                    async move { (number, ask_server(&owner, &zone, &name, address, within, is_thorough).await) },
                );
            }
        }
        said.extend(asking.join_all().await);
        said.sort_by_key(|(number, _)| *number);
        said.into_iter().map(|(_, said)| said).collect()
    }

    /// The addresses of name servers, from what came along or from the resolvers.
    async fn locate(&self, names: Vec<Name>, known: &[Record]) -> Vec<(Name, Vec<IpAddr>)> {
        let mut asking = JoinSet::new();
        for (number, name) in names.into_iter().enumerate() {
            let known = addresses_of(known, &name);
            for kind in [RecordType::A, RecordType::AAAA] {
                let (name, known) = (name.clone(), known.clone());
                let search = self.again();
                asking.spawn(async move {
                    if !known.is_empty() {
                        return (number, name, known);
                    }
                    let found = search.resolve(&name, kind, Asked::ResolverUnchecked).await;
                    // Behind an alias too, which is forbidden and works.
                    let addresses = found.iter().flat_map(|answer| &answer.answers).filter_map(address);
                    let addresses = addresses.collect();
                    (number, name, addresses)
                });
            }
        }
        let mut found = asking.join_all().await;
        found.sort();
        let mut servers: Vec<(Name, Vec<IpAddr>)> = Vec::new();
        for (_, name, addresses) in found {
            match servers.last_mut() {
                Some((last, all)) if *last == name => all.extend(addresses),
                _ => servers.push((name, addresses)),
            }
        }
        servers.iter_mut().for_each(|(_, addresses)| {
            addresses.sort();
            addresses.dedup();
        });
        servers
    }

    /// What the first resolver says that can say something; None when none answers.
    pub(super) async fn resolve(&self, name: &Name, kind: RecordType, asked: Asked) -> Option<Message> {
        let question = Question { name: name.clone(), kind, asked };
        let mut failed = None;
        for &resolver in self.resolvers.iter() {
            let Ok(answer) = ask(resolver, &question, self.left()).await else { continue };
            match answer.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => return Some(answer),
                _ => failed = failed.or(Some(answer)),
            }
        }
        failed
    }

    pub(super) fn again(&self) -> Self {
        Self { resolvers: Arc::clone(&self.resolvers), ..*self }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).min(SERVER_TIMEOUT)
    }
}

async fn ask_server(
    owner: &Name,
    zone: &Name,
    server: &Name,
    address: IpAddr,
    within: Duration,
    is_thorough: bool,
) -> Said {
    let mut question = Question { name: owner.clone(), kind: RecordType::TXT, asked: Asked::Authoritative };
    let place = SocketAddr::new(address, DNS_PORT);
    let answer = match ask(place, &question, within).await {
        Ok(answer) => answer,
        Err(Unanswered::NoRoute) => return Said::NoRoute,
        Err(Unanswered::Silent) => return Said::Answer(answer_of(server, Some(address), ServerResult::Unreachable)),
    };
    if let Some(cut) = referral(&answer, owner, zone) {
        return Said::Referral(cut);
    }
    let mut said = ServerAnswer {
        values: txt_of(&answer.answers, owner),
        alias: alias_of(&answer.answers, owner),
        ..answer_of(server, Some(address), result_of(&answer, owner))
    };
    if is_thorough && said.result == ServerResult::Values && said.alias.is_none() {
        question.kind = RecordType::CNAME;
        let beside = ask(place, &question, within).await.ok();
        said.alias = beside.and_then(|answer| alias_of(&answer.answers, owner));
    }
    Said::Answer(said)
}

fn answer_of(server: &Name, address: Option<IpAddr>, result: ServerResult) -> ServerAnswer {
    let (server, address) = (server.to_lowercase().to_ascii(), address.map(|address| address.to_string()));
    ServerAnswer { server, address, result, values: Vec::new(), alias: None }
}

fn result_of(answer: &Message, owner: &Name) -> ServerResult {
    use ServerResult as R;
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain if !answer.metadata.authoritative => R::NotAuthoritative,
        // It knows the alias, and not where that leads.
        ResponseCode::ServFail if alias_of(&answer.answers, owner).is_some() => R::Alias,
        _ => recursive_result_of(answer, owner),
    }
}

/// The same of an answer that need not be authoritative.
pub(super) fn recursive_result_of(answer: &Message, owner: &Name) -> ServerResult {
    use ServerResult as R;
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain if !txt_of(&answer.answers, owner).is_empty() => R::Values,
        ResponseCode::NoError | ResponseCode::NXDomain if alias_of(&answer.answers, owner).is_some() => R::Alias,
        ResponseCode::NoError => R::NoRecord,
        ResponseCode::NXDomain => R::NameNotFound,
        ResponseCode::Refused => R::Refused,
        _ => R::ServerFailure,
    }
}

/// The servers of a zone below this one, if that is what the answer is.
fn referral(answer: &Message, owner: &Name, zone: &Name) -> Option<Cut> {
    if answer.metadata.authoritative || answer.metadata.response_code != ResponseCode::NoError {
        return None;
    }
    let is_below = |name: &Name| zone.zone_of(name) && name != zone && name.zone_of(owner);
    let below =
        answer.authorities.iter().find(|record| record.record_type() == RecordType::NS && is_below(&record.name))?;
    let zone = below.name.to_lowercase();
    let names = name_servers(&answer.authorities, &zone);
    let servers = names.into_iter().map(|name| (addresses_of(&answer.additionals, &name), name));
    Some(Cut { servers: servers.map(|(glue, name)| (name, glue)).collect(), zone })
}

fn name_servers(records: &[Record], zone: &Name) -> Vec<Name> {
    let of_zone = records.iter().filter(|record| record.name == *zone);
    let names = of_zone.filter_map(|record| match &record.data {
        RData::NS(name) => Some(name.to_lowercase()),
        _ => None,
    });
    // However many a stranger's answer has: each costs look-ups.
    BTreeSet::from_iter(names).into_iter().take(MOST_SERVERS).collect()
}

fn addresses_of(records: &[Record], name: &Name) -> Vec<IpAddr> {
    records.iter().filter(|record| record.name == *name).filter_map(address).collect()
}

fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

/// Values at the name itself, not at a name that it leads to. The strings of one record are joined.
pub(super) fn txt_of(records: &[Record], owner: &Name) -> Vec<String> {
    let here = records.iter().filter(|record| record.name == *owner);
    here.filter_map(|record| super::lookup::txt_value(&record.data)).collect()
}

pub(super) fn alias_of(records: &[Record], owner: &Name) -> Option<String> {
    records.iter().filter(|record| record.name == *owner).find_map(|record| super::lookup::alias(&record.data))
}

#[cfg(test)]
mod tests;
