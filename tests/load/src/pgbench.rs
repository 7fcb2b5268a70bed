//! pgbench running what our processes run: the statements are read from the log of Postgres while one request is answered, so that
//! they are the same whatever becomes of the code.
//!
//! What differs from one request to the next (ids, names, tokens, times) is replaced by an expression or by what a statement before
//! returned; everything else stays as it was sent. Statements of several processes are run one transaction after the other, as they began.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use countersign_tests::stack::Stack;
use countersign_tests::stack::postgres::program;
use countersign_tests::stack::waiting::pause_until;
use tokio::process::Command;
use tokio::time::Instant;

/// So far apart that the number says whose id it is.
const IDS: [(&str, i64); 4] = [
    ("domain", 100_000_000_000),
    ("certificate", 200_000_000_000),
    ("order", 300_000_000_000),
    ("job", 400_000_000_000),
];
const IDS_EACH: i64 = 100_000_000_000;

/// For a setting to reach every session, and for a process to finish what follows an answer.
const SETTLE: Duration = Duration::from_millis(700);

/// A statement as a session sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    parameters: Vec<Option<String>>,
}

impl Statement {
    /// Whether it is about the captured request, by a value that is known or by an id.
    fn is_about(&self, known: &[(String, String)]) -> bool {
        let values = self.parameters.iter().flatten();
        values.into_iter().any(|value| known.iter().any(|(known, _)| known == value) || id(value).is_some())
    }

    /// Whether it claims jobs that somebody waits for, whose ever they are.
    fn claims(&self) -> bool {
        self.sql.contains("SKIP LOCKED") && self.parameters.first().is_some_and(|lane| lane.as_deref() == Some("0"))
    }
}

/// Statements that were committed, or rolled back, together.
pub(crate) type Transaction = Vec<Statement>;

/// Gives the ids of each table a range of its own. Before anything is captured.
pub(crate) async fn tell_ids_apart(stack: &Stack) -> Result<()> {
    for (noun, first) in IDS {
        let sequence = sqlx::query("SELECT setval(pg_get_serial_sequence($1, 'id'), $2)");
        sequence.bind(format!("{noun}s")).bind(first).execute(stack.pool()).await?;
    }
    Ok(())
}

/// What all sessions but our own send while `request` is answered.
pub(crate) async fn captured(stack: &Stack, request: impl Future<Output = Result<()>>) -> Result<Vec<Transaction>> {
    let log_statements = async |on: bool| -> Result<()> {
        let mut conn = stack.pool().acquire().await?;
        let setting = if on { "ALTER SYSTEM SET log_statement = 'all'" } else { "ALTER SYSTEM RESET log_statement" };
        sqlx::raw_sql(setting).execute(&mut *conn).await?;
        sqlx::raw_sql("SELECT pg_reload_conf()").execute(&mut *conn).await?;
        pause_until((Instant::now() + SETTLE).into()).await;
        Ok(())
    };
    log_statements(true).await?;
    let before = stack.log("postgres").len();
    request.await?;
    pause_until((Instant::now() + SETTLE).into()).await;
    let log = stack.log("postgres").split_off(before);
    log_statements(false).await?;
    Ok(transactions(&log))
}

fn transactions(log: &str) -> Vec<Transaction> {
    let mut done: BTreeMap<usize, Transaction> = BTreeMap::new();
    // Of each session, the transaction that it is in.
    let mut open: HashMap<&str, usize> = HashMap::new();
    let mut last: HashMap<&str, usize> = HashMap::new();
    for (number, (session, entry)) in entries(log).into_iter().enumerate() {
        if let Some(parameters) = entry.strip_prefix("DETAIL:  parameters: ") {
            let transaction = last.get(session).and_then(|number| done.get_mut(number));
            if let Some(statement) = transaction.and_then(|transaction| transaction.last_mut()) {
                statement.parameters = parsed(parameters);
            }
            continue;
        }
        let Some(said) = entry.strip_prefix("LOG:  ") else { continue };
        let sql =
            said.strip_prefix("statement: ").or_else(|| said.strip_prefix("execute ")?.split_once(": ").map(|s| s.1));
        let Some(sql) = sql else { continue };
        let at = *open.get(session).unwrap_or(&number);
        done.entry(at).or_default().push(Statement { sql: sql.to_owned(), parameters: Vec::new() });
        last.insert(session, at);
        if sql.starts_with("BEGIN") {
            open.insert(session, at);
        } else if sql == "COMMIT" || sql == "ROLLBACK" {
            open.remove(session);
        }
    }
    done.into_values().collect()
}

/// Session and message of each entry, of which further lines begin with a tab.
fn entries(log: &str) -> Vec<(&str, String)> {
    let mut entries: Vec<(&str, String)> = Vec::new();
    for line in log.lines() {
        if let Some(more) = line.strip_prefix('\t') {
            if let Some((_, entry)) = entries.last_mut() {
                entry.push('\n');
                entry.push_str(more);
            }
        } else if let Some((session, rest)) = line.split_once('[').and_then(|(_, rest)| rest.split_once("] ")) {
            // The database's name comes before the message.
            entries.push((session, rest.split_once(' ').map_or(rest, |(_, entry)| entry).to_owned()));
        }
    }
    entries
}

/// `$1 = 'text', $2 = NULL`: within quotes a quote is doubled.
fn parsed(mut text: &str) -> Vec<Option<String>> {
    let mut values = Vec::new();
    while let Some((_, rest)) = text.split_once(" = ") {
        let Some(mut quoted) = rest.strip_prefix('\'') else {
            values.push(None);
            text = rest;
            continue;
        };
        let mut value = String::new();
        while let Some((part, rest)) = quoted.split_once('\'') {
            value.push_str(part);
            quoted = rest;
            let Some(rest) = quoted.strip_prefix('\'') else { break };
            value.push('\'');
            quoted = rest;
        }
        values.push(Some(value));
        text = quoted;
    }
    values
}

/// A pgbench script for these transactions, without those that processes send whoever calls. `known` are values of the captured request with the expressions that stand for them.
pub(crate) fn script(begin: &str, transactions: &[Transaction], known: &[(String, String)]) -> String {
    let mut script = format!("{begin}\n");
    let is_own = |one: &&Transaction| one.iter().any(|statement| statement.is_about(known) || statement.claims());
    for statement in transactions.iter().filter(is_own).flatten() {
        let mut sql = String::new();
        let mut rest = statement.sql.as_str();
        while let Some((part, after)) = rest.split_once('$') {
            let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let number = after[..digits].parse::<usize>().ok();
            let value = number.and_then(|number| statement.parameters.get(number.checked_sub(1)?));
            sql.push_str(part);
            match value {
                Some(value) => {
                    sql.push_str(&value.as_ref().map_or("NULL".to_owned(), |value| expression(value, known)))
                }
                None => sql.push_str(&rest[part.len()..part.len() + 1 + digits]),
            }
            rest = &after[digits..];
        }
        sql.push_str(rest);
        script.push_str(&sql.replace('\n', " "));
        // What it returns is what later statements are about.
        let returned = IDS.iter().map(|(noun, _)| *noun).find(|noun| {
            statement.sql.starts_with(&format!("INSERT INTO {noun}s ")) && statement.sql.contains("RETURNING")
                || (statement.sql.starts_with("SELECT id, public_id, name") && *noun == "domain")
        });
        script.push_str(&returned.map_or(";\n".to_owned(), |noun| format!("\n\\gset {noun}_\n")));
    }
    script
}

fn expression(value: &str, known: &[(String, String)]) -> String {
    let is_hex = value.bytes().all(|byte| byte.is_ascii_hexdigit());
    if let Some((_, expression)) = known.iter().find(|(known, _)| known == value) {
        return expression.clone();
    }
    if let Some(id) = id(value) {
        return id;
    }
    match value.len() {
        32 if is_hex => "md5(random()::text)".to_owned(),
        64 if is_hex => "md5(random()::text) || md5(random()::text)".to_owned(),
        // What a CA numbers is the order's own.
        _ if value.starts_with("https://") => format!("{} || '/of/' || :order_id", literal(value)),
        _ => literal(value),
    }
}

/// The expression for an id of ours, or for an array of one.
fn id(value: &str) -> Option<String> {
    let one = |text: &str| {
        let number: i64 = text.parse().ok()?;
        let (noun, _) = IDS.iter().find(|(_, first)| (*first..*first + IDS_EACH).contains(&number))?;
        Some(match *noun {
            "job" => "(SELECT id FROM jobs WHERE order_id = :order_id::bigint)".to_owned(),
            noun => format!(":{noun}_id"),
        })
    };
    match value.strip_prefix('{') {
        Some(rest) => one(rest.strip_suffix('}')?).map(|id| format!("ARRAY[{id}]::bigint[]")),
        None => one(value),
    }
}

/// A text as SQL has it.
pub(crate) fn literal(text: &str) -> String {
    // A colon would begin a variable of pgbench's.
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''").replace(':', "\\x3a"))
}

/// What pgbench says of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Transactions (runs of the script) per second.
    pub(crate) rate: f64,
    /// The mean, in seconds.
    pub(crate) latency: f64,
}

/// As many clients, each with a connection of its own. The first second, in which each of them prepares its statements, does not count.
pub(crate) async fn run(
    stack: &Stack,
    folder: &Path,
    script: &str,
    clients: usize,
    seconds: u64,
    from: u64,
) -> Result<Run> {
    let file = folder.join("script.sql");
    fs::write(&file, script)?;
    let (clients, seconds) = (clients.to_string(), (seconds + 1).to_string());
    let mut command = Command::new(program("pgbench")?);
    command.args([
        "-n",
        "-M",
        "prepared",
        "-c",
        &clients,
        "-T",
        &seconds,
        "-P",
        "1",
        "-D",
        "i=0",
        "-D",
        &format!("clients={clients}"),
    ]);
    command.args(["-D", &format!("from={from}"), "-f"]).arg(&file).arg(stack.database_url()).kill_on_drop(true);
    let output = command.output().await.context("running pgbench")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && !complained.contains("error"), "pgbench failed: {complained}{said}");
    progress(&complained).with_context(|| format!("pgbench says no rate: {complained}{said}"))
}

/// The mean of what pgbench says once a second, but for the first.
fn progress(said: &str) -> Option<Run> {
    let number = |line: &str, before: &str| line.split_once(before)?.1.split_whitespace().next()?.parse::<f64>().ok();
    let seconds: Vec<(f64, f64)> = said
        .lines()
        .filter(|line| line.starts_with("progress: "))
        .skip(1)
        .map(|line| Some((number(line, " s, ")?, number(line, " lat ")?)))
        .collect::<Option<_>>()?;
    let mean = |of: fn(&(f64, f64)) -> f64| seconds.iter().map(of).sum::<f64>() / seconds.len() as f64;
    (!seconds.is_empty()).then(|| Run { rate: mean(|second| second.0), latency: mean(|second| second.1) / 1e3 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-11-28 15:00:00.001 UTC [7] countersign LOG:  statement: BEGIN
2026-11-28 15:00:00.002 UTC [8] countersign LOG:  statement: SELECT 1
2026-11-28 15:00:00.003 UTC [7] countersign LOG:  execute sqlx_s_1: INSERT INTO orders (domain_id, said)
\t VALUES ($1, $2, $3::text) RETURNING id
2026-11-28 15:00:00.004 UTC [7] countersign DETAIL:  parameters: $1 = '100000000007', $2 = 'it''s, $4 = at 10:30', $3 = NULL
2026-11-28 15:00:00.005 UTC [7] countersign LOG:  statement: COMMIT
";

    #[test]
    fn transactions_are_read_from_the_log() {
        let transactions = transactions(LOG);
        let sql: Vec<Vec<&str>> =
            transactions.iter().map(|one| one.iter().map(|statement| statement.sql.as_str()).collect()).collect();
        let insert = "INSERT INTO orders (domain_id, said)\n VALUES ($1, $2, $3::text) RETURNING id";
        assert_eq!(sql, [vec!["BEGIN", insert, "COMMIT"], vec!["SELECT 1"]]);
        let expected = [Some("100000000007"), Some("it's, $4 = at 10:30"), None];
        assert_eq!(transactions[0][1].parameters, expected.map(|value| value.map(str::to_owned)));
    }

    #[test]
    fn the_first_second_does_not_count() {
        let line = |second: u64, tps: u64, millis: f64| {
            format!("progress: {second}.0 s, {tps}.5 tps, lat {millis} ms stddev 0.1, 0 failed\n")
        };
        let said = format!("pgbench (15.18)\n{}{}{}", line(1, 7, 900.0), line(2, 100, 2.0), line(3, 300, 4.0));
        let run = progress(&said).unwrap();
        assert_eq!((run.rate, run.latency), (200.5, 0.003));
        assert!(progress(&line(1, 7, 900.0)).is_none() && progress("").is_none());
    }

    #[test]
    fn a_script_has_expressions_for_what_differs() {
        let known = [("it's, $4 = at 10:30".to_owned(), "'said ' || :n".to_owned())];
        let script_of = |known| script("\\set n 1", &transactions(LOG)[..1], known);
        let begin = "\\set n 1\nBEGIN;\nINSERT INTO orders (domain_id, said)  VALUES (:domain_id, ";
        let end = ", NULL::text) RETURNING id\n\\gset order_\nCOMMIT;\n";
        assert_eq!(script_of(&known[..]), format!("{begin}'said ' || :n{end}"));
        assert_eq!(script_of(&[]), format!("{begin}E'it''s, $4 = at 10\\x3a30'{end}"));
    }
}
