//! The list of steps: one per state of an order, in the order of a life. Read this first.
//!
//! A step has one kind of outside effect and is safe to repeat: it looks first and acts if needed. It opens no
//! transaction and stores nothing itself: it returns what happened, and `advance` commits that.

mod authorize;
mod clean_up;
mod confirm;
mod diagnose;
mod download;
mod failure;
mod finalize;
mod place;
mod prepare;
mod present;
mod respond;

use std::time::Duration;

use countersign_shared::dns::TxtLookup;
use countersign_shared::doctor::Doctor;
use countersign_shared::model::certificate::KeyAndCsr;
use countersign_shared::model::challenge::challenge_owner;
use countersign_shared::model::delegation::ChallengeZone;
use countersign_shared::model::order::{Order, OrderEvent, OrderState};
use countersign_shared::model::presenter::PublishedBy;
use countersign_shared::model::problem::{OrderProblem, ProblemCode};
use countersign_shared::sealed::KeyRing;
use countersign_shared::store::{Pool, certificates, in_time};
use countersign_shared::telemetry::chain;
use time::OffsetDateTime;

use crate::acme::Acme;
use crate::keys::KeyMaker;
use crate::places::Places;
use crate::presenters::{PresenterError, Presenters, Publisher};
use crate::queue::Lease;
use crate::webhooks::Webhooks;

pub use failure::StepError;

/// For one thing that the CA was asked to do: to validate, or to issue.
const CA_MAY_TAKE: Duration = Duration::from_secs(3600);
/// For a CA that cannot be reached, limits our rate or does not accept our account, since the order last advanced.
const CA_MAY_BE_AWAY: Duration = Duration::from_secs(24 * 3600);

/// What a CA that validates and issues at once needs for it. The pause grows from the first: one that takes minutes is asked no more often
/// for it.
const SOONEST_ASKED_AGAIN: Duration = Duration::from_millis(15);

/// What the steps work with: facades, and the settings they obey.
pub struct Tools {
    pub pool: Pool,
    /// What secrets are sealed with.
    pub ring: KeyRing,
    pub acme: Acme,
    pub lookup: TxtLookup,
    pub doctor: Doctor,
    pub keys: KeyMaker,
    pub presenters: Presenters,
    /// Where challenges can be delegated to.
    pub challenge_zone: Option<ChallengeZone>,
    pub webhooks: Webhooks,
    /// Who is being delivered to, and for whom presenters are tried.
    pub places: Places,
    pub poll_interval: Duration,
    pub poll_timeout: Duration,
    pub confirm_grace: Duration,
    /// Counted failures after which a job is parked.
    pub max_attempts: i32,
    /// Whether the zones' own servers are asked for a value that was seen, before the CA is told.
    pub check_again: bool,
}

/// One run of one step.
pub struct Step<'a> {
    pub tools: &'a Tools,
    pub order: &'a Order,
    pub lease: &'a Lease,
}

pub enum StepOutcome {
    /// The effect is done: record it and go on at once.
    Advance(OrderEvent),
    /// Nothing is wrong, it is only too early. Not an attempt; only the job row is written.
    WaitUntil(OffsetDateTime, Option<serde_json::Value>),
}

type StepResult = Result<StepOutcome, StepError>;

/// Runs the step of the order's state.
pub async fn run(step: &Step<'_>) -> StepResult {
    if let Some(elsewhere) = step.placed_elsewhere() {
        return Ok(elsewhere);
    }
    // In boxes: a poll is not to carry the room that the other steps need.
    let outcome = match step.order.state {
        OrderState::Accepted => Box::pin(place::run(step)).await,
        OrderState::Placed => Box::pin(present::run(step)).await,
        OrderState::Presented => Box::pin(confirm::run(step)).await,
        OrderState::Confirmed => Box::pin(respond::run(step)).await,
        OrderState::Responded => Box::pin(authorize::run(step)).await,
        OrderState::Authorized => Box::pin(prepare::run(step)).await,
        OrderState::Prepared => Box::pin(finalize::run(step)).await,
        OrderState::Finalizing => Box::pin(download::run(step)).await,
        OrderState::Issued | OrderState::Failed | OrderState::Cancelled => Box::pin(clean_up::run(step)).await,
    };
    Box::pin(diagnose::explain(step, outcome?)).await
}

/// What the step of a state is called.
pub fn name(state: OrderState) -> &'static str {
    match state {
        OrderState::Accepted => "place",
        OrderState::Placed => "present",
        OrderState::Presented => "confirm",
        OrderState::Confirmed => "respond",
        OrderState::Responded => "authorize",
        OrderState::Authorized => "prepare",
        OrderState::Prepared => "finalize",
        OrderState::Finalizing => "download",
        OrderState::Issued | OrderState::Failed | OrderState::Cancelled => "clean_up",
    }
}

/// Whether the order's next step calls the CA, and so must respect a hold-back.
pub fn calls_ca(order: &Order) -> bool {
    use OrderState as S;
    matches!(order.state, S::Accepted | S::Confirmed | S::Responded | S::Prepared | S::Finalizing)
        || clean_up::calls_ca(order)
}

/// What is true as soon as `after` is: nothing has to be done for it, so it is stored in the same commit.
pub fn follows(after: &Order) -> Option<OrderEvent> {
    (after.state == OrderState::Placed && !after.published_by.presenter.writes()).then_some(OrderEvent::Presented)
}

/// Since the order last advanced.
fn waited(order: &Order, now: OffsetDateTime) -> Duration {
    Duration::try_from(now - order.changed_at).unwrap_or_default()
}

/// Whether the CA has kept an open order waiting for longer than anybody should: no fault of the CA keeps one open for ever.
pub fn waits_in_vain(order: &Order, now: OffsetDateTime) -> bool {
    order.state.is_open() && waited(order, now) > CA_MAY_BE_AWAY
}

impl Step<'_> {
    /// The database's time.
    fn now(&self) -> OffsetDateTime {
        self.lease.now()
    }

    fn problem(&self, code: ProblemCode) -> OrderProblem {
        OrderProblem::new(code, &self.order.domain_name)
    }

    fn give_up(&self, problem: OrderProblem) -> StepOutcome {
        StepOutcome::Advance(OrderEvent::GaveUp { at: self.now(), problem })
    }

    /// The CA's order. Every state past `accepted` has one; the schema says so too.
    fn acme_url(&self) -> Result<&str, StepError> {
        let placement = self.order.placement.as_ref();
        placement
            .map(|placement| placement.acme_url.as_str())
            .ok_or_else(|| StepError::bug("an order without a CA order"))
    }

    /// Key and CSR, which every state past `authorized` has stored.
    async fn key(&self) -> Result<KeyAndCsr, StepError> {
        let key = in_time(async {
            let mut conn = self.tools.pool.acquire().await?;
            certificates::key(&mut conn, &self.tools.ring, self.order.certificate_id).await
        });
        key.await?.ok_or_else(|| StepError::bug("a prepared order without a key"))
    }

    /// Who writes TXT records, this order's or those of another that shares a value with it.
    async fn publisher(&self, published_by: PublishedBy) -> Result<Publisher, StepError> {
        self.tools.presenters.of(published_by).await.map_err(|error| self.not_presented(&error))
    }

    /// Whether a challenge name is an alias of the domain's delegation target: our name servers answer there, whatever else is
    /// set for the account. None when it cannot be said.
    async fn leads_to_us(&self, owner_name: &str) -> Option<bool> {
        let target = self.tools.challenge_zone.as_ref()?.target(&self.order.delegation_label);
        self.tools.doctor.authoritative.leads_to(owner_name, &target).await
    }

    /// Whether the domain was delegated, this order needs it to be, and it is not any more.
    async fn has_lost_delegation(&self) -> bool {
        let order = self.order;
        let awaited = order.authorizations.iter().filter(|one| one.proved_at.is_none());
        // Another name of the domain says nothing of the domain itself.
        let own = awaited.map(|one| &one.identifier).find(|name| *name == order.domain_name.as_str());
        match own {
            Some(own) if order.domain_is_delegated => self.leads_to_us(&challenge_owner(own)).await == Some(false),
            _ => false,
        }
    }

    /// DNS that cannot be written is not the order's fault.
    fn not_presented(&self, error: &PresenterError) -> StepError {
        let detail = match error {
            PresenterError::NotSetUp(_) => error.to_string(),
            PresenterError::Store(_) => "the database failed".to_owned(),
            _ => "the TXT records could not be written".to_owned(),
        };
        StepError::Retry { after: None, counted: false, detail, cause: chain(error) }
    }

    /// Since the order last advanced.
    fn waited(&self) -> Duration {
        waited(self.order, self.now())
    }

    /// Whether the CA has kept this order waiting for longer than anybody should.
    fn waits_in_vain(&self) -> bool {
        waits_in_vain(self.order, self.now())
    }

    /// The CA needs a moment: ask again when it says, but soon at first and ever more rarely. After an hour it will not come
    /// any more.
    fn ask_again(&self, retry_after: Option<Duration>) -> StepOutcome {
        let waited = self.waited();
        if waited > CA_MAY_TAKE {
            return self.give_up(self.problem(ProblemCode::CaRefused).because("it did not finish within an hour"));
        }
        let patience = (waited / 3).clamp(SOONEST_ASKED_AGAIN, Duration::from_secs(60));
        let pause = retry_after.unwrap_or(patience).clamp(patience, CA_MAY_TAKE);
        StepOutcome::WaitUntil(self.now() + pause, None)
    }

    /// An order belongs to the directory it was placed at; this worker can speak to its own only.
    fn placed_elsewhere(&self) -> Option<StepOutcome> {
        let placement = self.order.placement.as_ref()?;
        if placement.directory == self.tools.acme.directory() {
            return None;
        }
        if self.order.state.is_open() {
            return Some(self.give_up(self.problem(ProblemCode::DirectoryChanged)));
        }
        let finding = clean_up::calls_ca(self.order)
            .then(|| format!("not cleaned up at {}, which this worker does not speak to", placement.directory));
        Some(StepOutcome::Advance(OrderEvent::CleanedUp { at: self.now(), finding }))
    }
}
