//! A customer who meets dead replicas: asks again, another replica each time, and looks at what is there before asking for more.
//!
//! What was promised to a customer is written down word for word: it is what the verdict holds Countersign to.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::Value;

use super::plan::{self, Record};
use crate::api_client::{Answer, ApiClient};
use crate::stack::dns::Dns;
use crate::stack::waiting::{pause_until, poll};

/// Nobody hammers on a service that has just failed.
const POLITE: Duration = Duration::from_millis(500);

/// How one customer fared.
#[derive(Clone, Debug)]
pub struct Story {
    pub name: String,
    pub record: Record,
    /// The orders whose TXT value the customer was told, the first one first.
    pub promises: Vec<Promise>,
    /// When the planned record was there, in seconds since 1970; the database has the same clock.
    pub published_at: Option<f64>,
    pub troubles: Troubles,
    /// The last answer before the customer lost patience without an order.
    pub gave_up: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    pub order_id: String,
    pub txt_value: String,
}

/// What customers met besides the documented answers of a healthy service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// No connection, or none that lived to the answer.
    pub no_answer: usize,
    /// 500: not placed in time.
    pub not_placed: usize,
    /// 503.
    pub unavailable: usize,
    /// 400: somebody else's call, or an earlier one without an answer, was quicker.
    pub too_late: usize,
}

/// How long a customer tries again before giving up.
#[derive(Clone, Copy)]
pub struct Patience {
    pub until: Instant,
}

impl Patience {
    fn left(self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

/// A visit from the registration to the published record.
pub async fn visit(
    apis: Vec<ApiClient>,
    dns: Dns,
    customer: plan::Customer,
    began: Instant,
    patience: Patience,
) -> Result<Story> {
    pause_until(began + customer.arrives_at).await;
    let story = Story::new(&customer.name, customer.record, []);
    let mut visit = Visit { apis, next: customer.replica, last: String::new(), rebuffed: false, story };
    match visit.order(&customer, &dns, patience).await? {
        Some(id) => visit.publish(&customer, &id, &dns).await?,
        None => visit.story.gave_up = Some(visit.last),
    }
    Ok(visit.story)
}

impl Story {
    /// Of a customer to whom nothing has happened but these promises.
    pub fn new(name: &str, record: Record, promises: impl IntoIterator<Item = Promise>) -> Self {
        Self {
            name: name.to_owned(),
            record,
            promises: promises.into_iter().collect(),
            published_at: None,
            troubles: Troubles::default(),
            gave_up: None,
        }
    }
}

struct Visit {
    apis: Vec<ApiClient>,
    next: usize,
    /// The last answer, for people.
    last: String,
    /// There was none, or it was that of a service in trouble.
    rebuffed: bool,
    story: Story,
}

impl Visit {
    /// Until there is an order with a value to publish: the domain's id, or None when patience ends first.
    async fn order(&mut self, customer: &plan::Customer, dns: &Dns, patience: Patience) -> Result<Option<String>> {
        let registered = poll(patience.left(), async || self.register(&customer.name).await).await;
        let Some((id, token)) = registered else { return Ok(None) };
        dns.set_txt(&record_of(&customer.name), &token).await?;
        let verified = poll(patience.left(), async || self.verify(&id).await).await;
        if verified.is_none() {
            return Ok(None);
        }
        if customer.asks_twice && self.apis.len() > 1 {
            let (first, second) = (self.replica().await, self.replica().await);
            let (first, second) = tokio::join!(first.try_issue(&id), second.try_issue(&id));
            for answer in [first, second] {
                self.issued(answer);
            }
        }
        let ordered = poll(patience.left(), async || self.issue(&id).await).await;
        Ok(ordered.map(|()| id))
    }

    async fn register(&mut self, name: &str) -> Option<(String, String)> {
        let answer = self.replica().await.try_register(name).await;
        let answer = self.noted(answer)?;
        match (answer.status, answer.error()) {
            (201, _) => Some((text(&answer.body["id"])?, text(&answer.body["verification_token"])?)),
            // An earlier call was stored, and its answer lost.
            (500, Some("the domain is already registered")) => self.find(name).await,
            _ => None,
        }
    }

    /// A registered domain among those not verified yet, with the token that its instructions end with.
    async fn find(&mut self, name: &str) -> Option<(String, String)> {
        let mut cursor = String::new();
        loop {
            let page = self.replica().await.try_list(&format!("status=pending&limit=200{cursor}")).await;
            let page = self.noted(page).filter(|answer| answer.status == 200)?.body;
            if let Some(domain) = page["domains"].as_array()?.iter().find(|domain| domain["domain_name"] == name) {
                let token = domain["instructions"].as_str()?.split_whitespace().next_back()?;
                return Some((text(&domain["id"])?, token.to_owned()));
            }
            cursor = format!("&cursor={}", page["next_cursor"].as_str()?);
        }
    }

    async fn verify(&mut self, id: &str) -> Option<()> {
        let answer = self.replica().await.try_verify(id).await;
        (self.noted(answer)?.status == 200).then_some(())
    }

    /// Looks first: an order may be there whose answer was lost.
    async fn issue(&mut self, id: &str) -> Option<()> {
        if !self.story.promises.is_empty() {
            return Some(());
        }
        let shown = self.replica().await.try_fetch(id).await;
        let shown = self.noted(shown).filter(|answer| answer.status == 200)?.body;
        match shown["status"].as_str()? {
            "certificate_pending" => {
                let (order_id, txt_value) = (text(&shown["order_id"])?, text(&shown["expected_txt_value"])?);
                self.story.promises.push(Promise { order_id, txt_value });
                return Some(());
            }
            "verified" => {
                let answer = self.replica().await.try_issue(id).await;
                self.issued(answer);
            }
            // It ended before its customer ever saw it.
            "failed" => {
                let answer = self.replica().await.try_retry(id).await;
                self.issued(answer);
            }
            _ => {}
        }
        (!self.story.promises.is_empty()).then_some(())
    }

    /// The answer to issuing or retrying.
    fn issued(&mut self, answer: Result<Answer>) {
        let Some(answer) = self.noted(answer) else { return };
        match answer.status {
            202 => {
                if let (Some(order_id), Some(txt_value)) =
                    (text(&answer.body["order_id"]), text(&answer.body["expected_txt_value"]))
                {
                    self.story.promises.push(Promise { order_id, txt_value });
                }
            }
            400 => self.story.troubles.too_late += 1,
            500 => self.story.troubles.not_placed += 1,
            _ => {}
        }
    }

    async fn publish(&mut self, customer: &plan::Customer, id: &str, dns: &Dns) -> Result<()> {
        // Of several orders the newest is the one that is awaited.
        let promised = self.story.promises.last().context("a customer with an order has a value")?.txt_value.clone();
        let (after, value) = match customer.record {
            Record::Right { after } => (after, promised),
            Record::Wrong { after } => (after, format!("not-{promised}")),
            Record::Never => return Ok(()),
        };
        pause_until(Instant::now() + after).await;
        dns.set_txt(&record_of(&customer.name), &value).await?;
        self.story.published_at = Some(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64());
        if customer.checks {
            // Only a hint, so an answer is not insisted on: the record is found without it, too.
            let answer = self.replica().await.try_check(id).await;
            self.noted(answer);
        }
        Ok(())
    }

    /// The next one to ask; after a rebuff, a moment later.
    async fn replica(&mut self) -> ApiClient {
        if std::mem::take(&mut self.rebuffed) {
            pause_until(Instant::now() + POLITE).await;
        }
        self.next += 1;
        self.apis[self.next % self.apis.len()].clone()
    }

    /// The answer, if there was one.
    fn noted(&mut self, answer: Result<Answer>) -> Option<Answer> {
        match answer {
            Ok(answer) => {
                self.last = format!("{} {}", answer.status, answer.body);
                self.story.troubles.unavailable += usize::from(answer.status == 503);
                self.rebuffed = answer.status >= 500;
                Some(answer)
            }
            Err(error) => {
                self.last = format!("no answer: {error:#}");
                self.story.troubles.no_answer += 1;
                self.rebuffed = true;
                None
            }
        }
    }
}

fn record_of(name: &str) -> String {
    format!("_acme-challenge.{name}")
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(ToOwned::to_owned)
}
