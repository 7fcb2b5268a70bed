//! The programs of the version before go on while the new one is rolled out: their statements must run on the new
//! schema.
//!
//! Three ways in which a migration breaks them are seen here: a statement that Postgres refuses or understands
//! otherwise, a column that must be given, and a new constraint, which nobody but a person can judge.

use std::collections::BTreeSet;

use countersign_tests::release::{Release, Understood, migrations, understand};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::databases::{connect, empty, migrated};

/// What later migrations have changed about tables that an older version uses, `table.constraint` or `table.column`:
/// each with the reason why the older programs do not stumble over it.
const CONSIDERED: [(&str, &str); 27] = [
    ("acme_accounts.private_key_pem", "NULL only where it is sealed, which begins when every program has the keys"),
    ("acme_accounts.acme_accounts_has_one_key", "older programs write the plain one, and know no other"),
    ("acme_accounts.acme_accounts_has_one_next_key", "older programs write neither"),
    ("acme_accounts.acme_accounts_private_key_sealed_check", "older programs do not write it"),
    ("acme_accounts.acme_accounts_next_private_key_sealed_check", "older programs do not write it"),
    ("certificates.certificates_key_comes_with_csr", "older programs write the plain key with the CSR"),
    ("certificates.certificates_issued_is_whole", "asks for less than it did; the key comes with the CSR"),
    ("certificates.certificates_private_key_sealed_check", "older programs do not write it"),
    ("certificates.certificates_revoked_has_reason", "older programs write neither"),
    ("certificates.certificates_revoked_was_issued", "older programs do not revoke, nor leave the state issued"),
    ("jobs.jobs_delivery_id_key", "says the same; it leaves out the rows that have none"),
    ("jobs.jobs_proposal_id_key", "says the same; it leaves out the rows that have none"),
    ("orders.orders_acme_url_open_key", OPEN_BY_TIME),
    ("orders.orders_one_open_per_certificate", OPEN_BY_TIME),
    ("orders.orders_one_open_per_domain", OPEN_BY_TIME),
    ("presenter_configs.presenter_configs_has_one_secret", "older programs write the plain one, and know no other"),
    ("presenter_configs.presenter_configs_secret_sealed_check", "older programs do not write it"),
    ("presenter_proposals.presenter_proposals_has_one_secret", "older programs write the plain one, and know no other"),
    ("presenter_proposals.presenter_proposals_secret_sealed_check", "older programs do not write it"),
    (
        "presenter_proposals.presenter_proposals_refused_keeps_no_sealed_secret",
        "a refusal of what an older program cannot read is rolled back, so that a newer one tries it",
    ),
    ("presenter_proposals.presenter_proposals_refused_keeps_no_secret", "asks for less than it did"),
    ("presenter_proposals.presenter_proposals_withdrawn_is_refused", "older programs withdraw by deleting the row"),
    ("presenter_proposals.presenter_proposals_of_account_key", "asks for less than it did"),
    ("presenter_proposals.presenter_proposals_of_domain_key", "asks for less than it did"),
    ("webhooks.webhooks_has_one_secret", "older programs write the plain one, and know no other"),
    ("webhooks.webhooks_secret_sealed_check", "older programs do not write it"),
    ("audit_entries.token_id", "NULL for what an operator does without a token; older programs do not list those rows"),
];

/// Since `orders_ended_has_time`.
const OPEN_BY_TIME: &str = "says the same: what has not ended has no time of its end";

fn is_considered(change: &str) -> bool {
    let about = change.split([':', ' ']).next();
    CONSIDERED.iter().any(|(name, _)| about == Some(*name))
}

/// Of each column: table, name, type, and whether it takes NULL or fills itself.
const COLUMNS: &str = "
    SELECT c.relname || '.' || a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
        a.atthasdef OR a.attidentity <> '' FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT a.attisdropped
        AND c.relname <> '_sqlx_migrations'";
/// Of tables, with what they say: constraints, unique indexes, triggers.
const RULES: &str = "
    SELECT c.relname || '.' || r.conname || ': ' || pg_get_constraintdef(r.oid)
        FROM pg_constraint r JOIN pg_class c ON c.oid = r.conrelid WHERE r.connamespace = 'public'::regnamespace
    UNION SELECT t.relname || '.' || i.relname || ': ' || pg_get_indexdef(i.oid)
        FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
        WHERE x.indisunique AND t.relnamespace = 'public'::regnamespace
    UNION SELECT c.relname || '.' || g.tgname || ': ' || pg_get_triggerdef(g.oid)
        FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid WHERE NOT g.tgisinternal";

type Column = (String, String, bool, bool);

async fn columns(connection: &mut PgConnection) -> Vec<Column> {
    sqlx::query_as(COLUMNS).fetch_all(connection).await.unwrap()
}

async fn rules(connection: &mut PgConnection) -> BTreeSet<String> {
    sqlx::query_scalar(RULES).fetch_all(connection).await.unwrap().into_iter().collect()
}

/// What older programs, which know `before`, would stumble over in `now`.
fn stumbling_blocks(before: &[Column], now: &[Column]) -> Vec<String> {
    let table = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let tables: BTreeSet<String> = before.iter().map(|(name, ..)| table(name)).collect();
    let mut blocks = Vec::new();
    for (name, kind, nullable, filled) in now {
        match before.iter().find(|(known, ..)| known == name) {
            Some((_, was, ..)) if was != kind => blocks.push(format!("{name} was {was} and is {kind}")),
            Some((_, _, was_nullable, _)) if was_nullable != nullable => {
                blocks.push(format!("{name}: whether it may be NULL has changed"));
            }
            Some((.., was_filled)) if *was_filled && !filled => blocks.push(format!("{name} has lost its default")),
            None if tables.contains(&table(name)) && !nullable && !filled => {
                blocks.push(format!("{name} is new and must be given"));
            }
            _ => {}
        }
    }
    let gone = before.iter().filter(|(name, ..)| !now.iter().any(|(known, ..)| known == name));
    blocks.extend(gone.map(|(name, ..)| format!("{name} is gone")));
    blocks
}

/// Has it planned, which is where an ON CONFLICT finds its index; nothing is executed.
async fn plan(connection: &mut PgConnection, name: &str, statement: &Understood) -> Result<(), sqlx::Error> {
    let nulls = vec!["NULL"; statement.parameters.len()].join(", ");
    let given = if nulls.is_empty() { nulls } else { format!("({nulls})") };
    let planned = format!("PREPARE {name} AS {}; EXPLAIN EXECUTE {name}{given}", statement.query);
    sqlx::raw_sql(AssertSqlSafe(planned)).execute(connection).await.map(drop)
}

#[tokio::test]
async fn the_statements_of_the_version_before_run_on_the_new_schema() {
    let mut connection = connect(&migrated().await).await;
    let releases = Release::all().unwrap();
    assert!(!releases.is_empty(), "tests/releases is empty");
    for release in releases {
        let statements = release.statements().unwrap();
        assert!(statements.len() > 100, "{}: only {} statements", release.version, statements.len());
        let mut broken = Vec::new();
        for (number, before) in statements.into_iter().enumerate() {
            match understand(&mut connection, &before.query).await {
                Ok(now) if now == before => {
                    if let Err(error) =
                        plan(&mut connection, &format!("of_{}_{number}", release.version), &before).await
                    {
                        broken.push(format!("{}\n  {error}", before.query));
                    }
                }
                Ok(now) => broken.push(format!("{}\n  was {before:?}\n  is {now:?}", before.query)),
                Err(error) => broken.push(format!("{}\n  {error}", before.query)),
            }
        }
        assert!(broken.is_empty(), "of schema {}:\n{}", release.version, broken.join("\n"));
    }
}

#[tokio::test]
async fn what_the_version_before_writes_is_taken_by_the_new_schema() {
    let mut now = connect(&migrated().await).await;
    for release in Release::all().unwrap() {
        let mut before = connect(&empty().await).await;
        release.migrate(&mut before).await.unwrap();
        let known = columns(&mut before).await;
        let mut blocks = stumbling_blocks(&known, &columns(&mut now).await);
        blocks.retain(|block| !is_considered(block));
        assert!(blocks.is_empty(), "of schema {}:\n{}", release.version, blocks.join("\n"));

        let (rules_before, rules_now) = (rules(&mut before).await, rules(&mut now).await);
        let is_about = |rule: &str, tables: &[Column]| {
            tables.iter().any(|(name, ..)| name.split('.').next() == rule.split('.').next())
        };
        let new: Vec<&String> =
            rules_now.difference(&rules_before).filter(|rule| is_about(rule, &known) && !is_considered(rule)).collect();
        assert!(
            new.is_empty(),
            "does what schema {} writes fulfil these? Then say so here:\n{new:#?}",
            release.version
        );
    }
    let there: BTreeSet<String> =
        rules(&mut now).await.into_iter().map(|rule| rule.split(':').next().unwrap().to_owned()).collect();
    let columns: BTreeSet<String> = columns(&mut now).await.into_iter().map(|(name, ..)| name).collect();
    for (name, reason) in CONSIDERED {
        assert!(there.contains(name) || columns.contains(name), "there is no {name} ({reason})");
    }
}

#[tokio::test]
async fn a_kept_release_is_one_of_ours() {
    let ours = migrations().await.unwrap();
    for release in Release::all().unwrap() {
        assert!(ours.version_exists(release.version), "no migration has the version {}", release.version);
    }
}

#[test]
fn what_breaks_older_programs_is_found() {
    let column = |name: &str, kind: &str, nullable, filled| (name.to_owned(), kind.to_owned(), nullable, filled);
    let before = [column("orders.id", "bigint", false, true), column("orders.note", "text", true, false)];
    let fine = [column("orders.kept", "text", true, false), column("orders.count", "integer", false, true)];
    assert!(
        stumbling_blocks(&before, &[&before[..], &fine, &[column("new.id", "text", false, false)]].concat()).is_empty()
    );
    let bad = [
        column("orders.id", "integer", false, true),
        column("orders.note", "text", false, false),
        column("orders.must", "text", false, false),
    ];
    assert_eq!(stumbling_blocks(&before, &bad).len(), 3);
    assert_eq!(stumbling_blocks(&before, &before[..1]), ["orders.note is gone"]);
}
