//! Diagnoses for callers of both surfaces: few at once in this process, and one at a time for each domain, because each is some
//! dozens of questions to strangers' name servers.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use countersign_shared::doctor::Doctor;
use countersign_shared::model::diagnosis::Diagnosis;
use countersign_shared::store::domains::Domain;
use countersign_shared::store::{BEGIN_SNAPSHOT, PgPool, StoreError, orders};

const AT_ONCE: usize = 8;

pub(crate) struct Practice {
    doctor: Doctor,
    /// Domains that are looked at now.
    under_way: Mutex<HashSet<i64>>,
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

    /// `awaits_token`: whether the domain's owner has been told the ownership token.
    pub(crate) async fn diagnose(
        &self,
        pool: &PgPool,
        domain: &Domain,
        awaits_token: bool,
    ) -> Result<Diagnosis, Refused> {
        let _place = self.admit(domain.id).ok_or(Refused::Busy)?;
        let (facts, now) = {
            let mut snapshot = pool.begin_with(BEGIN_SNAPSHOT).await.map_err(StoreError::from)?;
            let facts = self.doctor.facts_of_domain(&mut snapshot, domain, awaits_token).await?;
            (facts, orders::now(&mut snapshot).await?)
        };
        let diagnosis = self.doctor.diagnose(&facts, now).await;
        let codes: Vec<&str> = diagnosis.findings.iter().map(|finding| finding.code.as_str()).collect();
        tracing::info!(domain.id = %domain.public_id, domain.name = %domain.name, findings = codes.join(" "), "diagnosed");
        Ok(diagnosis)
    }

    fn admit(&self, domain_id: i64) -> Option<Place<'_>> {
        let mut under_way = self.under_way();
        if under_way.len() == AT_ONCE || !under_way.insert(domain_id) {
            return None;
        }
        Some(Place { practice: self, domain_id })
    }

    fn under_way(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_shared::dns::Authoritative;

    #[test]
    fn a_domain_is_looked_at_once_at_a_time_and_few_are() {
        let authoritative = Authoritative::new(&["127.0.0.1:53".parse().unwrap()], true, true).unwrap();
        let practice = Practice::new(Doctor { authoritative, challenge_zone: None, caa_identities: Vec::new() });
        let first = practice.admit(1);
        assert!(first.is_some() && practice.admit(1).is_none());
        drop(first);
        let mut places: Vec<_> = (1..=8).map(|domain| practice.admit(domain).unwrap()).collect();
        assert!(practice.admit(9).is_none());
        places.pop();
        assert!(practice.admit(9).is_some());
    }
}
