//! Diagnoses for callers of both surfaces: few at once in this process, fewer for one account, and one at a time for
//! each domain, because each is some dozens of questions to strangers' name servers.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use countersign_shared::doctor::Doctor;
use countersign_shared::model::diagnosis::Diagnosis;
use countersign_shared::store::domains::Domain;
use countersign_shared::store::{Pool, StoreError, accounts, orders};

const AT_ONCE: usize = 8;
/// For one account, so that nobody keeps all others out.
const OF_ACCOUNT: usize = AT_ONCE / 2;

pub(crate) struct Practice {
    doctor: Doctor,
    /// Domains that are looked at now, each with its account.
    under_way: Mutex<HashMap<i64, i64>>,
}

pub(crate) enum Refused {
    /// Ask again in a moment.
    Busy,
    Store(StoreError),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Refused {
    pub(crate) const BUSY: &str = "a diagnosis of this domain, or enough of others, is under way; try again";
}

/// A place among those being looked at, until it is dropped.
struct Place<'a> {
    practice: &'a Practice,
    domain_id: i64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.practice.under_way().remove(&self.domain_id);
    }
}

impl Practice {
    pub(crate) fn new(doctor: Doctor) -> Self {
        Self { doctor, under_way: Mutex::default() }
    }

    /// The owners of `/domains`, which are the default account's, have been told the ownership token.
    pub(crate) async fn diagnose(&self, pool: &Pool, account_id: i64, domain: &Domain) -> Result<Diagnosis, Refused> {
        let _place = self.admit(account_id, domain.id).ok_or(Refused::Busy)?;
        let (facts, now) = {
            let mut snapshot = pool.begin_snapshot().await?;
            let facts = self.doctor.facts_of_domain(&mut snapshot, domain, account_id == accounts::DEFAULT).await?;
            (facts, orders::now(&mut snapshot).await?)
        };
        let diagnosis = self.doctor.diagnose(&facts, now).await;
        let codes: Vec<&str> = diagnosis.findings.iter().map(|finding| finding.code.as_str()).collect();
        tracing::info!(domain.id = %domain.public_id, domain.name = %domain.name, findings = codes.join(" "), "diagnosed");
        Ok(diagnosis)
    }

    fn admit(&self, account_id: i64, domain_id: i64) -> Option<Place<'_>> {
        let mut under_way = self.under_way();
        let of_account = under_way.values().filter(|account| **account == account_id).count();
        if under_way.len() == AT_ONCE || of_account == OF_ACCOUNT || under_way.contains_key(&domain_id) {
            return None;
        }
        under_way.insert(domain_id, account_id);
        Some(Place { practice: self, domain_id })
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<i64, i64>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_shared::dns::Authoritative;

    #[test]
    fn a_domain_is_looked_at_once_at_a_time_and_few_are_and_fewer_of_one_account() {
        let authoritative = Authoritative::new(&["127.0.0.1:53".parse().unwrap()], true, true).unwrap();
        let practice = Practice::new(Doctor { authoritative, challenge_zone: None, caa_identities: Vec::new() });
        let first = practice.admit(1, 1);
        assert!(first.is_some() && practice.admit(1, 1).is_none());
        drop(first);
        let mut places: Vec<_> = (1..=4).map(|domain| practice.admit(1, domain).unwrap()).collect();
        assert!(practice.admit(1, 5).is_none(), "an account keeps nobody else out");
        places.extend((11..=14).map(|domain| practice.admit(2, domain).unwrap()));
        assert!(practice.admit(3, 21).is_none());
        places.pop();
        assert!(practice.admit(3, 21).is_some());
    }
}
