//! Which of our crates depends on which: `api` and `worker` meet in Postgres, never in code.

use std::fs;

use countersign_tests::checkout;

/// Lines of a manifest that name a crate of ours other than itself and the allowed ones.
fn forbidden(path: &str, manifest: &str, allowed: &[&str]) -> Vec<String> {
    let code = (1..).zip(manifest.lines()).map(|(number, line)| (number, line.split('#').next().unwrap_or_default()));
    let names_other = |line: &str| {
        let is_own_name = line.trim_start().starts_with("name") || line.trim_start().starts_with("description");
        let of_ours = line.match_indices("countersign-").map(|(at, _)| {
            let end =
                line[at..].find(|c: char| !c.is_ascii_alphanumeric() && c != '-').map_or(line.len(), |end| at + end);
            &line[at..end]
        });
        !is_own_name && (of_ours.into_iter().any(|name| !allowed.contains(&name)) || line.contains("path ="))
    };
    code.filter(|(_, line)| names_other(line))
        .map(|(number, line)| format!("{path}:{number}: {line} — may depend on {allowed:?} of ours only"))
        .collect()
}

#[test]
fn api_and_worker_depend_on_shared_only_shared_on_none_of_ours_and_benchmarks_on_the_stack() {
    let root = checkout::root().unwrap();
    let rules: [(&str, &[&str]); 4] = [
        ("api", &["countersign-shared"]),
        ("worker", &["countersign-shared"]),
        ("shared", &[]),
        ("tests/load", &["countersign-tests"]),
    ];
    let broken: Vec<String> = rules
        .into_iter()
        .flat_map(|(folder, allowed)| {
            let path = format!("{folder}/Cargo.toml");
            let manifest = fs::read_to_string(root.join(&path)).unwrap();
            // A binary of ours has a name of ours, too.
            let (package, binaries) = manifest.split_once("[[bin]]").unwrap_or((&manifest, ""));
            assert!(!binaries.contains("dependencies]"), "{path}: [[bin]] comes after the dependencies");
            forbidden(&path, package, allowed)
        })
        .collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn a_forbidden_dependency_is_found_in_every_spelling() {
    let manifest = "[package]\nname = \"countersign-worker\"\n[dependencies]\ncountersign-shared.workspace = true\n# countersign-api\n";
    assert!(forbidden("worker/Cargo.toml", manifest, &["countersign-shared"]).is_empty());
    for line in
        ["countersign-api.workspace = true", "x = { package = \"countersign-api\" }", "x = { path = \"../api\" }"]
    {
        let broken = forbidden("worker/Cargo.toml", &format!("{manifest}{line}\n"), &["countersign-shared"]);
        assert_eq!(broken.len(), 1, "{line}");
        assert!(broken[0].starts_with("worker/Cargo.toml:6: "), "{broken:?}");
    }
}
