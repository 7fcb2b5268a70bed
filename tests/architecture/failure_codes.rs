//! README.md tells of every failure code, and whether it can be retried.

use std::collections::BTreeMap;
use std::fs;

use countersign_shared::model::problem::ProblemCode;
use countersign_tests::checkout;
use strum::IntoEnumIterator as _;

/// The first two columns of every table that begins with `Code` and `Retryable`, in their order.
fn documented(readme: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut is_ours = false;
    for line in readme.lines() {
        let mut columns = line.strip_prefix('|').unwrap_or_default().split('|').map(str::trim);
        match (columns.next().unwrap_or_default(), columns.next().unwrap_or_default()) {
            ("Code", "Retryable") => is_ours = true,
            ("", _) => is_ours = false,
            (code, retryable) if is_ours && code.starts_with('`') => found.push((code.trim_matches('`'), retryable)),
            _ => {}
        }
    }
    found
}

#[test]
fn the_readme_lists_every_failure_code_and_whether_it_can_be_retried() {
    let readme = fs::read_to_string(checkout::root().unwrap().join("README.md")).unwrap();
    let listed = documented(&readme);
    let codes: BTreeMap<&str, &str> =
        ProblemCode::iter().map(|code| (code.as_str(), if code.retryable() { "yes" } else { "no" })).collect();
    assert_eq!(listed.iter().copied().collect::<BTreeMap<_, _>>(), codes, "left: README.md, right: model::problem");
    assert_eq!(listed.len(), codes.len(), "README.md lists a code twice");
}

#[test]
fn codes_are_read_from_their_own_table_only() {
    let readme = "| Code | Retryable | Why |\n|---|---|---|\n| `one` | yes | not `two` |\n| `one` | no | |\n\n`three`\n\
                  | Code | Text |\n|---|---|\n| `four` | no |\n";
    assert_eq!(documented(readme), [("one", "yes"), ("one", "no")]);
}
