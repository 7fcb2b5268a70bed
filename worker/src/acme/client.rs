//! [`Acme`]: what the steps ask of the CA, one request (or one short run of them) per call.
//!
//! It must not wait for the CA to make up its mind, and must not trust what it is told: URLs, tokens and names are checked
//! before anybody stores them.

mod keeping;
mod renewal;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_shared::sealed::KeyRing;
use countersign_shared::store::Pool;
use futures::future::try_join_all;
use instant_acme::{AuthorizationState, ChallengeType, Identifier, OrderState};
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::account::{AccountKey, AccountRecord, Accounts, PostgresRecord, Session};
use super::measured::asking;
use super::problem::{AcmeError, ErrorClass, Problem, RequestKind};
use super::transport::{SetupError, Wire};
use super::{Settings, is_base64url};

pub use keeping::Revoked;
pub use renewal::{RenewalWindow, certificate_id};

/// Authorizations of one order that are read at the same time.
const AUTHORIZATION_READS: usize = 8;

/// By then a rate limit is stored for the whole fleet, and `advance` asks there.
const LIMIT_IS_STORED_WITHIN: Duration = Duration::from_secs(2);

/// One CA and our account there. Cheap to clone.
#[derive(Clone)]
pub struct Acme(Arc<Inner>);

struct Inner {
    directory: String,
    accounts: Accounts,
    new_orders: Semaphore,
    /// Until when a rate limit that newOrder met holds back those that have waited for their turn meanwhile.
    limited_until: Mutex<Option<Instant>>,
}

/// The right to send one newOrder.
pub struct Turn<'a> {
    _permit: SemaphorePermit<'a>,
}

/// RFC 8555 §7.1.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderStatus {
    Pending,
    Ready,
    Processing,
    Valid,
    Invalid,
}

/// RFC 8555 §7.1.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorizationStatus {
    Pending,
    Valid,
    Invalid,
    Deactivated,
    Expired,
    Revoked,
}

#[derive(Clone, Debug)]
pub struct PlacedOrder {
    pub url: String,
    /// `Ready` or `Valid` for an order that the CA had already: see the rule on authorization reuse.
    pub status: OrderStatus,
    /// Exactly one for each name.
    pub authorizations: Vec<AuthorizationView>,
}

#[derive(Clone, Debug)]
pub struct OrderView {
    pub status: OrderStatus,
    pub authorization_urls: Vec<String>,
    pub problem: Option<Problem>,
    /// Only known after a read, not after finalize.
    pub retry_after: Option<Duration>,
}

#[derive(Clone, Debug)]
pub struct AuthorizationView {
    pub url: String,
    /// Without `*.`: the name below which the TXT record goes.
    pub identifier: String,
    pub wildcard: bool,
    pub status: AuthorizationStatus,
    /// `None` if the CA does not offer dns-01 for this identifier.
    pub dns01: Option<Dns01>,
    pub retry_after: Option<Duration>,
}

#[derive(Clone, Debug)]
pub struct Dns01 {
    pub url: String,
    pub token: String,
    /// What the TXT record must say (RFC 8555 §8.4).
    pub txt_value: String,
    pub problem: Option<Problem>,
}

impl Acme {
    /// Touches neither network nor database: the account is looked up, or registered, by the first call.
    pub fn new(settings: Settings, pool: Pool, ring: KeyRing) -> Result<Acme, SetupError> {
        let directory = settings.directory.to_string();
        Self::with_record(settings, Arc::new(PostgresRecord { pool, ring, directory }))
    }

    pub(super) fn with_record(settings: Settings, record: Arc<dyn AccountRecord>) -> Result<Acme, SetupError> {
        Ok(Acme(Arc::new(Inner {
            directory: settings.directory.to_string(),
            new_orders: Semaphore::new(settings.new_order_limit.max(1)),
            limited_until: Mutex::default(),
            accounts: Accounts::new(settings.clone(), Wire::new(&settings)?, record),
        })))
    }

    pub fn directory(&self) -> &str {
        &self.0.directory
    }

    /// Waits for a turn to send newOrder: there are `ACME_NEW_ORDER_LIMIT` at a time.
    pub async fn turn(&self) -> Turn<'_> {
        Turn { _permit: self.0.new_orders.acquire().await.expect("the semaphore is never closed") }
    }

    /// A turn, if nobody has it or waits for it.
    pub fn turn_now(&self) -> Option<Turn<'_>> {
        self.0.new_orders.try_acquire().ok().map(|permit| Turn { _permit: permit })
    }

    /// newOrder (RFC 8555 §7.4), which ends the turn, then a read of each authorization. `replaces` is the [`certificate_id`]
    /// of the certificate that the new one succeeds: a CA may think better of such an order (RFC 9773 §5).
    pub async fn place(
        &self,
        turn: Turn<'_>,
        names: &[String],
        replaces: Option<&str>,
    ) -> Result<PlacedOrder, AcmeError> {
        const KIND: RequestKind = RequestKind::NewOrder;
        let (url, state) = {
            let _turn = turn;
            self.check_limit()?;
            self.new_order(names, replaces).await.inspect_err(|error| self.note_limit(error, names))?
        };
        self.check_urls(KIND, [&url])?;
        let order = self.order_view(KIND, &state, None)?;
        self.with_authorizations(KIND, url, order, names).await
    }

    /// Who waited for a turn must not ask again what the CA has just refused to everybody.
    fn check_limit(&self) -> Result<(), AcmeError> {
        let limited_until = *self.limited_until();
        match limited_until.and_then(|until| until.checked_duration_since(Instant::now())) {
            Some(left) => Err(AcmeError::limited_before(RequestKind::NewOrder, left)),
            None => Ok(()),
        }
    }

    fn note_limit(&self, error: &AcmeError, names: &[String]) {
        let is_names_own = error.problem.as_ref().is_some_and(|problem| problem.is_about(names));
        if error.class == ErrorClass::RateLimited && !is_names_own {
            let hold_for = error.retry_after.unwrap_or(LIMIT_IS_STORED_WITHIN).min(LIMIT_IS_STORED_WITHIN);
            *self.limited_until() = Some(Instant::now() + hold_for);
        }
    }

    fn limited_until(&self) -> MutexGuard<'_, Option<Instant>> {
        // A single assignment: no panic can leave it half-written.
        self.0.limited_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An order that was placed before, as [`Self::place`] would have returned it.
    pub async fn placed(&self, order_url: &str, names: &[String]) -> Result<PlacedOrder, AcmeError> {
        let order = self.order(order_url).await?;
        self.with_authorizations(RequestKind::Order, order_url.to_owned(), order, names).await
    }

    async fn with_authorizations(
        &self,
        kind: RequestKind,
        url: String,
        order: OrderView,
        names: &[String],
    ) -> Result<PlacedOrder, AcmeError> {
        if order.authorization_urls.len() != names.len() {
            return Err(AcmeError::broken_protocol(kind, "the order has not one authorization for each name"));
        }
        let mut authorizations = Vec::with_capacity(names.len());
        for urls in order.authorization_urls.chunks(AUTHORIZATION_READS) {
            authorizations.extend(try_join_all(urls.iter().map(|url| self.authorization(url))).await?);
        }
        let ordered: BTreeSet<_> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        let authorized: BTreeSet<_> = authorizations.iter().map(AuthorizationView::name).collect();
        if ordered != authorized {
            return Err(AcmeError::broken_protocol(kind, "the order's authorizations are for other names"));
        }
        Ok(PlacedOrder { url, status: order.status, authorizations })
    }

    /// One POST-as-GET of the order.
    pub async fn order(&self, order_url: &str) -> Result<OrderView, AcmeError> {
        let (state, retry_after, _) = self.post(RequestKind::Order, order_url, "").await?;
        self.order_view(RequestKind::Order, &state, retry_after)
    }

    /// One POST-as-GET of the authorization (RFC 8555 §7.5).
    pub async fn authorization(&self, url: &str) -> Result<AuthorizationView, AcmeError> {
        const KIND: RequestKind = RequestKind::Authorization;
        let (state, retry_after, session): (AuthorizationState, _, _) = self.post(KIND, url, "").await?;
        let authorization = AuthorizationView::new(url, &state, retry_after, session.transport.key())?;
        self.check_urls(KIND, authorization.dns01.iter().map(|dns01| &dns01.url))?;
        Ok(authorization)
    }

    /// Tells the CA that the record is there (RFC 8555 §7.5.1). A challenge that is no longer pending is `LookAgain`.
    pub async fn respond(&self, challenge_url: &str) -> Result<(), AcmeError> {
        let kind = RequestKind::Challenge;
        self.post::<serde_json::Value>(kind, challenge_url, "{}").await.map(drop)
    }

    /// RFC 8555 §7.5.2. Whatever leaves nothing to deactivate is a success.
    pub async fn deactivate_authorization(&self, url: &str) -> Result<(), AcmeError> {
        if !self.can_be_deactivated(url).await? {
            return Ok(());
        }
        let deactivate = r#"{"status":"deactivated"}"#;
        let kind = RequestKind::Deactivate;
        match self.post::<AuthorizationState>(kind, url, deactivate).await {
            Ok((state, ..)) if state.status == instant_acme::AuthorizationStatus::Deactivated => Ok(()),
            Ok(_) => Err(AcmeError::broken_protocol(kind, "the authorization was not deactivated")),
            // It may have ended between look and act.
            Err(error) if error.class == ErrorClass::LookAgain => match self.can_be_deactivated(url).await? {
                true => Err(error),
                false => Ok(()),
            },
            Err(error) => Err(error),
        }
    }

    /// Sends the CSR (RFC 8555 §7.4) to an order that is `ready`; one that is `invalid` is an error that says why;
    /// any other is returned as it is.
    pub async fn finalize(&self, order_url: &str, csr_der: &[u8]) -> Result<OrderView, AcmeError> {
        const KIND: RequestKind = RequestKind::Finalize;
        let csr_der: Arc<[u8]> = csr_der.into();
        let state = self
            .call(|session| {
                let (order_url, csr_der) = (order_url.to_owned(), Arc::clone(&csr_der));
                async move {
                    let order = asking(RequestKind::Order, session.account.order(order_url)).await;
                    let mut order = order.map_err(|error| AcmeError::of_crate(RequestKind::Order, error))?;
                    if order.state().status == instant_acme::OrderStatus::Ready {
                        let sent = asking(KIND, order.finalize_csr(&csr_der)).await;
                        sent.map_err(|error| AcmeError::of_crate(KIND, error))?;
                    }
                    Ok(order.into_parts().1)
                }
            })
            .await?;
        let order = self.order_view(KIND, &state, None)?;
        match order.status {
            OrderStatus::Invalid => Err(AcmeError::of_dead_order(KIND, order.problem)),
            _ => Ok(order),
        }
    }

    /// The chain as PEM (RFC 8555 §7.4.2), `None` while the CA is still at it.
    pub async fn download(&self, order_url: &str) -> Result<Option<String>, AcmeError> {
        const KIND: RequestKind = RequestKind::Certificate;
        self.call(|session| {
            let order_url = order_url.to_owned();
            async move {
                let order = asking(RequestKind::Order, session.account.order(order_url)).await;
                let mut order = order.map_err(|error| AcmeError::of_crate(RequestKind::Order, error))?;
                let state = order.state();
                match OrderStatus::from(state.status) {
                    OrderStatus::Processing => Ok(None),
                    OrderStatus::Valid => {
                        let chain = asking(KIND, order.certificate()).await;
                        chain.map_err(|error| AcmeError::of_crate(KIND, error))
                    }
                    OrderStatus::Invalid => {
                        let problem = state.error.as_ref().map(Problem::from);
                        Err(AcmeError::of_dead_order(KIND, problem))
                    }
                    OrderStatus::Pending | OrderStatus::Ready => {
                        Err(AcmeError::wrong_state(KIND, "the order was not finalized"))
                    }
                }
            }
        })
        .await
    }

    /// Runs `request` as our account, and once more if the CA has forgotten the account, or was given another key for it.
    async fn call<T, F>(&self, request: impl Fn(Arc<Session>) -> F) -> Result<T, AcmeError>
    where
        F: Future<Output = Result<T, AcmeError>>,
    {
        let session = self.0.accounts.session().await?;
        match request(Arc::clone(&session)).await {
            Err(error) if error.account_is_unknown() => {
                tracing::warn!(error = %error, "the CA does not know our account; registering its key again");
                request(self.0.accounts.session_after(&session).await?).await
            }
            Err(error) if error.may_be_of_another_key() => self.by_another_key(&session, error, request).await,
            outcome => outcome,
        }
    }

    /// A signed POST outside the crate, which drops Retry-After and reaches authorizations only through their order. With the session
    /// whose signature was accepted: the value to publish is made with its key.
    async fn post<T: DeserializeOwned>(
        &self,
        kind: RequestKind,
        url: &str,
        payload: &'static str,
    ) -> Result<(T, Option<Duration>, Arc<Session>), AcmeError> {
        let (answer, session) = self
            .call(|session| {
                let url = url.to_owned();
                async move {
                    let answer = asking(kind, session.transport.signed_post(&url, payload.as_bytes())).await;
                    answer.map(|answer| (answer, session)).map_err(|failure| AcmeError::of_failure(kind, failure))
                }
            })
            .await?;
        let parsed = serde_json::from_slice(&answer.body).map_err(|error| AcmeError::broken_protocol(kind, error))?;
        Ok((parsed, answer.retry_after, session))
    }

    async fn can_be_deactivated(&self, url: &str) -> Result<bool, AcmeError> {
        use instant_acme::AuthorizationStatus::{Pending, Valid};
        match self.post::<AuthorizationState>(RequestKind::Authorization, url, "").await {
            Ok((state, ..)) => Ok(matches!(state.status, Pending | Valid)),
            // Gone, or no longer ours: nothing of it can be used for our account.
            Err(error) if error.class == ErrorClass::NewOrderNeeded => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn order_view(
        &self,
        kind: RequestKind,
        state: &OrderState,
        retry_after: Option<Duration>,
    ) -> Result<OrderView, AcmeError> {
        let authorizations = || state.authorizations.iter().map(|authorization| &authorization.url);
        self.check_urls(kind, authorizations().chain([&state.finalize]).chain(&state.certificate))?;
        Ok(OrderView {
            status: state.status.into(),
            authorization_urls: authorizations().cloned().collect(),
            problem: state.error.as_ref().map(Problem::from),
            retry_after,
        })
    }

    fn check_urls<'a>(&self, kind: RequestKind, urls: impl IntoIterator<Item = &'a String>) -> Result<(), AcmeError> {
        let wire = &self.0.accounts.wire;
        urls.into_iter()
            .try_for_each(|url| wire.check_url(url))
            .map_err(|refused| AcmeError::broken_protocol(kind, refused))
    }
}

impl AuthorizationView {
    /// The name as it was ordered, lower-case.
    fn name(&self) -> String {
        let star = if self.wildcard { "*." } else { "" };
        format!("{star}{}", self.identifier.to_ascii_lowercase())
    }

    fn new(
        url: &str,
        state: &AuthorizationState,
        retry_after: Option<Duration>,
        key: &AccountKey,
    ) -> Result<Self, AcmeError> {
        let broken = |what: &'static str| AcmeError::broken_protocol(RequestKind::Authorization, what);
        let Identifier::Dns(identifier) = state.identifier().identifier else {
            return Err(broken("an authorization that is not for a DNS name"));
        };
        let dns01 = match state.challenges.iter().find(|challenge| challenge.r#type == ChallengeType::Dns01) {
            None => None,
            // RFC 8555 §8.3: nothing else may go into a record.
            Some(challenge) if !is_base64url(&challenge.token) => {
                return Err(broken("a token that is not base64url"));
            }
            Some(challenge) => Some(Dns01 {
                url: challenge.url.clone(),
                token: challenge.token.clone(),
                txt_value: key.txt_value(&challenge.token),
                problem: challenge.error.as_ref().map(Problem::from),
            }),
        };
        Ok(AuthorizationView {
            url: url.to_owned(),
            identifier: identifier.clone(),
            wildcard: state.wildcard,
            status: state.status.into(),
            dns01,
            retry_after,
        })
    }
}

impl From<instant_acme::OrderStatus> for OrderStatus {
    fn from(status: instant_acme::OrderStatus) -> Self {
        match status {
            instant_acme::OrderStatus::Pending => Self::Pending,
            instant_acme::OrderStatus::Ready => Self::Ready,
            instant_acme::OrderStatus::Processing => Self::Processing,
            instant_acme::OrderStatus::Valid => Self::Valid,
            instant_acme::OrderStatus::Invalid => Self::Invalid,
        }
    }
}

impl From<instant_acme::AuthorizationStatus> for AuthorizationStatus {
    fn from(status: instant_acme::AuthorizationStatus) -> Self {
        match status {
            instant_acme::AuthorizationStatus::Pending => Self::Pending,
            instant_acme::AuthorizationStatus::Valid => Self::Valid,
            instant_acme::AuthorizationStatus::Invalid => Self::Invalid,
            instant_acme::AuthorizationStatus::Deactivated => Self::Deactivated,
            instant_acme::AuthorizationStatus::Expired => Self::Expired,
            instant_acme::AuthorizationStatus::Revoked => Self::Revoked,
        }
    }
}

#[cfg(test)]
impl Acme {
    pub(super) async fn place_now(&self, names: &[String]) -> Result<PlacedOrder, AcmeError> {
        self.place(self.turn().await, names, None).await
    }
}
