//! What must be true when a run is over, and what is not. Judges what was gathered; asks nobody.

use std::collections::BTreeMap;
use std::fmt;

use super::customers::Story;
use super::plan::Record;

/// All that is known at the end of a run.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    pub stories: Vec<Story>,
    /// The oldest first.
    pub orders: Vec<OrderRow>,
    pub domains: Vec<DomainRow>,
    pub certificates: Vec<CertificateRow>,
    /// Jobs of orders, and leases of any job, in words.
    pub jobs_left: Vec<String>,
    pub at_the_ca: Vec<CaCertificate>,
    /// What processes did that no blow explains.
    pub unexplained: Vec<String>,
}

#[derive(Clone, Debug, sqlx::FromRow)]
pub struct OrderRow {
    pub public_id: String,
    pub name: String,
    pub state: String,
    pub code: Option<String>,
    pub placed: bool,
    pub cleaned_up: bool,
    /// Seconds since 1970.
    pub deadline_at: Option<f64>,
    pub txt_value: Option<String>,
}

#[derive(Clone, Debug, sqlx::FromRow)]
pub struct DomainRow {
    pub public_id: String,
    pub name: String,
    pub status: String,
    /// What GET shows.
    #[sqlx(skip)]
    pub shown: Option<String>,
}

/// A row of `certificates` in state `issued`.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct CertificateRow {
    pub name: String,
    /// Lower-case hex without leading zeros.
    pub serial: String,
    /// The issued orders that it was made for.
    pub orders: i64,
}

#[derive(Clone, Debug)]
pub struct CaCertificate {
    pub name: String,
    /// As in [`CertificateRow`].
    pub serial: String,
}

/// What is wrong, a sentence each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub lost: Vec<String>,
    pub duplicated: Vec<String>,
    pub inconsistent: Vec<String>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.duplicated.is_empty() && self.inconsistent.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, sentences) in
            [("LOST", &self.lost), ("DUPLICATED", &self.duplicated), ("INCONSISTENT", &self.inconsistent)]
        {
            sentences.iter().try_for_each(|sentence| writeln!(f, "  {what}: {sentence}"))?;
        }
        Ok(())
    }
}

impl OrderRow {
    pub fn has_ended(&self) -> bool {
        ["issued", "failed", "cancelled"].contains(&self.state.as_str())
    }

    fn described(&self) -> String {
        let code = self.code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
        format!("order {} for {} is {}{code}", self.public_id, self.name, self.state)
    }
}

pub fn judge(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::default();
    for order in &evidence.orders {
        if !order.has_ended() {
            verdict.lost.push(format!("{} and never ended", order.described()));
        } else if !order.cleaned_up {
            verdict.inconsistent.push(format!("{} and was never cleaned up", order.described()));
        }
    }
    judge_promises(evidence, &mut verdict);
    judge_domains(evidence, &mut verdict);
    judge_certificates(evidence, &mut verdict);
    verdict.inconsistent.extend(evidence.jobs_left.iter().map(|job| format!("{job} is left over")));
    verdict.inconsistent.extend(evidence.unexplained.iter().cloned());
    verdict
}

/// Every customer has an order, what was promised is stored, and it ended as the record deserved.
fn judge_promises(evidence: &Evidence, verdict: &mut Verdict) {
    let orders: BTreeMap<&str, &OrderRow> =
        evidence.orders.iter().map(|order| (order.public_id.as_str(), order)).collect();
    for story in &evidence.stories {
        if let Some(last) = &story.gave_up {
            verdict.lost.push(format!("{} never got an order; the last answer was {last}", story.name));
        }
        let mut distinct: Vec<&str> = story.promises.iter().map(|promise| promise.order_id.as_str()).collect();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() > 1 {
            verdict.duplicated.push(format!("{} was promised the orders {}", story.name, distinct.join(", ")));
        }
        for promise in &story.promises {
            let Some(order) = orders.get(promise.order_id.as_str()) else {
                let sentence = format!("order {} of {} was promised and is not stored", promise.order_id, story.name);
                verdict.lost.push(sentence);
                continue;
            };
            if order.txt_value.as_ref() != Some(&promise.txt_value) || order.name != story.name {
                let sentence = format!("{}, but the customer was told another value or name", order.described());
                verdict.inconsistent.push(sentence);
            }
        }
        let last = story.promises.last().and_then(|promise| orders.get(promise.order_id.as_str()));
        if let Some(order) = last.filter(|order| order.has_ended()) {
            verdict.inconsistent.extend(undeserved(order, story));
        }
    }
}

/// An order that ended otherwise than its record deserved. DNS and CA are in good health all the time, so a record in time is enough.
fn undeserved(order: &OrderRow, story: &Story) -> Option<String> {
    let refused = order.state == "failed" && order.code.as_deref() == Some("record_not_seen");
    let in_time = match (story.published_at, order.deadline_at) {
        (Some(published_at), Some(deadline_at)) => published_at < deadline_at,
        _ => false,
    };
    match story.record {
        Record::Right { .. } if in_time && order.state != "issued" => {
            Some(format!("{}, though its record was published in time", order.described()))
        }
        Record::Right { .. } if order.state != "issued" && !refused => {
            Some(format!("{}, unexpectedly", order.described()))
        }
        Record::Wrong { .. } | Record::Never if !refused => {
            Some(format!("{}, though its value was never published", order.described()))
        }
        _ => None,
    }
}

/// A domain says what its newest order says; one that was never placed says nothing.
fn judge_domains(evidence: &Evidence, verdict: &mut Verdict) {
    for domain in &evidence.domains {
        let orders = || evidence.orders.iter().filter(|order| order.name == domain.name);
        let open: Vec<&str> =
            orders().filter(|order| !order.has_ended()).map(|order| order.public_id.as_str()).collect();
        if open.len() > 1 {
            verdict.duplicated.push(format!("{} has the open orders {}", domain.name, open.join(", ")));
        }
        let statuses = match orders().rfind(|order| order.placed).map(|order| order.state.as_str()) {
            None => ["pending", "verified"].as_slice(),
            Some("issued") => &["active"],
            Some("failed") => &["failed"],
            Some(_) => &["certificate_pending"],
        };
        if !statuses.contains(&domain.status.as_str()) {
            let newest = orders().next_back().map_or("it has no order".to_owned(), OrderRow::described);
            verdict.inconsistent.push(format!("{} is {}, but {newest}", domain.name, domain.status));
        }
        if domain.shown.as_ref().is_some_and(|shown| *shown != domain.status) {
            let shown = domain.shown.as_deref().unwrap_or_default();
            let sentence = format!("{} is {}, but the API shows {shown}", domain.name, domain.status);
            verdict.inconsistent.push(sentence);
        }
    }
}

/// One certificate per issued order: the same one here and at the CA, and no other.
fn judge_certificates(evidence: &Evidence, verdict: &mut Verdict) {
    let mut names: BTreeMap<&str, (Vec<&str>, Vec<&str>, usize)> = BTreeMap::new();
    for stored in &evidence.certificates {
        names.entry(&stored.name).or_default().0.push(&stored.serial);
        if stored.orders != 1 {
            let sentence =
                format!("certificate {} of {} belongs to {} issued orders", stored.serial, stored.name, stored.orders);
            verdict.duplicated.push(sentence);
        }
    }
    for issued in &evidence.at_the_ca {
        names.entry(&issued.name).or_default().1.push(&issued.serial);
    }
    for order in evidence.orders.iter().filter(|order| order.state == "issued") {
        names.entry(&order.name).or_default().2 += 1;
    }
    for (name, (mut stored, mut issued, orders)) in names {
        for (count, what) in [
            (stored.len(), "certificates are stored"),
            (issued.len(), "certificates are at the CA"),
            (orders, "orders are issued"),
        ] {
            if count > 1 {
                verdict.duplicated.push(format!("{count} {what} for {name}"));
            }
        }
        if orders != stored.len() {
            verdict.inconsistent.push(format!("{name} has {orders} issued orders and {} certificates", stored.len()));
        }
        stored.sort_unstable();
        issued.sort_unstable();
        if stored != issued {
            let sentence = format!("{name} has {stored:?} stored, and {issued:?} at the CA");
            verdict.inconsistent.push(sentence);
        }
    }
}

#[cfg(test)]
mod tests;
