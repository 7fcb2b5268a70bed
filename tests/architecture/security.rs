//! SECURITY.md is true of the code as far as a machine can tell: its tests, files and constants are there. And what no program of ours
//! does.

use std::collections::BTreeSet;
use std::fs;

use countersign_tests::checkout;

use crate::source::{Source, has_word, sources};

/// What is in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Cells of the rows of tables whose last column has this title, without titles and rules.
fn rows<'a>(page: &'a str, last: &str) -> Vec<Vec<&'a str>> {
    let mut found = Vec::new();
    let mut is_inside = false;
    for line in page.lines() {
        let Some(row) = line.strip_prefix('|').and_then(|row| row.strip_suffix('|')) else {
            is_inside = false;
            continue;
        };
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if cells.last() == Some(&last) {
            is_inside = true;
        } else if is_inside && !cells[0].starts_with("---") {
            found.push(cells);
        }
    }
    found
}

/// Names of the functions right behind a `#[test]`, with whatever attributes between; inside `proptest!` too.
fn tests_of(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in source.text.lines().map(str::trim) {
        is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
        if let Some((before, name)) = line.split_once("fn ") {
            if is_test && before.split_whitespace().all(|word| ["pub", "async"].contains(&word)) {
                found.extend(name.split('(').next().map(ToOwned::to_owned));
            }
            is_test = false;
        }
    }
    found
}

/// Paths of ours, as the page writes them.
fn paths(page: &str) -> impl Iterator<Item = &str> {
    let ours = ["api/", "deploy/", "migrations/", "shared/", "tests/", "worker/"];
    quoted(page).filter(move |text| ours.iter().any(|folder| text.starts_with(folder)))
}

/// Constants of code in a cell, none of which any of the files that the cell names has.
fn lost_constants(cell: &str, text_of: impl Fn(&str) -> String) -> Vec<&str> {
    let files: Vec<String> = paths(cell).map(text_of).collect();
    let is_constant = |text: &&str| text.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let is_lost = |name: &&str| !files.iter().any(|text| text.lines().any(|line| has_word(line, name)));
    quoted(cell).filter(is_constant).filter(is_lost).collect()
}

fn page() -> String {
    fs::read_to_string(checkout::root().unwrap().join("SECURITY.md")).unwrap()
}

#[test]
fn every_test_that_security_md_names_is_there() {
    let all: BTreeSet<String> = sources(&["api", "worker", "shared", "tests"]).iter().flat_map(tests_of).collect();
    let page = page();
    let rows = rows(&page, "Tests");
    assert!(rows.len() > 40, "only {} rows are found", rows.len());
    for row in rows {
        let named: Vec<&str> = quoted(row.last().unwrap()).collect();
        assert!(!named.is_empty(), "no test holds: {}", row[0]);
        let gone: Vec<&str> = named.into_iter().filter(|name| !all.contains(*name)).collect();
        assert!(gone.is_empty(), "{}: these tests are not there: {gone:?}", row[0]);
    }
}

#[test]
fn every_file_and_constant_that_security_md_names_is_there() {
    let root = checkout::root().unwrap();
    let page = page();
    let gone: Vec<&str> = paths(&page).filter(|path| !root.join(path).exists()).collect();
    assert!(gone.is_empty(), "SECURITY.md names what is not there: {gone:?}");
    let text_of = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let is_where = |cell: &&str| cell.starts_with('`');
    for (what, cell) in rows(&page, "Tests").iter().map(|row| (row[0], row[row.len() - 2])) {
        let lost: Vec<&str> = Some(cell).filter(is_where).map(|cell| lost_constants(cell, text_of)).unwrap_or_default();
        assert!(lost.is_empty(), "{what}: none of the files has {lost:?}");
    }
}

#[test]
fn the_page_is_read_as_it_is_meant() {
    let page = "| A | Where | Tests |\n|---|---|---|\n| x | `api/a.rs` `MOST` | `one`, `two` |\n\n| B | C |\n|---|---|\n| `y` | `z` |\n";
    let found = rows(page, "Tests");
    assert_eq!(found, [["x", "`api/a.rs` `MOST`", "`one`, `two`"]]);
    assert_eq!(paths(page).collect::<Vec<_>>(), ["api/a.rs"]);
    assert!(lost_constants(found[0][1], |_| "const MOST: usize = 1;".to_owned()).is_empty());
    assert_eq!(lost_constants(found[0][1], |_| "const MOSTLY: usize = 1;".to_owned()), ["MOST"]);
    let text = "#[test]\nfn a() {}\nfn b() {}\n#[tokio::test]\n#[ignore = \"x\"]\nasync fn c() {}\n".to_owned();
    assert_eq!(tests_of(&Source { path: "x.rs".to_owned(), text }), ["a", "c"]);
}

/// Code that ships: all of a file up to its module of tests.
fn shipped(source: &Source) -> Vec<(usize, String)> {
    if ["/fake_ca.rs", "/pebble.rs", "/tests.rs"].iter().any(|name| source.path.ends_with(name)) {
        return Vec::new();
    }
    let mut code = source.code();
    let opens = |pair: &[(usize, String)]| pair[0].1.trim() == "#[cfg(test)]" && pair[1].1.ends_with('{');
    let until = code.windows(2).position(opens).unwrap_or(code.len());
    code.truncate(until);
    code
}

fn starts_a_program_or_writes_a_file(line: &str) -> bool {
    ["process::Command", "Command::new", "fs::write", "File::create", "OpenOptions", "fs::rename", "create_dir"]
        .iter()
        .any(|name| line.contains(name))
}

/// Its path is given by an operator, who wants the file: it must not exist, and nobody else may read it.
const WRITES_A_FILE: &str = "worker/src/ctl/certificates.rs";

#[test]
fn no_program_starts_another_or_writes_a_file() {
    let mut broken = Vec::new();
    let export = sources(&["worker"]).into_iter().find(|source| source.path == WRITES_A_FILE).unwrap();
    let opened: Vec<_> = export.text.lines().filter(|line| line.contains("OpenOptions::new()")).collect();
    assert!(
        opened.len() == 1 && opened[0].contains(".create_new(true).mode(0o600).open(path)"),
        "an export goes into one new file that is its owner's alone: {opened:?}"
    );
    for source in sources(&["api", "worker", "shared"]).into_iter().filter(|source| source.path != WRITES_A_FILE) {
        let lines = shipped(&source).into_iter().filter(|(_, line)| starts_a_program_or_writes_a_file(line));
        broken.extend(lines.map(|(number, line)| format!("{}:{number}: {}", source.path, line.trim())));
    }
    assert!(
        broken.is_empty(),
        "nothing that a CA, a customer or DNS says may come near a command or a file:\n{}",
        broken.join("\n")
    );
    assert!(starts_a_program_or_writes_a_file("std::process::Command::new(\"sh\")"));
    assert!(!starts_a_program_or_writes_a_file("impl Command { fn run() {} }"));
}
