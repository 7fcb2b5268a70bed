//! Who may name what, in the code of `api`, `worker` and `shared`. Every rule brings the line that it must refuse.

use crate::source::{Source, has_prefix, has_word, sources};

struct Rule {
    reason: &'static str,
    /// Whether the rule is about this file.
    about: fn(&str) -> bool,
    /// Whether it refuses this line of code.
    refuses: fn(&str) -> bool,
    /// A file and a line of it that break the rule.
    broken_by: (&'static str, &'static str),
}

const RULES: &[Rule] = &[
    Rule {
        reason: "the model knows no database, runtime, queue, web framework or resolver",
        about: is_model,
        refuses: |line| ["sqlx", "tokio", "apalis", "axum", "hickory"].iter().any(|name| has_prefix(line, name)),
        broken_by: ("shared/src/model/order.rs", "use hickory_resolver::Name;"),
    },
    Rule {
        reason: "the model imports nothing of ours but itself",
        about: is_model,
        refuses: |line| modules_of_ours(line).any(|module| module != "model"),
        broken_by: ("shared/src/model/order.rs", "use crate::store::StoreError;"),
    },
    Rule {
        reason: "the model imports nothing of ours but itself",
        about: |path| path == "shared/src/model.rs",
        refuses: |line| line.contains("super::"),
        broken_by: ("shared/src/model.rs", "use super::store;"),
    },
    Rule {
        reason: "the model is pure: no I/O, no async, no clock",
        about: is_model,
        refuses: |line| {
            ["async", "await", "std::fs", "std::io", "std::env", "SystemTime", "Instant", "now_utc", "rand"]
                .iter()
                .any(|name| has_word(line, name))
        },
        broken_by: ("shared/src/model/schedule.rs", "let now = std::time::SystemTime::now();"),
    },
    Rule {
        reason: "the store imports the model, sealed.rs and nothing else of ours",
        about: is_store,
        refuses: |line| modules_of_ours(line).any(|module| !["model", "sealed", "store"].contains(&module)),
        broken_by: ("shared/src/store/jobs.rs", "use crate::dns::TxtLookup;"),
    },
    Rule {
        reason: "the store imports the model and nothing else of ours",
        about: |path| path == "shared/src/store.rs",
        refuses: |line| line.contains("super::"),
        broken_by: ("shared/src/store.rs", "use super::dns;"),
    },
    Rule {
        reason: "the API reads nothing of the ACME account",
        about: |path| path.starts_with("api/"),
        refuses: |line| has_word(line, "acme_accounts"),
        broken_by: ("api/src/lifecycle/issue.rs", "let account = acme_accounts::load(conn, ring, directory);"),
    },
    Rule {
        reason: "only the store asks the database",
        about: |path| !is_store(path),
        refuses: |line| {
            has_prefix(line, "sqlx::query")
                || ["query!", "query_as!", "query_scalar!"].iter().any(|name| has_prefix(line, name))
                || (has_prefix(line, "sqlx::{") && has_prefix(line, "query"))
        },
        broken_by: ("worker/src/steps/place.rs", "let row = sqlx::query_as!(Row, TEXT);"),
    },
    Rule {
        reason: "only the store knows SQL",
        about: |path| !is_store(path),
        refuses: |line| {
            ["SELECT ", "INSERT INTO ", "DELETE FROM ", "TRUNCATE "].iter().any(|verb| has_prefix(line, verb))
                || (has_prefix(line, "UPDATE ") && line.contains(" SET "))
        },
        broken_by: ("api/src/lifecycle/issue.rs", "let text = \"UPDATE jobs SET woken = true\";"),
    },
    Rule {
        reason: "apalis is named in worker/src/queue and worker/src/runtime.rs only",
        about: |path| !is_module(path, "worker/src/queue") && path != "worker/src/runtime.rs",
        refuses: |line| has_prefix(line, "apalis"),
        broken_by: ("worker/src/advance.rs", "use apalis_core::backend::Backend;"),
    },
    Rule {
        reason: "instant-acme is named in worker/src/acme only",
        about: |path| !is_module(path, "worker/src/acme"),
        refuses: |line| has_prefix(line, "instant_acme"),
        broken_by: ("worker/src/steps/place.rs", "order: instant_acme::Order,"),
    },
    Rule {
        reason: "hickory is named in shared/src/dns, worker/src/responder and worker/src/presenters/rfc2136 only",
        about: |path| {
            !["shared/src/dns", "worker/src/responder", "worker/src/presenters/rfc2136"]
                .iter()
                .any(|module| is_module(path, module))
        },
        refuses: |line| has_prefix(line, "hickory"),
        broken_by: ("worker/src/steps/confirm.rs", "use hickory_resolver::TokioResolver;"),
    },
    Rule {
        reason: "OpenTelemetry is named in shared/src/telemetry only",
        about: |path| !is_module(path, "shared/src/telemetry"),
        refuses: |line| has_prefix(line, "opentelemetry") || has_prefix(line, "prometheus"),
        broken_by: ("worker/src/advance.rs", "use opentelemetry::KeyValue;"),
    },
    Rule {
        reason: "a step speaks to facades, not to the database, the queue, the CA's client or the resolver",
        about: |path| is_module(path, "worker/src/steps"),
        refuses: |line| {
            ["sqlx", "apalis", "instant_acme", "hickory"].iter().any(|name| has_prefix(line, name)) || begins(line)
        },
        broken_by: ("worker/src/steps/place.rs", "let mut tx = ctx.pool.begin().await?;"),
    },
    Rule {
        reason: "transactions are opened in worker/src/advance.rs, worker/src/jobs, worker/src/ctl and the API's handlers only",
        about: |path| {
            path != "worker/src/advance.rs"
                && ![
                    "worker/src/jobs",
                    "worker/src/ctl",
                    "api/src/diagnosis",
                    "api/src/lifecycle",
                    "api/src/v2",
                    "api/src/ops",
                ]
                .iter()
                .any(|module| is_module(path, module))
        },
        refuses: begins,
        broken_by: ("shared/src/store/orders.rs", "let mut tx = conn.begin().await?;"),
    },
    Rule {
        reason: "transactions begin at the pool, which knows of one that was given up on; only a tool begins one in its connection",
        about: |path| !is_module(path, "worker/src/ctl"),
        refuses: |line| has_word(line, "Connection") && line.contains("store::"),
        broken_by: ("worker/src/advance.rs", "use countersign_shared::store::{Connection as _, Pool};"),
    },
    Rule {
        reason: "only config.rs reads the environment",
        about: |path| !path.ends_with("/config.rs"),
        refuses: |line| has_word(line, "std::env") || has_word(line, "env::var") || has_word(line, "env::var_os"),
        broken_by: ("worker/src/runtime.rs", "let url = std::env::var(\"DATABASE_URL\");"),
    },
    Rule {
        reason: "every listener serves by shared/src/serve.rs: with limits and security headers",
        about: |path| path != "shared/src/serve.rs",
        refuses: |line| line.contains("axum::serve") || line.contains("serve_connection"),
        broken_by: ("shared/src/ops.rs", "axum::serve(listener, router).await"),
    },
    Rule {
        reason: "secrets are compared by their digests, with subtle's ct_eq: how long that takes tells nothing",
        about: |_| true,
        refuses: |line| {
            let is_compared = line.contains("==") || line.contains("!=");
            is_compared && (line.contains(".expose()") || line.contains("::digest("))
        },
        broken_by: ("api/src/auth.rs", "if token.expose() == given {}"),
    },
    Rule {
        reason: "no name says util, common, helpers, manager, get_, do_ or process_",
        about: |_| true,
        refuses: |line| {
            let names = ["mod ", "fn "].into_iter().filter_map(|keyword| {
                let (before, name) = line.split_once(keyword)?;
                let is_item = before
                    .split_whitespace()
                    .all(|word| word.starts_with("pub") || ["async", "const", "unsafe", "extern"].contains(&word));
                is_item.then_some((keyword, name))
            });
            names.into_iter().any(|(keyword, name)| {
                let name = name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                is_banned(name)
                    || (keyword == "fn " && ["get_", "do_", "process_"].iter().any(|verb| name.starts_with(verb)))
            })
        },
        broken_by: ("worker/src/keys.rs", "pub(super) async fn get_key() {}"),
    },
];

fn is_model(path: &str) -> bool {
    is_module(path, "shared/src/model")
}

fn is_store(path: &str) -> bool {
    is_module(path, "shared/src/store")
}

/// Whether the file is `module.rs` or below `module/`.
fn is_module(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// The modules `x` of every `crate::x` of a line, also in `crate::{x, y::z}`.
fn modules_of_ours(line: &str) -> impl Iterator<Item = &str> {
    let names = line.split("crate::").skip(1).flat_map(|rest| match rest.strip_prefix('{') {
        Some(group) => group.split(',').collect(),
        None => vec![rest],
    });
    names.map(|name| name.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
}

fn begins(line: &str) -> bool {
    [".begin()", ".begin_snapshot()", ".begin_with("].iter().any(|begins| line.contains(begins))
}

fn is_banned(name: &str) -> bool {
    let banned = ["util", "utils", "common", "helper", "helpers", "manager"];
    name.split('_').any(|part| banned.contains(&part))
}

fn violations<'a>(rule: &Rule, sources: impl IntoIterator<Item = &'a Source>) -> Vec<String> {
    let about = sources.into_iter().filter(|source| (rule.about)(&source.path));
    let lines = about.flat_map(|source| source.code().into_iter().map(|(number, code)| (&source.path, number, code)));
    lines
        .filter(|(.., code)| (rule.refuses)(code))
        .map(|(path, number, code)| format!("{path}:{number}: {} — {}", code.trim(), rule.reason))
        .collect()
}

#[test]
fn every_line_names_only_what_its_place_allows() {
    let sources = sources(&["api", "worker", "shared"]);
    let broken: Vec<String> = RULES.iter().flat_map(|rule| violations(rule, &sources)).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn files_and_functions_of_the_tests_have_good_names_too() {
    let naming = RULES.last().unwrap();
    let mut broken = violations(naming, &sources(&["tests"]));
    let all = sources(&["api", "worker", "shared", "tests"]);
    let stem = |source: &Source| source.path.rsplit('/').next().unwrap().trim_end_matches(".rs").to_owned();
    let misnamed = all.iter().filter(|source| is_banned(&stem(source)) || source.path.split('/').any(is_banned));
    broken.extend(misnamed.map(|source| format!("{}:1: the file's name — {}", source.path, naming.reason)));
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn every_rule_bites_on_code_and_not_on_comments() {
    for rule in RULES {
        let (path, line) = rule.broken_by;
        let source = |text: String| [Source { path: path.to_owned(), text }];
        let broken = violations(rule, &source(format!("//! A file.\n\n{line}\n")));
        assert_eq!(broken, [format!("{path}:3: {line} — {}", rule.reason)]);
        assert!(violations(rule, &source(format!("// {line}\n/* {line} */\n"))).is_empty(), "{line}");
    }
}

#[test]
fn a_rule_leaves_alone_what_it_is_not_about() {
    let all = [
        ("shared/src/store/jobs.rs", "let row = sqlx::query!(\"SELECT 1\");"),
        ("shared/src/model/order.rs", "use crate::model::{ids::PublicId};"),
        ("shared/src/config.rs", "let folder = std::env::temp_dir();"),
        ("worker/src/queue/backend.rs", "use apalis::prelude::Backend;"),
        ("worker/src/acme.rs", "use instant_acme::Account;"),
        ("worker/src/jobs/sweep.rs", "let mut tx = pool.begin().await?;"),
        ("api/src/lifecycle/wire.rs", "fn undo_it() { forget_everything() }"),
    ];
    for (path, line) in all {
        let source = [Source { path: path.to_owned(), text: line.to_owned() }];
        let broken: Vec<String> = RULES.iter().flat_map(|rule| violations(rule, &source)).collect();
        assert!(broken.is_empty(), "{broken:?}");
    }
}

#[test]
fn modules_of_ours_are_found_in_groups() {
    let found: Vec<&str> = modules_of_ours("use crate::{dns, store::jobs}; let x = crate::model::Y;").collect();
    assert!(["dns", "store", "model"].iter().all(|module| found.contains(module)), "{found:?}");
}
