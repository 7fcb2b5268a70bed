//! Our binaries and the state of the database they find: unreachable, empty, older, unknown. And `countersignctl migrate`.

use std::process::ExitStatus;
use std::time::Duration;

use countersign_shared::store::schema;
use countersign_tests::checkout;
use countersign_tests::stack::folder;
use countersign_tests::stack::local_http;
use countersign_tests::stack::ports;
use countersign_tests::stack::postgres::{Postgres, Shutdown};
use countersign_tests::stack::processes::{Launch, Lifetime, Processes};
use countersign_tests::stack::waiting;
use countersign_tests::stack::watchdog::Watchdog;
use sqlx::AssertSqlSafe;

use crate::databases::{connect, empty, migrated};

const START: Duration = Duration::from_secs(20);

/// Processes of one test, gone with it.
pub(crate) struct Programs {
    processes: Processes,
    folder: std::path::PathBuf,
    _watchdog: Watchdog,
}

impl Programs {
    pub(crate) fn new() -> Self {
        let folder = folder::temporary().unwrap();
        let watchdog = Watchdog::start(&folder).unwrap();
        Self { processes: Processes::new(&folder, Lifetime::Owned).unwrap(), folder, _watchdog: watchdog }
    }

    pub(crate) fn start(&self, name: &str, binary: &str, args: &[&str], settings: &[(&str, String)]) {
        let mut launch = Launch::new(name, checkout::binary(binary).unwrap()).args(args);
        launch.env.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self.processes.start(&launch).unwrap();
    }

    /// The exit status and all that was written, once it has ended by itself.
    pub(crate) async fn ended(&self, name: &str) -> (ExitStatus, String) {
        let status = self.processes.ended(name, START).await.unwrap().unwrap();
        (status, self.output(name))
    }

    /// Runs `countersignctl` to its end: exit code and all that it wrote.
    pub(crate) async fn ctl(&self, name: &str, args: &[&str], settings: &[(&str, String)]) -> (Option<i32>, String) {
        self.start(name, "countersignctl", args, settings);
        let (status, output) = self.ended(name).await;
        (status.code(), output)
    }

    /// Writes a file that goes with the programs; returns its path.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.folder.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Waits until this URL of a program answers 200.
    pub(crate) async fn serves(&self, name: &str, url: &str) {
        let client = local_http::client(None).unwrap();
        let serves = async || local_http::answers(&client, url).await.then_some(());
        assert!(waiting::poll(START, serves).await.is_some(), "{name} does not serve:\n{}", self.output(name));
    }

    /// All that was written so far.
    pub(crate) fn output(&self, name: &str) -> String {
        std::fs::read_to_string(self.processes.log_file(name)).unwrap()
    }
}

/// What an API or worker needs to start, and where it tells whether it is ready.
pub(crate) fn service(url: &str) -> (Vec<(&'static str, String)>, String) {
    let admin = format!("127.0.0.1:{}", ports::free().unwrap());
    let settings = vec![
        ("DATABASE_URL", url.to_owned()),
        ("SERVER_ADDR", format!("127.0.0.1:{}", ports::free().unwrap())),
        ("DNS_RESOLVERS", "127.0.0.1:9".to_owned()),
        ("ADMIN_ADDR", admin.clone()),
        ("LOG_FORMAT", "json".to_owned()),
    ];
    (settings, format!("http://{admin}/readyz"))
}

/// Starts both services on this database; each must end by itself, with a failure. Returns what each wrote.
async fn refusals(url: &str) -> [String; 2] {
    refused(url, &[]).await
}

/// The same with further settings.
pub(crate) async fn refused(url: &str, settings: &[(&'static str, String)]) -> [String; 2] {
    let programs = Programs::new();
    let services = ["countersign-api", "countersign-worker"];
    for binary in services {
        programs.start(binary, binary, &[], &[&service(url).0, settings].concat());
    }
    let mut said = Vec::new();
    for binary in services {
        let serves = async || {
            let ready = programs.output(binary).contains(r#""message":"ready""#);
            (ready || programs.processes.pid(binary).is_none()).then_some(ready)
        };
        assert_eq!(waiting::poll(START, serves).await, Some(false), "{binary} serves:\n{}", programs.output(binary));
        let (status, output) = programs.ended(binary).await;
        assert!(!status.success(), "{binary} ended with {status}:\n{output}");
        assert!(status.code().is_some(), "{binary} was killed: {status}");
        said.push(output);
    }
    said.try_into().unwrap()
}

async fn change(url: &str, statement: &str) {
    sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut connect(url).await).await.unwrap();
}

#[tokio::test]
async fn services_refuse_an_empty_database_and_say_how_to_fill_it() {
    let url = empty().await;
    for said in refusals(&url).await {
        assert!(said.contains("countersignctl migrate"), "{said}");
    }
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        .fetch_one(&mut connect(&url).await)
        .await
        .unwrap();
    assert_eq!(tables, 0, "only `countersignctl migrate` writes the schema");
}

#[tokio::test]
async fn services_refuse_an_older_schema_and_name_both_versions() {
    let url = migrated().await;
    let newest = "DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)";
    change(&url, newest).await;
    let found: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(&mut connect(&url).await)
        .await
        .unwrap();
    for said in refusals(&url).await {
        assert!(said.contains("countersignctl migrate"), "{said}");
        assert!(said.contains(&schema::version().to_string()), "{said}");
        // With a single migration, what is older is empty.
        assert!(found.is_none_or(|found| said.contains(&found.to_string())), "{said}");
    }
}

const UNKNOWN: &str = "29990101000000";

async fn with_unknown_migration() -> String {
    let url = migrated().await;
    let insert = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)";
    change(&url, &format!("{insert} VALUES ({UNKNOWN}, 'from the future', true, '\\x00', 0)")).await;
    url
}

#[tokio::test]
async fn services_and_migrate_refuse_a_schema_they_do_not_know() {
    let url = with_unknown_migration().await;
    for said in refusals(&url).await {
        assert!(said.contains(UNKNOWN) && said.contains("newer binary"), "{said}");
    }
    let (code, said) = Programs::new().ctl("migrate", &["migrate"], &[("DATABASE_URL", url)]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(UNKNOWN), "{said}");
}

#[tokio::test]
async fn services_refuse_a_migration_that_was_applied_in_another_form() {
    services_refuse_the_newest_migration_with("checksum = '\\x00'").await;
}

#[tokio::test]
async fn services_refuse_a_migration_that_was_left_half_done() {
    services_refuse_the_newest_migration_with("success = false").await;
}

async fn services_refuse_the_newest_migration_with(flaw: &str) {
    let (url, version) = (migrated().await, schema::version().to_string());
    change(&url, &format!("UPDATE _sqlx_migrations SET {flaw} WHERE version = {version}")).await;
    for said in refusals(&url).await {
        assert!(said.contains(&version), "{said}");
    }
}

#[tokio::test]
async fn migrate_may_run_five_times_at_once_and_again() {
    let url = empty().await;
    let programs = Programs::new();
    let names = ["migrate-1", "migrate-2", "migrate-3", "migrate-4", "migrate-5"];
    for name in names {
        programs.start(name, "countersignctl", &["migrate"], &[("DATABASE_URL", url.clone())]);
    }
    for name in names {
        let (status, said) = programs.ended(name).await;
        assert!(status.success(), "{name}: {status}\n{said}");
        assert!(said.contains(&schema::version().to_string()), "{said}");
    }
    schema::check(&mut connect(&url).await).await.unwrap();
    change(&url, "UPDATE jobs SET attempts = 7").await;
    let (code, said) = programs.ctl("migrate-6", &["migrate"], &[("DATABASE_URL", url.clone())]).await;
    assert_eq!(code, Some(0), "{said}");
    let sweeps = "SELECT count(*), count(*) FILTER (WHERE attempts = 7) FROM jobs WHERE kind = 'sweep'";
    let jobs: (i64, i64) = sqlx::query_as(sweeps).fetch_one(&mut connect(&url).await).await.unwrap();
    assert_eq!(jobs, (1, 1), "the second run changes nothing");
}

#[tokio::test]
async fn ten_migrations_and_a_fleet_that_starts_meanwhile_end_with_everybody_ready() {
    let url = empty().await;
    let programs = Programs::new();
    let services: Vec<_> = ["countersign-api", "countersign-worker", "countersign-api", "countersign-worker"]
        .into_iter()
        .enumerate()
        .map(|(number, binary)| (format!("{binary}-{number}"), binary, service(&url)))
        .collect();
    let migrations: Vec<String> = (1..=10).map(|number| format!("migrate-{number}")).collect();
    for (number, name) in migrations.iter().enumerate() {
        programs.start(name, "countersignctl", &["migrate"], &[("DATABASE_URL", url.clone())]);
        if let Some((name, binary, (settings, _))) = services.get(number) {
            programs.start(name, binary, &[], settings);
        }
    }
    // Who met the schema half-way has ended and said why: whatever supervises it starts it again.
    for (name, binary, (settings, ready)) in &services {
        let client = local_http::client(None).unwrap();
        let is_ready = async || {
            if programs.processes.pid(name).is_none() {
                let said = programs.output(name);
                assert!(
                    said.lines().last().is_some_and(|line| line.contains("countersignctl migrate")),
                    "{name}:\n{said}"
                );
                programs.start(name, binary, &[], settings);
            }
            local_http::answers(&client, ready).await.then_some(())
        };
        assert!(waiting::poll(START, is_ready).await.is_some(), "{name} is not ready:\n{}", programs.output(name));
    }
    for name in &migrations {
        let (status, said) = programs.ended(name).await;
        assert!(status.success(), "{name}: {status}\n{said}");
    }
    schema::check(&mut connect(&url).await).await.unwrap();
    let scheduled: Vec<String> =
        sqlx::query_scalar("SELECT kind FROM jobs ORDER BY kind").fetch_all(&mut connect(&url).await).await.unwrap();
    assert_eq!(scheduled, ["purge", "renew-due", "sweep"]);
}

#[tokio::test]
async fn services_wait_for_a_database_that_is_away_and_answer_503_without_one() {
    let programs = Programs::new();
    let postgres = Postgres::new(&programs.folder.join("postgres"), false).unwrap();
    postgres.start(&programs.processes).await.unwrap();
    let url = postgres.create_database("countersign", None).await.unwrap();
    let (code, said) = programs.ctl("migrate", &["migrate"], &[("DATABASE_URL", url.clone())]).await;
    assert_eq!(code, Some(0), "{said}");
    postgres.stop(&programs.processes, Shutdown::Fast).await.unwrap();

    let client = local_http::client(None).unwrap();
    let services = ["countersign-api", "countersign-worker"].map(|binary| {
        let (mut settings, ready) = service(&url);
        settings.push(("DATABASE_ACQUIRE_TIMEOUT", "1s".to_owned()));
        programs.start(binary, binary, &[], &settings);
        (binary, settings, ready)
    });
    for (binary, _, ready) in &services {
        let waits =
            waiting::poll(START, async || programs.output(binary).contains("waiting for the database").then_some(()));
        assert!(waits.await.is_some(), "{binary} does not wait:\n{}", programs.output(binary));
        assert!(!local_http::answers(&client, ready).await, "{binary} is ready without a database");
    }
    postgres.start(&programs.processes).await.unwrap();
    for (binary, _, ready) in &services {
        let serves = waiting::poll(START, async || local_http::answers(&client, ready).await.then_some(()));
        assert!(serves.await.is_some(), "{binary} does not become ready:\n{}", programs.output(binary));
    }

    postgres.stop(&programs.processes, Shutdown::Fast).await.unwrap();
    for (binary, _, ready) in &services {
        assert_eq!(client.get(ready).send().await.unwrap().status(), 503, "{binary}");
        assert_eq!(client.get(ready.replace("readyz", "healthz")).send().await.unwrap().status(), 200, "{binary}");
        assert!(programs.processes.pid(binary).is_some(), "{binary} has ended");
    }
    let (_, settings, ready) = &services[0];
    assert_eq!(client.get(ready.replace("readyz", "orders")).send().await.unwrap().status(), 503);
    let address = &settings.iter().find(|(name, _)| *name == "SERVER_ADDR").unwrap().1;
    let answer = client.get(format!("http://{address}/domains/{}", "0".repeat(32))).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after") && answer.headers().contains_key("x-request-id"));
    let body: serde_json::Value = answer.json().await.unwrap();
    assert!(body["error"].is_string() && body.as_object().unwrap().len() == 1, "{body}");
}
