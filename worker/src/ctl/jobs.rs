//! `countersignctl jobs`: see the queue, un-park and park.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use countersign_shared::config::DatabaseAddress;
use countersign_shared::model::filter::{DEFAULT_LIMIT, JobFilter, MOST};
use countersign_shared::operator::{self, Deed};
use countersign_shared::store::acme_accounts::{self, Hold};
use countersign_shared::store::jobs::overview::{self, JobCount, JobLine};
use countersign_shared::store::{Connection as _, PgConnection};

use super::connect;
use super::output::{Ended, Report, at, at_or_none, or_none, print, print_json, print_more, print_table, wrong_usage};

#[derive(Subcommand)]
pub(super) enum Jobs {
    /// List jobs: what the workers have to do
    List(List),
    /// Show one job
    Show(Show),
    /// Make jobs due now, parked ones too, with all attempts before them
    Retry(Change),
    /// Stop jobs until they are retried; a run under way loses its outcome
    Park(Change),
    /// Count jobs by kind and lane, and say which CA accounts are held back
    Stats(Stats),
}

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    filter: JobFilter,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,
}

#[derive(Args)]
pub(super) struct Show {
    /// Id of the job
    id: i64,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,
}

#[derive(Args)]
pub(super) struct Change {
    /// Ids of jobs; without them the filter selects
    ids: Vec<i64>,

    #[command(flatten)]
    filter: JobFilter,

    /// Only say which jobs are selected, and which of them would be refused
    #[arg(long)]
    dry_run: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,
}

#[derive(Args)]
pub(super) struct Stats {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseAddress,
}

#[derive(Clone, Copy)]
enum Verb {
    Retry,
    Park,
}

impl Jobs {
    pub(super) async fn run(self) -> anyhow::Result<Ended> {
        match self {
            Self::List(list) => list.run().await,
            Self::Show(show) => show.run().await,
            Self::Retry(change) => change.run(Verb::Retry).await,
            Self::Park(change) => change.run(Verb::Park).await,
            Self::Stats(stats) => stats.run().await,
        }
    }
}

impl List {
    async fn run(self) -> anyhow::Result<Ended> {
        let mut conn = connect(&self.database).await?;
        let limit = self.filter.limit.unwrap_or(DEFAULT_LIMIT);
        // One more than is shown tells whether there are more.
        let mut jobs = overview::list(&mut conn, &self.filter, limit + 1).await?;
        let is_all = jobs.len() <= usize::from(limit);
        jobs.truncate(limit.into());
        let next_after = jobs.last().filter(|_| !is_all).map(|last| last.id);
        if self.json {
            print_json(&serde_json::json!({ "jobs": jobs, "next_after": next_after }))?;
        } else {
            let header = ["JOB", "KIND", "LANE", "STATE", "DUE, LEASED UNTIL", "WORKER", "FAILURES", "DOMAIN", "ORDER"];
            print_table(&header, jobs.iter().map(row))?;
            print_more("after", next_after)?;
        }
        Ok(Ended::Done)
    }
}

fn row(job: &JobLine) -> Vec<String> {
    vec![
        job.id.to_string(),
        job.kind.clone(),
        job.lane.to_string(),
        job.state.clone(),
        at(job.due_at),
        or_none(job.leased_by.as_ref()),
        job.attempts.to_string(),
        or_none(job.domain_name.as_ref()),
        or_none(job.order_id.as_ref()),
    ]
}

impl Show {
    async fn run(self) -> anyhow::Result<Ended> {
        let mut conn = connect(&self.database).await?;
        let Some(job) = overview::find(&mut conn, self.id).await? else {
            eprintln!("countersignctl: there is no job {}; a finished one is gone, its order is not", self.id);
            return Ok(Ended::NotFound);
        };
        if self.json {
            print_json(&job)?;
            return Ok(Ended::Done);
        }
        let facts = [
            ("job", job.id.to_string()),
            ("kind", job.kind),
            ("state", job.state),
            ("due", at(job.due_at)),
            ("worker", or_none(job.leased_by)),
            ("lane", job.lane.to_string()),
            ("claimed", format!("{} times", job.lease)),
            ("failures", format!("{} counted", job.attempts)),
            ("parked", at_or_none(job.parked_at)),
            ("created", at(job.created_at)),
            ("request", or_none(job.request_id)),
            ("order", or_none(job.order_id)),
            ("order's state", or_none(job.order_state)),
            ("domain", or_none(job.domain_name)),
            ("last run", or_none(job.last_result)),
        ];
        for (what, value) in facts {
            print(&format!("{what:<14}{value}"))?;
        }
        Ok(Ended::Done)
    }
}

impl Change {
    async fn run(self, verb: Verb) -> anyhow::Result<Ended> {
        let by_filter = self.ids.is_empty();
        let is_paged = self.filter.limit.is_some() || self.filter.after != 0;
        match (by_filter, self.filter.is_empty()) {
            (false, is_empty) if !is_empty || is_paged => wrong_usage("name jobs or give a filter, not both"),
            (true, true) => wrong_usage("name jobs, or give a filter that says which ones are meant"),
            _ => {}
        }
        let mut conn = connect(&self.database).await?;
        let (ids, next) = if by_filter { self.selected(&mut conn).await? } else { (self.ids.clone(), None) };
        let mut report = Report::new(self.dry_run, self.json, "after", next);
        for id in ids {
            let deed = change(&mut conn, id, verb, self.dry_run).await;
            report.add(id, deed.with_context(|| format!("job {id}: nothing was changed")))?;
        }
        report.print()
    }

    /// The ids that the filter selects, and the last of them if it selects more.
    async fn selected(&self, conn: &mut PgConnection) -> anyhow::Result<(Vec<i64>, Option<i64>)> {
        let limit = self.filter.limit.unwrap_or(MOST);
        let jobs = overview::list(conn, &self.filter, limit + 1).await?;
        let is_all = jobs.len() <= usize::from(limit);
        let ids: Vec<i64> = jobs.into_iter().take(limit.into()).map(|job| job.id).collect();
        let next = ids.last().copied().filter(|_| !is_all);
        Ok((ids, next))
    }
}

/// A dry run does it, too, and takes it back.
async fn change(conn: &mut PgConnection, id: i64, verb: Verb, is_dry: bool) -> anyhow::Result<Deed> {
    let mut tx = conn.begin().await?;
    let deed = match verb {
        Verb::Retry => operator::retry_job(&mut tx, id).await?,
        Verb::Park => operator::park_job(&mut tx, id).await?,
    };
    if is_dry {
        tx.rollback().await?
    } else {
        tx.commit().await?
    }
    Ok(deed)
}

impl Stats {
    async fn run(self) -> anyhow::Result<Ended> {
        let mut conn = connect(&self.database).await?;
        let (jobs, holds) = (overview::counts(&mut conn).await?, acme_accounts::holds(&mut conn).await?);
        if self.json {
            print_json(&serde_json::json!({ "jobs": jobs, "holds": holds }))?;
            return Ok(Ended::Done);
        }
        let header = ["KIND", "LANE", "DUE", "WAITING", "LEASED", "LOST", "PARKED", "FAILING", "LAG"];
        print_table(&header, jobs.iter().map(count))?;
        for Hold { directory, until, because } in holds {
            print(&format!("\n{directory} is held back until {}: {because}", at(until)))?;
        }
        Ok(Ended::Done)
    }
}

fn count(jobs: &JobCount) -> Vec<String> {
    let numbers = [jobs.due, jobs.waiting, jobs.leased, jobs.lost, jobs.parked, jobs.failing];
    let mut row = vec![jobs.kind.clone(), jobs.lane.to_string()];
    row.extend(numbers.map(|number| number.to_string()));
    row.push(jobs.lag_secs.map_or_else(|| "-".to_owned(), |lag| format!("{lag:.0} s")));
    row
}
