//! `countersignctl orders`: see orders, and act on those that failed or hang.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use countersign_shared::config::DatabaseAddress;
use countersign_shared::model::filter::{DEFAULT_LIMIT, MOST, OrderFilter};
use countersign_shared::model::ids::PublicId;
use countersign_shared::model::order::OrderState;
use countersign_shared::operator::{self, Deed, NewIds};
use countersign_shared::store::orders::overview::{self, OrderLine, OrderStory};
use countersign_shared::store::{Connection as _, PgConnection};

use serde_json::Value;

use super::output::{Ended, Report, at, at_or_none, or_none, print, print_json, print_more, print_table, wrong_usage};
use super::{REQUEST_ID, connect};

#[derive(Subcommand)]
pub(super) enum Orders {
    /// List orders, newest first
    List(List),
    /// Show all that is known of one order: its timeline, its job, the CA's problem
    Show(Show),
    /// Try again: an open order's job is due now; one that ended without a certificate gets a new order in its place
    Retry(Change),
    /// Cancel open orders; their customers may retry
    Cancel(Change),
}

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    filter: OrderFilter,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,
}

#[derive(Args)]
pub(super) struct Show {
    /// Id of the order
    id: String,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,
}

#[derive(Args)]
pub(super) struct Change {
    /// Ids of orders; without them the filter selects
    ids: Vec<String>,

    #[command(flatten)]
    filter: OrderFilter,

    /// Only say which orders are selected, and which of them would be refused
    #[arg(long)]
    dry_run: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Retry,
    Cancel,
}

impl Orders {
    pub(super) async fn run(self) -> anyhow::Result<Ended> {
        match self {
            Self::List(list) => list.run().await,
            Self::Show(show) => show.run().await,
            Self::Retry(change) => change.run(Verb::Retry).await,
            Self::Cancel(change) => change.run(Verb::Cancel).await,
        }
    }
}

impl List {
    async fn run(self) -> anyhow::Result<Ended> {
        let mut conn = connect(&self.database).await?;
        let limit = self.filter.limit.unwrap_or(DEFAULT_LIMIT);
        // One more than is shown tells whether there are more.
        let mut orders = overview::list(&mut conn, &self.filter, limit + 1).await?;
        let is_all = orders.len() <= usize::from(limit);
        orders.truncate(limit.into());
        let next_before = orders.last().filter(|_| !is_all).map(|last| &last.id);
        if self.json {
            return print_json(&serde_json::json!({ "orders": orders, "next_before": next_before }))
                .map(|()| Ended::Done);
        }
        print_table(&["ORDER", "DOMAIN", "STATE", "CODE", "CHANGED", "JOB"], orders.iter().map(row))?;
        print_more("before", next_before)?;
        Ok(Ended::Done)
    }
}

fn row(order: &OrderLine) -> Vec<String> {
    let job = match (order.due_at, order.parked_at, &order.leased_by) {
        (None, ..) => "-".to_owned(),
        (_, Some(parked_at), _) => format!("parked {}", at(parked_at)),
        (Some(until), _, Some(worker)) => format!("with {worker} until {}", at(until)),
        (Some(due_at), ..) => format!("due {}", at(due_at)),
    };
    vec![
        order.id.clone(),
        order.domain_name.clone(),
        order.state.clone(),
        or_none(order.code.as_ref()),
        at(order.updated_at),
        job,
    ]
}

impl Show {
    async fn run(self) -> anyhow::Result<Ended> {
        let mut conn = connect(&self.database).await?;
        let story = match PublicId::parse(&self.id) {
            Some(id) => overview::story(&mut conn, &id).await?,
            None => None,
        };
        let Some(story) = story else {
            eprintln!("countersignctl: there is no order {}", self.id);
            return Ok(Ended::NotFound);
        };
        if self.json {
            print_json(&story)?;
        } else {
            print_story(&story)?;
        }
        Ok(Ended::Done)
    }
}

fn print_story(order: &OrderStory) -> anyhow::Result<()> {
    let mut facts = vec![
        ("order", order.id.clone()),
        ("domain", format!("{} ({}, {})", order.domain_name, order.domain_id, order.domain_status)),
        ("state", order.state.clone()),
        ("created", at(order.created_at)),
        ("deadline", at_or_none(order.deadline_at)),
        ("record seen", at_or_none(order.seen_at)),
        ("ended", at_or_none(order.ended_at)),
        ("cleaned up", at_or_none(order.cleaned_up_at)),
        ("CA", or_none(order.directory.as_ref())),
        ("CA's order", or_none(order.acme_url.as_ref())),
    ];
    facts.extend(order.retry_of.clone().map(|id| ("retry of", id)));
    facts.extend(order.retried_by.clone().map(|id| ("retried by", id)));
    for authorization in &order.authorizations {
        let proved = authorization.proved_at.map_or(String::new(), |proved_at| format!(", proved {}", at(proved_at)));
        let wildcard = if authorization.wildcard { "*." } else { "" };
        facts.push(("name", format!("{wildcard}{}{proved}", authorization.identifier)));
        facts.push(("TXT value", authorization.txt_value.clone()));
        facts.push(("authorization", authorization.url.clone()));
    }
    let certificate = &order.certificate;
    facts.push(("certificate", format!("{} ({}, {})", certificate.id, certificate.algorithm, certificate.state)));
    if let Some(serial_number) = &certificate.serial_number {
        facts.push(("serial", format!("{serial_number}, until {}", at_or_none(certificate.not_after))));
    }
    if let Some(job) = &order.job {
        let where_to = match &job.leased_by {
            Some(worker) => format!("with {worker} until"),
            None => "due".to_owned(),
        };
        facts.push(("job", format!("{} ({}, {where_to} {})", job.id, job.state, at(job.due_at))));
        facts.push(("failures", format!("{} counted since it last advanced", job.attempts)));
        facts.extend(job.last_result.iter().flat_map(last_runs));
    }
    for (what, value) in facts {
        print(&format!("{what:<14}{value}"))?;
    }
    if let Some(problem) = &order.problem {
        print(&format!("\nProblem\n{}", serde_json::to_string_pretty(problem)?))?;
    }
    print("\nTimeline")?;
    let rows = order.events.iter().map(|event| {
        let detail = event.detail.as_ref().map_or(String::new(), ToString::to_string);
        vec![at(event.at), event.event.clone(), event.state.clone(), event.actor.clone(), detail]
    });
    print_table(&["AT", "EVENT", "STATE", "BY", "DETAIL"], rows)
}

/// What the job's last runs left, each with its time: what DNS showed, what failed, who was lost.
fn last_runs(result: &Value) -> Vec<(&'static str, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = Vec::new();
    if !result["result"].is_null() {
        let seen = format!("{}  {}: {}", text(&result["at"]), text(&result["result"]), text(&result["detail"]));
        lines.push(("last look-up", seen));
    }
    let failure = &result["failure"];
    if !failure.is_null() {
        let by = failure["by"].as_str().map_or(String::new(), |worker| format!(" (by {worker})"));
        lines.push(("last failure", format!("{}  {}{by}", text(&failure["at"]), text(&failure["detail"]))));
        lines.extend(failure["cause"].as_str().map(|cause| ("its cause", cause.to_owned())));
    }
    if !result["lost"].is_null() {
        lines.push(("last lost", format!("{}  by {}", text(&result["lost"]["at"]), text(&result["lost"]["by"]))));
    }
    lines.extend(result["parked"].as_str().map(|why| ("parked", why.to_owned())));
    lines
}

impl Change {
    async fn run(self, verb: Verb) -> anyhow::Result<Ended> {
        let by_filter = self.ids.is_empty();
        let is_paged = self.filter.newest || self.filter.limit.is_some() || self.filter.before.is_some();
        match (by_filter, self.filter.is_empty()) {
            (false, is_empty) if !is_empty || is_paged => wrong_usage("name orders or give a filter, not both"),
            (true, true) => wrong_usage("name orders, or give a filter that says which ones are meant"),
            _ => {}
        }
        let mut conn = connect(&self.database).await?;
        let (ids, next) = if by_filter { self.selected(&mut conn, verb).await? } else { (self.ids.clone(), None) };
        let mut report = Report::new(self.dry_run, self.json, "before", next);
        for id in ids {
            let deed = change(&mut conn, &id, verb, self.dry_run).await;
            let deed = deed.with_context(|| format!("order {id}: nothing was changed"));
            report.add(id, deed)?;
        }
        report.print()
    }

    /// The ids that the filter selects, and the last of them if it selects more.
    async fn selected(&self, conn: &mut PgConnection, verb: Verb) -> anyhow::Result<(Vec<String>, Option<String>)> {
        let mut filter = self.filter.clone();
        // What could not be changed anyway is not selected; of a parked job every order can.
        match verb {
            Verb::Retry if filter.parked => {}
            Verb::Retry => {
                filter.newest = true;
                if filter.state.is_empty() {
                    filter.state = vec![OrderState::Failed, OrderState::Cancelled];
                }
            }
            Verb::Cancel if filter.state.is_empty() => filter.state = OrderState::open(),
            Verb::Cancel => {}
        }
        let limit = filter.limit.unwrap_or(MOST);
        let orders = overview::list(conn, &filter, limit + 1).await?;
        let is_all = orders.len() <= usize::from(limit);
        let ids: Vec<String> = orders.into_iter().take(limit.into()).map(|order| order.id).collect();
        let next = ids.last().cloned().filter(|_| !is_all);
        Ok((ids, next))
    }
}

/// Each order in its own transaction: what is done is done, whatever becomes of the others. A dry run does it, too, and takes it
/// back.
async fn change(conn: &mut PgConnection, id: &str, verb: Verb, is_dry: bool) -> anyhow::Result<Deed> {
    let Some(public_id) = PublicId::parse(id) else {
        return Ok(Deed::NotFound);
    };
    let mut tx = conn.begin().await?;
    let deed = match verb {
        Verb::Retry => {
            let new = NewIds {
                order: PublicId::from_random(rand::random()),
                certificate: PublicId::from_random(rand::random()),
            };
            operator::retry_order(&mut tx, &public_id, &new, REQUEST_ID).await
        }
        Verb::Cancel => operator::cancel_order(&mut tx, &public_id, REQUEST_ID).await,
    };
    let deed = deed?;
    if is_dry {
        tx.rollback().await?
    } else {
        tx.commit().await?
    }
    Ok(deed)
}
