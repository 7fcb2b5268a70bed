//! Every setting of our binaries is in README.md's table of settings.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use countersign_tests::checkout;

/// The environment variables that `--help` of a binary and of all its verbs names.
pub(crate) fn settings(binary: &str, verbs: &[String]) -> BTreeSet<String> {
    let program = checkout::binary(binary).unwrap();
    let output = Command::new(program).args(verbs).arg("--help").env_clear().output().unwrap();
    assert!(output.status.success(), "{binary} {verbs:?} --help: {}", output.status);
    let help = String::from_utf8(output.stdout).unwrap();
    let mut found: BTreeSet<String> = variables(&help).map(ToOwned::to_owned).collect();
    for verb in commands(&help) {
        found.extend(settings(binary, &[verbs, &[verb.to_owned()]].concat()));
    }
    found
}

/// `NAME` of every `[env: NAME]` and `[env: NAME=value]`.
fn variables(help: &str) -> impl Iterator<Item = &str> {
    help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next())
}

/// The verbs listed below `Commands:`.
fn commands(help: &str) -> impl Iterator<Item = &str> {
    let listed = help.split_once("Commands:\n").map_or("", |(_, after)| after.split("\n\n").next().unwrap_or_default());
    let verbs = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    verbs.filter_map(|line| line.split_whitespace().next()).filter(|verb| *verb != "help")
}

/// What no row of a table names in its first column as `` `NAME` ``.
fn missing<'a>(readme: &str, settings: &'a BTreeSet<String>) -> Vec<&'a str> {
    let first_columns = readme.lines().filter_map(|line| line.trim_start().strip_prefix('|')?.split('|').next());
    let listed: BTreeSet<&str> = first_columns.flat_map(|column| column.split('`').skip(1).step_by(2)).collect();
    settings.iter().map(String::as_str).filter(|name| !listed.contains(name)).collect()
}

#[test]
fn the_readme_lists_every_setting() {
    let binaries = ["countersign-api", "countersign-worker", "countersign-dns", "countersignctl"];
    let all: BTreeSet<String> = binaries.iter().flat_map(|binary| settings(binary, &[])).collect();
    for known in ["SERVER_ADDR", "DATABASE_URL", "ACME_DIRECTORY", "ACME_EMAIL", "AUTH_TOKEN", "LOG_LEVEL"] {
        assert!(all.contains(known), "--help does not name {known}: {all:?}");
    }
    let Ok(readme) = fs::read_to_string(checkout::root().unwrap().join("README.md")) else {
        eprintln!("there is no README.md yet");
        return;
    };
    let missing = missing(&readme, &all);
    assert!(missing.is_empty(), "README.md's table of settings lacks {missing:?}");
}

#[test]
fn only_a_row_of_a_table_lists_a_setting() {
    let all: BTreeSet<String> = ["AUTH_TOKEN", "LOG_LEVEL", "PLACE_WAIT"].map(ToOwned::to_owned).into();
    let readme = "Set `LOG_LEVEL`.\n\n| Setting | Meaning |\n|---|---|\n| `AUTH_TOKEN`, `X` | as `PLACE_WAIT` |\n";
    assert_eq!(missing(readme, &all), ["LOG_LEVEL", "PLACE_WAIT"]);
    assert_eq!(variables("  [env: A=1]\n [env: B]").collect::<Vec<_>>(), ["A", "B"]);
    assert_eq!(
        commands("Usage\n\nCommands:\n  migrate  Bring\n  help  Print\n\nOptions:\n  -h\n").collect::<Vec<_>>(),
        ["migrate"]
    );
}
