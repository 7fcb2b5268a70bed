//! What the operator reads: tables for people, JSON for scripts, and the exit code.

use std::io::Write as _;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use comfy_table::{Table, presets};
use countersign_shared::operator::Deed;
use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

/// How a verb ended; the exit code tells scripts. Ordered: of several, the gravest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ended {
    /// 0: all that was asked for.
    Done,
    /// 3: something named does not exist.
    NotFound,
    /// 4: something's state does not allow it.
    Refused,
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Done => Self::SUCCESS,
            Ended::NotFound => Self::from(3),
            Ended::Refused => Self::from(4),
        }
    }
}

/// What became of each order or job.
#[derive(Serialize)]
pub(super) struct Report<T> {
    dry_run: bool,
    results: Vec<Line<T>>,
    /// The filter selects more than were taken: the flag and its value that select the rest.
    next: Option<Next<T>>,
    #[serde(skip)]
    as_json: bool,
}

#[derive(Serialize)]
struct Line<T> {
    id: T,
    /// None in a dry run where it would be done.
    #[serde(flatten)]
    deed: Option<Deed>,
}

#[derive(Serialize)]
struct Next<T> {
    flag: &'static str,
    value: T,
}

impl<T: Serialize + ToString> Report<T> {
    pub(super) fn new(dry_run: bool, as_json: bool, flag: &'static str, next: Option<T>) -> Self {
        Self { dry_run, results: Vec::new(), next: next.map(|value| Next { flag, value }), as_json }
    }

    /// After an error nothing more is tried, and what was done so far is still told.
    pub(super) fn add(&mut self, id: T, deed: anyhow::Result<Deed>) -> anyhow::Result<()> {
        match deed {
            Ok(deed) => {
                // What a dry run would do is not told as if it were done.
                let deed = Some(deed).filter(|deed| !self.dry_run || deed.is_refusal());
                self.results.push(Line { id, deed });
            }
            Err(error) => {
                self.next = None;
                self.print()?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Prints it; the worst of its lines decides how the verb ended.
    pub(super) fn print(&self) -> anyhow::Result<Ended> {
        if self.as_json {
            print_json(self)?;
        } else {
            for line in &self.results {
                print(&format!("{}  {}", line.id.to_string(), said(line.deed.as_ref())))?;
            }
            let what = if self.dry_run { "in all, nothing was changed" } else { "in all" };
            let rest = self.next.as_ref().map_or(String::new(), |Next { flag, value }| {
                format!("; there are more: repeat this with --{flag} {}", value.to_string())
            });
            print(&format!("{} {what}{rest}", self.results.len()))?;
        }
        let is = |wanted: fn(&Deed) -> bool| self.results.iter().filter_map(|line| line.deed.as_ref()).any(wanted);
        Ok(if is(|deed| matches!(deed, Deed::NotFound)) {
            Ended::NotFound
        } else if is(|deed| matches!(deed, Deed::Refused { .. })) {
            Ended::Refused
        } else {
            Ended::Done
        })
    }
}

fn said(deed: Option<&Deed>) -> String {
    match deed {
        None => "selected".to_owned(),
        Some(Deed::NewOrder { new_order_id }) => format!("order {new_order_id} takes its place"),
        Some(Deed::Due) => "its job is due now".to_owned(),
        Some(Deed::CleanUp { reason }) => format!("its clean-up is due now; no new order: {reason}"),
        Some(Deed::Cancelled) => "cancelled".to_owned(),
        Some(Deed::Parked) => "parked".to_owned(),
        Some(Deed::Refused { reason }) => format!("refused: {reason}"),
        Some(Deed::NotFound) => "not found".to_owned(),
    }
}

/// A line. Whoever reads may have heard enough (`… | head`): that ends the program without a word, with exit code 1.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(1),
        written => Ok(written?),
    }
}

pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// Columns side by side, without lines around them.
pub(super) fn print_table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied()).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    print(&table.trim_fmt())
}

/// Says that a list was cut off, and how it goes on.
pub(super) fn print_more(flag: &str, next: Option<impl ToString>) -> anyhow::Result<()> {
    match next {
        Some(next) => print(&format!("\nThere are more: --{flag} {}", next.to_string())),
        None => Ok(()),
    }
}

/// `2026-11-21 09:30:00Z`
pub(super) fn at(time: OffsetDateTime) -> String {
    time.format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z")).unwrap_or_default()
}

pub(super) fn at_or_none(time: Option<OffsetDateTime>) -> String {
    time.map_or_else(|| "-".to_owned(), at)
}

pub(super) fn or_none<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Ends the program as for any wrong usage: exit code 2.
pub(super) fn wrong_usage(why: &str) -> ! {
    super::Command::command().error(ErrorKind::MissingRequiredArgument, why).exit()
}
