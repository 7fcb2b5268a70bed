//! The table at the end of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Options;
use super::customers::Troubles;
use super::plan::BlowKind;
use super::storm::Absence;
use super::takeovers::Longest;
use super::verdict::{Evidence, Verdict, judge};

pub struct Report {
    pub seed: u64,
    pub customers: usize,
    /// Orders that customers were told the value of.
    pub promised: usize,
    /// Every order that was ever stored, by state.
    pub states: BTreeMap<String, usize>,
    /// Ended orders without a certificate, by state and code.
    pub reasons: BTreeMap<(String, String), usize>,
    pub stored: usize,
    pub at_the_ca: usize,
    pub blows: BTreeMap<(String, BlowKind), usize>,
    pub troubles: Troubles,
    pub takeovers: Longest,
    /// Those with the database and another worker there all the time.
    pub undisturbed: Longest,
    pub lease_for: Duration,
    pub took: Duration,
    pub verdict: Verdict,
    /// Where logs and tables are.
    pub kept: Option<PathBuf>,
}

impl Report {
    pub(super) fn new(
        options: &Options,
        evidence: &Evidence,
        absences: &[Absence],
        [takeovers, undisturbed]: [Longest; 2],
        took: Duration,
    ) -> Self {
        let mut states = BTreeMap::new();
        let mut reasons = BTreeMap::new();
        for order in &evidence.orders {
            *states.entry(order.state.clone()).or_default() += 1;
            if let Some(code) = &order.code {
                *reasons.entry((order.state.clone(), code.clone())).or_default() += 1;
            }
        }
        let mut blows = BTreeMap::new();
        for absence in absences {
            let role = absence.victim.split('-').next().unwrap_or_default();
            *blows.entry((role.to_owned(), absence.kind)).or_default() += 1;
        }
        let mut troubles = Troubles::default();
        for story in &evidence.stories {
            troubles.no_answer += story.troubles.no_answer;
            troubles.not_placed += story.troubles.not_placed;
            troubles.unavailable += story.troubles.unavailable;
            troubles.too_late += story.troubles.too_late;
        }
        Self {
            seed: options.seed,
            customers: options.orders,
            promised: evidence.stories.iter().map(|story| story.promises.len()).sum(),
            states,
            reasons,
            stored: evidence.certificates.len(),
            at_the_ca: evidence.at_the_ca.len(),
            blows,
            troubles,
            takeovers,
            undisturbed,
            lease_for: options.lease_for,
            took,
            verdict: judge(evidence),
            kept: None,
        }
    }

    pub fn orders(&self, state: &str) -> usize {
        self.states.get(state).copied().unwrap_or_default()
    }

    fn reasons_of(&self, state: &str) -> String {
        let reasons = self.reasons.iter().filter(|((of, _), _)| of == state);
        let reasons: Vec<String> = reasons.map(|((_, code), count)| format!("{code} {count}")).collect();
        reasons.join(", ")
    }

    fn blows_of(&self, role: &str) -> String {
        let blows = self.blows.iter().filter(|((of, _), _)| of == role);
        let blows: Vec<String> = blows.map(|((_, kind), count)| format!("{count} × {kind}")).collect();
        if blows.is_empty() { "none".to_owned() } else { blows.join(", ") }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |what: &str, value: &str| writeln!(f, "  {what:<34} {}", value.trim_end());
        let states = ["issued", "failed", "cancelled"];
        let open: usize =
            self.states.iter().filter(|(state, _)| !states.contains(&state.as_str())).map(|(_, n)| n).sum();
        row("seed", &self.seed.to_string())?;
        row("customers, took", &format!("{}, {:.0} s", self.customers, self.took.as_secs_f64()))?;
        row(
            "orders accepted",
            &format!("{}   (told to customers: {})", self.states.values().sum::<usize>(), self.promised),
        )?;
        row("  issued", &self.orders("issued").to_string())?;
        row("  failed with a reason", &format!("{:<5} {}", self.orders("failed"), self.reasons_of("failed")))?;
        let cancelled = format!("{:<5} {}", self.orders("cancelled"), self.reasons_of("cancelled"));
        row("  cancelled, and ordered again", &cancelled)?;
        row("  still open", &open.to_string())?;
        row("lost", &self.verdict.lost.len().to_string())?;
        row("duplicated", &self.verdict.duplicated.len().to_string())?;
        row("inconsistent", &self.verdict.inconsistent.len().to_string())?;
        row("certificates", &format!("{} at the CA, {} stored", self.at_the_ca, self.stored))?;
        for role in ["worker", "api", "postgres"] {
            row(&format!("blows to {role}"), &self.blows_of(role))?;
        }
        let Troubles { no_answer, not_placed, unavailable, too_late } = self.troubles;
        let troubles = format!("no answer {no_answer}, 503 {unavailable}, 500 not placed {not_placed}, 400 {too_late}");
        row("what customers met", &troubles)?;
        row(&format!("rows taken over (lease {} s)", self.lease_for.as_secs()), &self.takeovers.count.to_string())?;
        row("  undisturbed", &described(&self.undisturbed))?;
        row("  any", &described(&self.takeovers))?;
        if let Some(kept) = &self.kept {
            row("logs and tables", &kept.display().to_string())?;
        }
        if self.verdict.is_clean() {
            return Ok(());
        }
        writeln!(f, "\n{}", self.verdict)?;
        writeln!(f, "  Once more: make chaos SEED={} ORDERS={}", self.seed, self.customers)
    }
}

fn described(longest: &Longest) -> String {
    if longest.count == 0 {
        return "none".to_owned();
    }
    format!(
        "{:<4} longest: {:.1} s past the lease's end, {:.1} s after the blow",
        longest.count,
        longest.late.as_secs_f64(),
        longest.since_blow.as_secs_f64()
    )
}
