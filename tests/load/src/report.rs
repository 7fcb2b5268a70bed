//! What was measured: figures with their yardsticks and goals, as one table and as JSON.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, CellAlignment, Table};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::chart::Chart;
use crate::statistics::Runs;

#[derive(Serialize)]
pub(crate) struct Report {
    /// RFC 3339.
    began_at: String,
    /// The commit that was measured, and whether the tree had changes.
    commit: String,
    machine: Machine,
    sections: Vec<Section>,
}

#[derive(Serialize)]
struct Machine {
    cores: usize,
    memory_bytes: u64,
    kernel: String,
}

/// One scenario, or one part of it that has a chart of its own.
#[derive(Serialize)]
pub(crate) struct Section {
    /// The scenario, and the name of the chart's file.
    pub(crate) name: String,
    pub(crate) title: String,
    /// How it was run, in words.
    pub(crate) setting: String,
    pub(crate) figures: Vec<Figure>,
    #[serde(skip)]
    pub(crate) chart: Option<Chart>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    PerSecond,
    Seconds,
    Bytes,
    /// CPU seconds in a second: 1 is one core.
    Cores,
    /// CPU seconds for one of what the scenario counts.
    SecondsEach,
    BytesEach,
    Count,
}

pub(crate) const MIB: f64 = 1_048_576.0;

#[derive(Serialize)]
pub(crate) struct Figure {
    what: String,
    unit: Unit,
    /// The median where there were several runs.
    value: f64,
    /// The least and the most of several runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    spread: Option<(f64, f64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    yardstick: Option<Yardstick>,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<Goal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
}

/// What was measured beside it, in the same run.
#[derive(Serialize)]
struct Yardstick {
    what: String,
    value: f64,
    /// The figure divided by the yardstick.
    ratio: f64,
}

/// What is asked of a figure.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Goal {
    of: Of,
    at: At,
    #[serde(skip_serializing_if = "Option::is_none")]
    must: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aim: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Of {
    Value,
    Ratio,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum At {
    Most,
    Least,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// As good as what is aimed at.
    Aim,
    /// As good as it must be.
    Reached,
    /// What is aimed at is missed, and nothing must be reached.
    Short,
    Missed,
}

impl Goal {
    pub(crate) fn at_most(must: f64, aim: f64) -> Self {
        Self { of: Of::Value, at: At::Most, must: Some(must), aim: Some(aim) }
    }

    /// There is nothing better to aim at.
    pub(crate) fn must_be_at_most(must: f64) -> Self {
        Self { aim: None, ..Self::at_most(must, must) }
    }

    /// It would be good, and need not be.
    pub(crate) fn aims_at_most(aim: f64) -> Self {
        Self { must: None, ..Self::at_most(aim, aim) }
    }

    pub(crate) fn ratio_at_least(must: f64, aim: f64) -> Self {
        Self { of: Of::Ratio, at: At::Least, must: Some(must), aim: Some(aim) }
    }

    pub(crate) fn ratio_at_most(must: f64, aim: f64) -> Self {
        Self { of: Of::Ratio, at: At::Most, must: Some(must), aim: Some(aim) }
    }

    pub(crate) fn ratio_must_be_at_most(must: f64) -> Self {
        Self { aim: None, ..Self::ratio_at_most(must, must) }
    }

    fn verdict(self, value: f64, ratio: Option<f64>) -> Option<Verdict> {
        let measured = match self.of {
            Of::Value => value,
            Of::Ratio => ratio?,
        };
        let holds = |limit: f64| match self.at {
            At::Most => measured <= limit,
            At::Least => measured >= limit,
        };
        Some(match (self.must.map(holds), self.aim.map(holds)) {
            (Some(false), _) => Verdict::Missed,
            (_, Some(true)) => Verdict::Aim,
            (Some(true), _) => Verdict::Reached,
            (None, _) => Verdict::Short,
        })
    }
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, unit: Unit, value: f64) -> Self {
        Self { what: what.into(), unit, value, spread: None, yardstick: None, goal: None, verdict: None }
    }

    /// The median of several runs.
    pub(crate) fn of_runs(what: impl Into<String>, unit: Unit, runs: &Runs) -> Self {
        Self { spread: Some((runs.least(), runs.most())), ..Self::new(what, unit, runs.median()) }
    }

    #[must_use]
    pub(crate) fn beside(mut self, what: impl Into<String>, value: f64) -> Self {
        let ratio = if value == 0.0 { f64::NAN } else { self.value / value };
        self.yardstick = Some(Yardstick { what: what.into(), value, ratio });
        self
    }

    /// Comes last: it is judged at once.
    #[must_use]
    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self.verdict = goal.verdict(self.value, self.yardstick.as_ref().map(|yardstick| yardstick.ratio));
        self
    }
}

impl Report {
    #[expect(clippy::disallowed_methods, reason = "it says when it was made")]
    pub(crate) fn begin() -> Result<Self> {
        let said = |program: &str, arguments: &[&str]| -> Result<String> {
            let output =
                Command::new(program).args(arguments).output().with_context(|| format!("running {program}"))?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kilobytes: Option<u64> =
            memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
        let machine = Machine {
            cores: std::thread::available_parallelism()?.get(),
            memory_bytes: 1024 * kilobytes.unwrap_or_default(),
            kernel: said("uname", &["-sr"])?,
        };
        Ok(Self {
            began_at: OffsetDateTime::now_utc().format(&Rfc3339)?,
            commit: said("git", &["describe", "--always", "--dirty"])?,
            machine,
            sections: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// The report as JSON, and one SVG for each chart.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        for section in &self.sections {
            if let Some(chart) = &section.chart {
                chart.write(&section.title, &folder.join(format!("{}.svg", section.name)))?;
            }
        }
        // Renamed when complete.
        let (unfinished, file) = (folder.join("report.json.new"), folder.join("report.json"));
        fs::write(&unfinished, serde_json::to_string_pretty(self)? + "\n")?;
        fs::rename(unfinished, file)?;
        Ok(())
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        table.set_header(["", "measured", "spread", "beside", "", "ratio", "goal", ""]);
        for section in &self.sections {
            table.add_row([Cell::new(format!("{}: {}", section.name, section.title))]);
            for figure in &section.figures {
                table.add_row(figure.cells());
            }
        }
        for column in [1, 2, 4, 5] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let Self { commit, machine, .. } = self;
        writeln!(f, "{table}")?;
        write!(
            f,
            "{commit} on {} cores, {}, {}",
            machine.cores,
            Unit::Bytes.told(machine.memory_bytes as f64),
            machine.kernel
        )
    }
}

impl Figure {
    fn cells(&self) -> [String; 8] {
        let told = |value| self.unit.told(value);
        let yardstick = self.yardstick.as_ref();
        let goal = self.goal.as_ref().map(|goal| {
            let at = match goal.at {
                At::Most => "≤",
                At::Least => "≥",
            };
            let limit = |limit: f64| match goal.of {
                Of::Value => told(limit),
                Of::Ratio => format!("{limit} ×"),
            };
            let must = goal.must.map(|must| format!("{at} {}", limit(must)));
            let aim = goal.aim.map(|aim| format!("(aim {})", limit(aim)));
            must.into_iter().chain(aim).collect::<Vec<_>>().join(" ")
        });
        let verdict = self.verdict.map(|verdict| match verdict {
            Verdict::Aim => "aim reached",
            Verdict::Reached => "reached",
            Verdict::Short => "aim missed",
            Verdict::Missed => "MISSED",
        });
        [
            format!("  {}", self.what),
            told(self.value),
            self.spread.map(|(least, most)| format!("{} – {}", told(least), told(most))).unwrap_or_default(),
            yardstick.map(|yardstick| yardstick.what.clone()).unwrap_or_default(),
            yardstick.map(|yardstick| told(yardstick.value)).unwrap_or_default(),
            yardstick.map(|yardstick| format!("{:.2}", yardstick.ratio)).unwrap_or_default(),
            goal.unwrap_or_default(),
            verdict.unwrap_or_default().to_owned(),
        ]
    }
}

impl Unit {
    fn told(self, value: f64) -> String {
        match self {
            Self::PerSecond => format!("{}/s", rounded(value)),
            Self::Cores => format!("{:.1} %", 100.0 * value),
            Self::Seconds | Self::SecondsEach if value.abs() < 0.001 => format!("{} µs", rounded(value * 1e6)),
            Self::Seconds | Self::SecondsEach if value.abs() < 1.0 => format!("{} ms", rounded(value * 1e3)),
            Self::Seconds | Self::SecondsEach => format!("{} s", rounded(value)),
            Self::Bytes | Self::BytesEach if value.abs() < 10_240.0 => format!("{} B", rounded(value)),
            Self::Bytes | Self::BytesEach => format!("{} MiB", rounded(value / MIB)),
            Self::Count => rounded(value),
        }
    }
}

/// Three digits, or all before the point.
fn rounded(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_judged_by_its_value_or_by_its_ratio() {
        let verdict = |figure: Figure| figure.verdict.expect("it has a goal");
        let lag = |secs| Figure::new("lag", Unit::Seconds, secs).goal(Goal::at_most(2.0, 1.0));
        assert!(verdict(lag(0.9)) == Verdict::Aim && verdict(lag(1.5)) == Verdict::Reached);
        assert!(verdict(lag(2.1)) == Verdict::Missed && verdict(lag(f64::NAN)) == Verdict::Missed);
        let aimed = |secs| Figure::new("lag", Unit::Seconds, secs).goal(Goal::aims_at_most(1.0));
        assert!(verdict(aimed(0.9)) == Verdict::Aim && verdict(aimed(1.1)) == Verdict::Short);
        let must = |secs| Figure::new("lag", Unit::Seconds, secs).goal(Goal::must_be_at_most(1.0));
        assert!(verdict(must(0.9)) == Verdict::Reached && verdict(must(1.1)) == Verdict::Missed);
        let beyond = Figure::new("lag", Unit::Seconds, 2.0).goal(Goal::at_most(1.0, 3.0));
        assert!(verdict(beyond) == Verdict::Missed, "an aim is no excuse");
        let beside = |rate| Figure::new("rate", Unit::PerSecond, rate).beside("pgbench", 100.0);
        assert!(verdict(beside(85.0).goal(Goal::ratio_at_least(0.6, 0.8))) == Verdict::Aim);
        assert!(verdict(beside(59.0).goal(Goal::ratio_at_least(0.6, 0.8))) == Verdict::Missed);
        assert!(Figure::new("alone", Unit::Count, 1.0).goal(Goal::ratio_at_least(0.6, 0.8)).verdict.is_none());
    }

    #[test]
    fn numbers_are_told_with_their_units() {
        let told: Vec<String> = [
            (Unit::Seconds, 0.000_25),
            (Unit::Seconds, 0.0125),
            (Unit::Seconds, 123.4),
            (Unit::Cores, 0.031),
            (Unit::Bytes, 5_242_880.0),
            (Unit::BytesEach, 431.0),
            (Unit::PerSecond, 20_311.4),
        ]
        .map(|(unit, value)| unit.told(value))
        .into();
        assert_eq!(told, ["250 µs", "12.5 ms", "123 s", "3.1 %", "5.00 MiB", "431 B", "20311/s"]);
    }
}
