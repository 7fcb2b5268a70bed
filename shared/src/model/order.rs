//! One order: its states, the events that move it, and [`Order::apply`], the only place where a state changes.
//!
//! A state names what is already true and stored; the step that comes next is the worker's business.

use strum::{EnumIter, EnumString, IntoEnumIterator as _, IntoStaticStr};
use thiserror::Error;
use time::OffsetDateTime;

use super::certificate::{IssuedCertificate, KeyAlgorithm, StoredKeyAndCsr};
use super::identifier::DnsName;
use super::ids::PublicId;
use super::presenter::PublishedBy;
use super::problem::OrderProblem;

#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr, EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum OrderState {
    /// Order row and job are stored.
    Accepted,
    /// The CA's order and the TXT values are stored.
    Placed,
    /// The records are written, or the customer was told.
    Presented,
    /// The value was seen everywhere it has to be.
    Confirmed,
    /// The challenges are answered.
    Responded,
    /// The CA's order is `ready`.
    Authorized,
    /// Key and CSR are stored.
    Prepared,
    /// The CSR was sent.
    Finalizing,
    /// The certificate is stored.
    Issued,
    Failed,
    Cancelled,
}

impl OrderState {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Neither issued nor failed nor cancelled.
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Issued | Self::Failed | Self::Cancelled)
    }

    /// Every state that is open.
    pub fn open() -> Vec<Self> {
        Self::iter().filter(|state| state.is_open()).collect()
    }
}

/// The CA's authorization for one name of an order, and its dns-01 challenge (RFC 8555 sections 7.1.4, 8.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// DNS name without `*.`
    pub identifier: String,
    pub wildcard: bool,
    pub url: String,
    pub challenge_url: String,
    pub token: String,
    pub txt_value: String,
    /// When this domain row proved control, here or by an earlier proof of its own that the CA still honours.
    pub proved_at: Option<OffsetDateTime>,
}

/// Where the CA keeps an order that was placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub directory: String,
    pub acme_url: String,
    pub placed_at: OffsetDateTime,
    /// Until when the record may appear.
    pub deadline_at: OffsetDateTime,
}

/// What asked for an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum OrderOrigin {
    /// `POST /domains/{id}/issue-certificate`: it moves the domain's status.
    Challenge,
    /// An issue call of `/v2`.
    Order,
    /// The certificate that its own succeeds: by an issue call of `/v2`, or when its time has come.
    Renewal,
}

#[derive(Clone, Debug)]
pub struct Order {
    pub id: i64,
    pub public_id: PublicId,
    pub domain_id: i64,
    pub domain_name: DnsName,
    pub domain_is_deleted: bool,
    /// Whether its challenge name was an alias of its delegation target when it was last seen.
    pub domain_is_delegated: bool,
    pub certificate_id: i64,
    pub origin: OrderOrigin,
    /// Internal key of the failed order that this one tries again.
    pub retry_of: Option<i64>,
    pub published_by: PublishedBy,
    /// Of the domain, below the zone that our name servers answer for.
    pub delegation_label: String,
    pub algorithm: KeyAlgorithm,
    /// Every name the certificate must cover, as the CSR and the CA spell it.
    pub names: Vec<String>,
    pub state: OrderState,
    /// Grows with every event; a commit names the one it was computed from.
    pub revision: i64,
    /// While a caller waits: past this, an order still `accepted` is cancelled by whoever meets it.
    pub place_by: Option<OffsetDateTime>,
    pub placement: Option<Placement>,
    pub seen_at: Option<OffsetDateTime>,
    /// When the last event was stored; polls do not count.
    pub changed_at: OffsetDateTime,
    pub ended_at: Option<OffsetDateTime>,
    pub cleaned_up_at: Option<OffsetDateTime>,
    pub problem: Option<OrderProblem>,
    pub authorizations: Vec<Authorization>,
}

/// What can happen to an order. No `Debug`: one of them carries a private key.
#[derive(Clone, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum OrderEvent {
    Placed {
        placement: Placement,
        authorizations: Vec<Authorization>,
    },
    Presented,
    /// The value was seen for the first time: the customer's clock stops.
    Seen {
        at: OffsetDateTime,
        /// Whether the challenge name of the domain itself was an alias of its delegation target; None: it cannot be said.
        is_delegated: Option<bool>,
    },
    /// The challenge name of the domain is no alias of its delegation target any more: a person has to act.
    DelegationLost,
    Confirmed,
    Responded,
    /// Every authorization is valid by this order's own proof, or an earlier one of the same domain row.
    Authorized {
        at: OffsetDateTime,
    },
    Prepared(Box<StoredKeyAndCsr>),
    Finalizing,
    Issued {
        at: OffsetDateTime,
        certificate: Box<IssuedCertificate>,
    },
    GaveUp {
        at: OffsetDateTime,
        problem: OrderProblem,
    },
    Cancelled {
        at: OffsetDateTime,
        problem: OrderProblem,
    },
    /// Nothing is left at the CA or in DNS, or it was given up on with a finding.
    CleanedUp {
        at: OffsetDateTime,
        finding: Option<String>,
    },
}

impl OrderEvent {
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an order in state {state} cannot take the event {event}")]
pub struct IllegalTransition {
    pub state: &'static str,
    pub event: &'static str,
}

impl Order {
    pub fn apply(mut self, event: &OrderEvent) -> Result<Self, IllegalTransition> {
        use {OrderEvent as E, OrderState as S};
        self.state = match (self.state, event) {
            (S::Accepted, E::Placed { placement, authorizations }) => {
                self.placement = Some(placement.clone());
                self.authorizations.clone_from(authorizations);
                S::Placed
            }
            (S::Placed, E::Presented) => S::Presented,
            (S::Presented, E::Seen { at, is_delegated }) if self.seen_at.is_none() => {
                self.seen_at = Some(*at);
                self.domain_is_delegated = is_delegated.unwrap_or(self.domain_is_delegated);
                S::Presented
            }
            // Once: it is told when it is noticed.
            (state, E::DelegationLost) if state.is_open() && self.domain_is_delegated => {
                self.domain_is_delegated = false;
                state
            }
            (S::Presented, E::Confirmed) => S::Confirmed,
            (S::Confirmed, E::Responded) => S::Responded,
            (S::Responded, E::Authorized { at }) => {
                for authorization in &mut self.authorizations {
                    authorization.proved_at.get_or_insert(*at);
                }
                S::Authorized
            }
            (S::Authorized, E::Prepared(_)) => S::Prepared,
            (S::Prepared, E::Finalizing) => S::Finalizing,
            (S::Finalizing, E::Issued { at, .. }) => self.end(S::Issued, *at, None),
            (state, E::GaveUp { at, problem }) if state.is_open() => self.end(S::Failed, *at, Some(problem)),
            (state, E::Cancelled { at, problem }) if state.is_open() => self.end(S::Cancelled, *at, Some(problem)),
            (state, E::CleanedUp { at, .. }) if !state.is_open() && self.cleaned_up_at.is_none() => {
                self.cleaned_up_at = Some(*at);
                state
            }
            (state, event) => return Err(IllegalTransition { state: state.as_str(), event: event.name() }),
        };
        self.revision += 1;
        Ok(self)
    }

    fn end(&mut self, state: OrderState, at: OffsetDateTime, problem: Option<&OrderProblem>) -> OrderState {
        self.ended_at = Some(at);
        self.problem = problem.cloned();
        state
    }

    /// Whether the record need not be awaited: this domain's own earlier proof still holds at the CA for every name.
    pub fn is_proved(&self) -> bool {
        !self.authorizations.is_empty() && self.authorizations.iter().all(|one| one.proved_at.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::problem::ProblemCode;
    use crate::model::secret::AtRest;

    const AT: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn order(state: OrderState) -> Order {
        Order {
            id: 1,
            public_id: PublicId::from_random([1; 16]),
            domain_id: 1,
            domain_name: DnsName::parse("shop.example.com", false).unwrap(),
            domain_is_deleted: false,
            domain_is_delegated: true,
            origin: OrderOrigin::Challenge,
            retry_of: None,
            published_by: PublishedBy::CUSTOMER,
            delegation_label: "0".repeat(32),
            names: vec!["shop.example.com".to_owned()],
            certificate_id: 1,
            algorithm: KeyAlgorithm::Rsa2048,
            state,
            revision: 7,
            place_by: None,
            placement: None,
            seen_at: None,
            changed_at: AT,
            ended_at: (!state.is_open()).then_some(AT),
            cleaned_up_at: None,
            problem: None,
            authorizations: vec![authorization()],
        }
    }

    fn authorization() -> Authorization {
        Authorization {
            identifier: "shop.example.com".to_owned(),
            wildcard: false,
            url: "https://ca.example/authz/1".to_owned(),
            challenge_url: "https://ca.example/chall/1".to_owned(),
            token: "token".to_owned(),
            txt_value: "x".repeat(43),
            proved_at: None,
        }
    }

    fn events() -> Vec<OrderEvent> {
        let problem = OrderProblem::new(ProblemCode::CaRefused, &order(OrderState::Accepted).domain_name);
        let placement = Placement {
            directory: "https://ca.example/dir".to_owned(),
            acme_url: "https://ca.example/order/1".to_owned(),
            placed_at: AT,
            deadline_at: AT,
        };
        let certificate = IssuedCertificate {
            chain_pem: String::new(),
            not_before: AT,
            not_after: AT,
            serial_number: String::new(),
            fingerprint_sha256: String::new(),
            issuer: String::new(),
        };
        let key = StoredKeyAndCsr { private_key: AtRest::Sealed(Vec::new()), csr_pem: String::new() };
        vec![
            OrderEvent::Placed { placement, authorizations: vec![authorization()] },
            OrderEvent::Presented,
            OrderEvent::Seen { at: AT, is_delegated: None },
            OrderEvent::DelegationLost,
            OrderEvent::Confirmed,
            OrderEvent::Responded,
            OrderEvent::Authorized { at: AT },
            OrderEvent::Prepared(Box::new(key)),
            OrderEvent::Finalizing,
            OrderEvent::Issued { at: AT, certificate: Box::new(certificate) },
            OrderEvent::GaveUp { at: AT, problem: problem.clone() },
            OrderEvent::Cancelled { at: AT, problem },
            OrderEvent::CleanedUp { at: AT, finding: None },
        ]
    }

    /// Every state × every event: what is not listed is refused.
    #[test]
    fn the_whole_table_of_moves() {
        use OrderState as S;
        for state in S::iter() {
            for event in events() {
                let expected = match (state, event.name()) {
                    (S::Accepted, "placed") => Some(S::Placed),
                    (S::Placed, "presented") => Some(S::Presented),
                    (S::Presented, "seen") => Some(S::Presented),
                    (S::Presented, "confirmed") => Some(S::Confirmed),
                    (S::Confirmed, "responded") => Some(S::Responded),
                    (S::Responded, "authorized") => Some(S::Authorized),
                    (S::Authorized, "prepared") => Some(S::Prepared),
                    (S::Prepared, "finalizing") => Some(S::Finalizing),
                    (S::Finalizing, "issued") => Some(S::Issued),
                    (S::Issued | S::Failed | S::Cancelled, "cleaned_up") => Some(state),
                    (S::Issued | S::Failed | S::Cancelled, _) => None,
                    (_, "delegation_lost") => Some(state),
                    (_, "gave_up") => Some(S::Failed),
                    (_, "cancelled") => Some(S::Cancelled),
                    _ => None,
                };
                let after = order(state).apply(&event);
                assert_eq!(after.as_ref().ok().map(|o| o.state), expected, "{state:?} × {}", event.name());
                if let Ok(after) = after {
                    assert_eq!(after.revision, 8);
                    assert_eq!(after.ended_at.is_some(), !after.state.is_open());
                    assert_eq!(after.problem.is_some(), matches!(event.name(), "gave_up" | "cancelled"));
                }
            }
        }
    }

    #[test]
    fn the_first_sight_of_the_record_is_kept() {
        let seen = order(OrderState::Presented).apply(&OrderEvent::Seen { at: AT, is_delegated: None }).unwrap();
        assert_eq!(seen.seen_at, Some(AT));
        assert!(seen.apply(&OrderEvent::Seen { at: AT, is_delegated: None }).is_err());
    }

    #[test]
    fn a_delegation_is_lost_once_and_found_again_where_the_record_is_seen_through_it() {
        let lost = order(OrderState::Presented).apply(&OrderEvent::DelegationLost).unwrap();
        assert!(!lost.domain_is_delegated && lost.clone().apply(&OrderEvent::DelegationLost).is_err());
        let seen = |is_delegated| lost.clone().apply(&OrderEvent::Seen { at: AT, is_delegated }).unwrap();
        assert!(seen(Some(true)).domain_is_delegated && !seen(None).domain_is_delegated);
    }

    #[test]
    fn clean_up_happens_once() {
        let event = OrderEvent::CleanedUp { at: AT, finding: None };
        let cleaned = order(OrderState::Issued).apply(&event).unwrap();
        assert!(cleaned.apply(&event).is_err());
    }

    #[test]
    fn an_earlier_proof_keeps_its_time() {
        let mut responded = order(OrderState::Responded);
        let later = AT + time::Duration::HOUR;
        responded.authorizations[0].proved_at = Some(AT);
        let authorized = responded.apply(&OrderEvent::Authorized { at: later }).unwrap();
        assert_eq!(authorized.authorizations[0].proved_at, Some(AT));
    }
}
