//! Folders and files: the fixed top level, a first line that says what a file owns, and files that can be read in one go.

use std::process::Command;

use countersign_tests::checkout;

use crate::source::sources;

const FOLDERS: [&str; 6] = ["api", "deploy", "migrations", "shared", "tests", "worker"];

/// Past about 400 lines a file is asked why; past this it is refused.
const MOST_LINES: usize = 450;

/// The paths that are in a top-level folder other than ours and those of tools (`.cargo`, `.sqlx`).
fn outside_of_the_floor_plan(paths: &str) -> Vec<&str> {
    let in_strange_folder = |path: &&str| {
        path.split_once('/').is_some_and(|(folder, _)| !folder.starts_with('.') && !FOLDERS.contains(&folder))
    };
    paths.lines().filter(in_strange_folder).collect()
}

fn opens_with_its_purpose(text: &str) -> bool {
    text.lines().next().is_some_and(|line| line.starts_with("//! "))
}

#[test]
fn the_top_level_has_no_other_folders() {
    let root = checkout::root().unwrap();
    // Also what is not committed yet, unless git ignores it.
    let listing = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .expect("git is needed");
    assert!(listing.status.success(), "{}", String::from_utf8_lossy(&listing.stderr));
    let paths = String::from_utf8(listing.stdout).unwrap();
    assert!(paths.contains("tests/architecture/layout.rs"), "git lists {paths}");
    let strange = outside_of_the_floor_plan(&paths);
    assert!(strange.is_empty(), "\n{}", strange.join("\n"));
    assert_eq!(outside_of_the_floor_plan("Makefile\n.ci/run\napi/src/main.rs\nscripts/x\n"), ["scripts/x"]);
}

#[test]
fn every_file_opens_with_what_it_owns() {
    let all = sources(&["api", "worker", "shared", "tests"]);
    let silent: Vec<String> = all
        .iter()
        .filter(|source| !opens_with_its_purpose(&source.text))
        .map(|source| format!("{}:1: {}", source.path, source.text.lines().next().unwrap_or_default()))
        .collect();
    assert!(silent.is_empty(), "these do not open with `//! …`:\n{}", silent.join("\n"));
    assert!(
        !opens_with_its_purpose("use std::fs;\n//! late")
            && !opens_with_its_purpose("")
            && !opens_with_its_purpose("//!")
    );
}

#[test]
fn no_file_of_the_product_is_too_long_to_read() {
    let long: Vec<String> = sources(&["api", "worker", "shared"])
        .iter()
        .map(|source| (&source.path, source.text.lines().count()))
        .filter(|&(_, lines)| lines > MOST_LINES)
        .map(|(path, lines)| format!("{path}:{}: the file goes on to line {lines}", MOST_LINES + 1))
        .collect();
    assert!(long.is_empty(), "no file may have more than {MOST_LINES} lines:\n{}", long.join("\n"));
}
