//! `make up` and `make down`: a stack that outlives the command, in `target/stack/`.
//!
//! What it consists of is written to `state.json`, so that calling `up` again starts what has died, on the same ports.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::checkout;
use crate::stack::environment::{self, Settings};
use crate::stack::plan::{Plan, Role};
use crate::stack::processes::{Lifetime, Processes, Signal};
use crate::stack::{accounts, delegation, dns, folder, pebble, postgres};

/// Given to our binaries in any case, so that `env` says what holds: their defaults, and that nobody here knows name servers to ask.
const DEFAULTS: [(&str, &str); 3] =
    [("POLL_INTERVAL", "10s"), ("POLL_TIMEOUT", "5m"), ("DNS_AUTHORITATIVE_CHECK", "off")];

/// So that one can be killed.
const NAME_SERVERS: usize = 2;

#[derive(Serialize, Deserialize)]
struct State {
    plan: Plan,
    /// Outside of the checkout, where Postgres' user can go.
    data_folder: PathBuf,
    /// Of account 1, for `/v2`; None until the database is there.
    #[serde(default)]
    api_token: Option<String>,
}

/// Starts what is not running, and waits until it serves.
pub async fn up(apis: usize, workers: usize, fresh: bool) -> Result<()> {
    let folder = folder()?;
    let _only_one = lock(&folder)?;
    if fresh {
        stop(&folder).await?;
        remove(&folder)?;
    }
    let processes = Processes::new(&folder, Lifetime::Detached)?;
    let mut state = match read(&folder)? {
        Some(state) if state.data_folder.is_dir() => state,
        lost => {
            if lost.is_some() {
                println!("The database's folder is gone: starting from nothing.");
            }
            stop(&folder).await?;
            let data_folder = folder::temporary()?;
            let mut plan = Plan::new(&folder, &data_folder, true, Settings::new())?;
            plan.settings = DEFAULTS.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            plan.delegate(NAME_SERVERS)?;
            State { plan, data_folder, api_token: None }
        }
    };
    let given = environment::our_settings();
    let differing: Vec<&str> = given
        .iter()
        .filter(|(name, value)| state.plan.settings.get(*name) != Some(value))
        .map(|(name, _)| name.as_str())
        .collect();
    let running = state.plan.replicas.keys().any(|name| processes.pid(name).is_some());
    ensure!(
        !running || differing.is_empty(),
        "the running stack has other values for {}; run `make down` first",
        differing.join(", ")
    );
    state.plan.settings.extend(given);
    state.plan.pebble.settings.extend(environment::pebble_settings());
    state.plan.grow(Role::Api, apis)?;
    state.plan.grow(Role::Worker, workers)?;
    fs::write(state_file(&folder), serde_json::to_vec_pretty(&state)?)?;

    let started = state.plan.start_missing(&processes, &[]).await;
    let started = started.with_context(|| {
        format!(
            "the stack is incomplete; logs are in {}, and `make down` stops what is there",
            folder.join("logs").display()
        )
    })?;
    let api_token = match state.api_token.take() {
        Some(token) => token,
        None => first_token(&state.plan)?,
    };
    let env_file = folder.join("env");
    fs::write(&env_file, assignments(&state.plan, &api_token))?;
    state.api_token = Some(api_token);
    fs::write(state_file(&folder), serde_json::to_vec_pretty(&state)?)?;
    match started.as_slice() {
        [] => println!("Everything is running already."),
        names => println!("Started {}.", names.join(", ")),
    }
    println!("The API is at {}", state.plan.api_urls().join(" and "));
    println!("Settings: {}   Logs: {}", env_file.display(), folder.join("logs").display());
    Ok(())
}

/// Stops everything; the database is kept for the next `up`, or removed with all that is `fresh` to be made then.
pub async fn down(fresh: bool) -> Result<()> {
    let folder = folder()?;
    let _only_one = lock(&folder)?;
    let stopped = stop(&folder).await?;
    if fresh {
        remove(&folder)?;
        println!("Nothing is kept: the next `make up` begins anew.");
    } else if let Some(state) = read(&folder)? {
        let kept = state.data_folder.display();
        println!("The database is kept in {kept}; `make down FRESH=1` removes it.");
    }
    println!(
        "{}",
        if stopped.is_empty() { "Nothing is running.".to_owned() } else { format!("Stopped {}.", stopped.join(", ")) }
    );
    Ok(())
}

async fn stop(folder: &Path) -> Result<Vec<String>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let processes = Processes::new(folder, Lifetime::Detached)?;
    // Ours first, while what they need still serves, so that they can release their work.
    let ours = |name: &String| ![postgres::NAME, dns::NAME, pebble::NAME, delegation::NAME].contains(&name.as_str());
    let (ours, surroundings): (Vec<_>, Vec<_>) = processes.names().into_iter().partition(ours);
    let mut stopped = Vec::new();
    for (names, patience) in [(ours, Duration::from_secs(20)), (surroundings, Duration::from_secs(10))] {
        for name in &names {
            // A paused process would not see the other signal.
            let _ = processes.signal(name, Signal::CONT);
            let fast_for_postgres = if name == postgres::NAME { Signal::INT } else { Signal::TERM };
            if processes.signal(name, fast_for_postgres).is_ok() {
                stopped.push(name.clone());
            }
        }
        for name in &names {
            if processes.ended(name, patience).await.is_err() {
                println!("{name} does not stop by itself and is killed.");
                processes.kill(name);
            }
        }
    }
    processes.kill_marked().await;
    let _ = fs::remove_file(folder.join("env"));
    Ok(stopped)
}

fn remove(folder: &Path) -> Result<()> {
    if let Ok(Some(state)) = read(folder)
        && state.data_folder.exists()
    {
        fs::remove_dir_all(&state.data_folder).with_context(|| format!("removing {}", state.data_folder.display()))?;
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}

/// Account 1 gets its records published by us, so that a client which knows nothing of challenges gets its certificate; and a
/// token.
fn first_token(plan: &Plan) -> Result<String> {
    accounts::ctl(plan, &["accounts", "presenter", "1", "test-dns"])?;
    let token = accounts::ctl(plan, &["tokens", "create", "1", "--name", "make up"])?;
    Ok(token.trim().to_owned())
}

/// Shell assignments that tell a script how to reach everything.
fn assignments(plan: &Plan, api_token: &str) -> String {
    let urls = plan.api_urls();
    let mut variables = vec![
        ("API_URL", urls.first().cloned().unwrap_or_default()),
        ("API_URLS", urls.join(" ")),
        ("ADMIN_URL", plan.admin_url("api-1").unwrap_or_default()),
        ("API_TOKEN", api_token.to_owned()),
        ("ACCOUNT_ID", "1".to_owned()),
        ("DATABASE_URL", plan.database_url()),
        ("ACME_DIRECTORY", plan.pebble.directory()),
        ("ACME_CA_FILE", plan.pebble.https_root_file().display().to_string()),
        ("ACME_ROOT_FILE", plan.pebble.issued_root_file().display().to_string()),
        ("DNS_SERVER", plan.resolver_address()),
        // For countersignctl, which looks as the workers do.
        ("DNS_RESOLVERS", plan.resolver_address()),
        ("DNS_ALLOW_PRIVATE", "true".to_owned()),
        ("DNS_MANAGEMENT_URL", plan.dns.management_url()),
        ("NAME_SERVERS", plan.name_servers().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
    ];
    let ours =
        ["CHALLENGE_ZONE", "POLL_INTERVAL", "POLL_TIMEOUT", "AUTH_TOKEN", "ENCRYPTION_KEYS", "DNS_AUTHORITATIVE_CHECK"];
    for name in ours {
        variables.extend(plan.settings.get(name).map(|value| (name, value.clone())));
    }
    variables.into_iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name}='{}'", value.replace('\'', r"'\''"));
        text
    })
}

fn folder() -> Result<PathBuf> {
    Ok(checkout::root()?.join("target/stack"))
}

fn state_file(folder: &Path) -> PathBuf {
    folder.join("state.json")
}

fn read(folder: &Path) -> Result<Option<State>> {
    let file = state_file(folder);
    if !file.exists() {
        return Ok(None);
    }
    let state = serde_json::from_slice(&fs::read(&file)?);
    state.map(Some).with_context(|| format!("reading {}; `make up FRESH=1` starts from nothing", file.display()))
}

/// Two commands at once would start everything twice.
fn lock(folder: &Path) -> Result<fs::File> {
    let target = folder.parent().context("the stack's folder has a parent")?;
    fs::create_dir_all(target)?;
    let file = fs::File::create(target.join("stack.lock"))?;
    file.lock()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_reads_from_the_env_file_where_everything_is() {
        let folder = Path::new("/of one's own");
        let mut plan = Plan::new(folder, folder, true, Settings::new()).unwrap();
        plan.grow(Role::Api, 2).unwrap();
        plan.settings.insert("AUTH_TOKEN".to_owned(), "it's secret".to_owned());
        let text = assignments(&plan, "token");
        // As a shell reads it.
        let read = |name: &str| {
            let script = format!("{text}printf %s \"${name}\"");
            let output = std::process::Command::new("sh").args(["-euc", &script]).output().unwrap();
            assert!(output.status.success(), "{name}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let (first, second) = (&plan.replicas["api-1"], &plan.replicas["api-2"]);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        assert_eq!(read("ADMIN_URL"), url(first.admin_port));
        assert_eq!(read("API_URL"), url(first.port.unwrap()));
        assert_eq!(read("API_URLS"), format!("{} {}", url(first.port.unwrap()), url(second.port.unwrap())));
        assert_eq!(read("AUTH_TOKEN"), "it's secret");
        assert!(read("ACME_CA_FILE").starts_with("/of one's own/"));
        assert_eq!((read("API_TOKEN"), read("ACCOUNT_ID")), ("token".to_owned(), "1".to_owned()));
        assert_eq!((read("DATABASE_URL"), read("DNS_SERVER")), (plan.database_url(), plan.resolver_address()));
    }
}
