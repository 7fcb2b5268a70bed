//! Alert rules, their tests, and their runbooks: every alert has what a person needs at night, and every command there
//! can be given.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Output};

use countersign_shared::model::problem::ProblemCode;
use countersign_tests::queries::{self, ALERTS, RUNBOOKS, SCALED_OBJECT, asked};
use countersign_tests::{checkout, prometheus};
use serde_json::Value;
use strum::IntoEnumIterator as _;

const TESTS: &str = "tests/alerts";
/// Verbs of `countersignctl` that speak to the CA or to DNS, which the API's pod may not.
const OF_WORKERS: [&str; 4] = ["acme-account", "certificates revoke", "dns try", "doctor"];
const POD_MONITOR: &str = "deploy/kubernetes/components/monitoring/pod-monitor.yaml";

fn read(path: &str) -> String {
    fs::read_to_string(checkout::root().unwrap().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names in a folder that end so, sorted.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(checkout::root().unwrap().join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(ending)).collect();
    names.sort();
    assert!(!names.is_empty(), "{folder} has no {ending}");
    names
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The alerts by name.
fn alerts() -> BTreeMap<String, Value> {
    let rules = queries::alerts().unwrap();
    let alerts: BTreeMap<_, _> = rules.iter().map(|rule| (text(rule, "/alert").to_owned(), rule.clone())).collect();
    assert_eq!(alerts.len(), rules.len(), "two alerts have one name, or one has none");
    alerts
}

fn promtool(arguments: &[String]) -> Option<Output> {
    let program = prometheus::program("promtool").unwrap()?;
    Some(Command::new(program).args(arguments).current_dir(checkout::root().unwrap()).output().unwrap())
}

/// Commands of a page in code blocks and between backticks, as words, without what a shell does with their output.
fn commands(page: &str, program: &str) -> Vec<Vec<String>> {
    let joined = page.replace("\\\n", " ");
    let lines = queries::blocks(&joined, "sh").join("\n");
    let prose: String = joined.split("```").step_by(2).collect();
    let spans = prose.split('`').skip(1).step_by(2).map(ToOwned::to_owned);
    let all = lines.lines().map(ToOwned::to_owned).chain(spans);
    all.filter_map(|line| {
        let command = line.split(" | ").next()?.split('#').next()?.to_owned();
        // What is before it is the way into a pod.
        let at = command.find(program).filter(|&at| at == 0 || command[..at].ends_with(' '))?;
        let words: Vec<String> = command[at..].split_whitespace().map(ToOwned::to_owned).collect();
        (words.len() > 1).then_some(words)
    })
    .collect()
}

#[test]
fn every_alert_says_what_it_means_and_has_its_runbook() {
    let index = read(&format!("{RUNBOOKS}/README.md"));
    let mut pages: BTreeSet<String> = files(RUNBOOKS, ".md").into_iter().collect();
    // The index, and the page that belongs to no alert.
    assert!(pages.remove("README.md") && pages.remove("backup-and-restore.md"));
    for (name, rule) in alerts() {
        assert!(name.starts_with("Countersign"), "{name}");
        let severity = text(&rule, "/labels/severity");
        assert!(["critical", "warning"].contains(&severity), "{name}: severity {severity:?}");
        for annotation in ["summary", "description"] {
            let said = text(&rule, &format!("/annotations/{annotation}"));
            assert!(said.ends_with('.'), "{name}: {annotation} is no sentence: {said:?}");
        }
        let url = text(&rule, "/annotations/runbook_url");
        let page = url.rsplit('/').next().unwrap();
        assert!(url.ends_with(&format!("/{RUNBOOKS}/{page}")), "{name}: {url}");
        assert!(pages.remove(page), "{name}: {page} is not there, or belongs to another alert too");
        let runbook = read(&format!("{RUNBOOKS}/{page}"));
        assert!(runbook.starts_with(&format!("# {name}: ")), "{page} begins with another name");
        for part in ["**What it means.**", "\n## Look at\n", "\n## Do\n"] {
            assert!(runbook.contains(part), "{page} lacks {part:?}");
        }
        assert!(index.contains(&format!("[{name}]({page}) | {severity} |")), "{RUNBOOKS}/README.md: {name}");
    }
    assert!(pages.is_empty(), "no alert leads to {pages:?}");
}

#[test]
fn links_of_runbooks_lead_to_pages() {
    let folder = checkout::root().unwrap().join(RUNBOOKS);
    for page in files(RUNBOOKS, ".md") {
        for link in read(&format!("{RUNBOOKS}/{page}")).split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap();
            // Nothing before the anchor: the page itself.
            assert!(target.is_empty() || folder.join(target).is_file(), "{page} leads to {target}");
        }
    }
}

#[test]
fn commands_of_runbooks_can_be_given() {
    let ctl = checkout::binary("countersignctl").unwrap();
    let deployed = read("deploy/kubernetes/base/worker.yaml")
        + &read("deploy/kubernetes/base/api.yaml")
        + &read("deploy/kubernetes/base/dns.yaml")
        + &read("deploy/kubernetes/base/migrate.yaml");
    let index = read(&format!("{RUNBOOKS}/README.md"));
    let mut given = BTreeSet::new();
    for page in files(RUNBOOKS, ".md") {
        let runbook = read(&format!("{RUNBOOKS}/{page}"));
        for words in commands(&runbook, "countersignctl") {
            let arguments: Vec<&str> = words[1..]
                .iter()
                .map(|word| match word.as_str() {
                    "JOB" => "1",
                    other => other,
                })
                .collect();
            // With it nothing is done, and what stands before it is read all the same.
            let output = Command::new(&ctl).args(&arguments).arg("--help").env_clear().output().unwrap();
            assert!(output.status.success(), "{page}: {words:?}: {}", String::from_utf8_lossy(&output.stderr));
            let line = words.join(" ");
            for verb in OF_WORKERS.iter().filter(|verb| line.starts_with(&format!("countersignctl {verb}"))) {
                assert!(index.contains(&format!("`{verb}`")), "README.md: {verb} needs a worker's pod");
            }
            given.insert(line);
        }
        for words in commands(&runbook, "kubectl") {
            let line = words.join(" ");
            let in_api =
                line.contains("exec deploy/countersign-api") || line.contains("exec -i deploy/countersign-api");
            assert!(!in_api || OF_WORKERS.iter().all(|verb| !line.contains(verb)), "{page}: {line}: not in that pod");
            // An autoscaler takes it back.
            let scales = words.iter().any(|word| word == "scale");
            assert!(!scales || !line.contains("countersign-api"), "{page}: {line}");
            let keda = runbook.contains("patch scaledobject countersign-worker ");
            assert!(!scales || !line.contains("countersign-worker") || keda, "{page}: {line}: and with KEDA?");
            let names = words.iter().filter_map(|word| {
                let (kind, name) = word.split_once('/')?;
                ["deploy", "deployment", "job"].contains(&kind).then_some(name)
            });
            for name in names {
                assert!(deployed.contains(&format!("name: {name}\n")), "{page}: there is no {name}");
            }
        }
    }
    assert!(given.contains("countersignctl jobs stats") && given.len() > 10, "{given:?}");
    let wrong = Command::new(&ctl).args(["orders", "list", "--sinse", "1h", "--help"]).output().unwrap();
    assert!(!wrong.status.success(), "a wrong flag is taken");
}

#[test]
fn failure_codes_in_queries_are_codes() {
    let codes: BTreeSet<&str> = ProblemCode::iter().map(ProblemCode::as_str).collect();
    let mut seen = BTreeSet::new();
    for query in queries::shipped().unwrap() {
        let selectors = asked(&query.text).selectors;
        for matcher in selectors.iter().flat_map(|selector| &selector.matchers).filter(|one| one.label == "code") {
            for code in matcher.value.split('|') {
                assert!(codes.contains(code), "{}: there is no {code}", query.place);
                seen.insert(code.to_owned());
            }
        }
    }
    // Whoever adds a code decides whose fault it is.
    let of_customers = ["record_not_seen", "challenge_refused", "caa_forbids", "name_refused", "domain_deleted"];
    assert!(of_customers.iter().all(|code| seen.contains(*code)), "{seen:?}");
}

#[test]
fn every_alert_is_tested_to_fire_and_to_be_silent() {
    let mut untested: BTreeMap<String, BTreeSet<bool>> =
        alerts().into_keys().map(|name| (name, BTreeSet::from([true, false]))).collect();
    for file in files(TESTS, ".yaml") {
        let tests: Value = yaml_serde::from_str(&read(&format!("{TESTS}/{file}"))).unwrap();
        let tests = tests["tests"].as_array().unwrap();
        for check in tests.iter().flat_map(|test| test["promql_expr_test"].as_array().unwrap()) {
            let selectors = asked(text(check, "/expr")).selectors;
            let [only] = &selectors[..] else { panic!("{file}: {check}") };
            assert_eq!(only.metric, "ALERTS", "{file}: {check}");
            let named = only.matchers.iter().find(|matcher| matcher.label == "alertname").unwrap();
            let fires = check["exp_samples"].as_array().is_some_and(|samples| !samples.is_empty());
            untested.get_mut(&named.value).unwrap_or_else(|| panic!("{file}: {}", named.value)).remove(&fires);
        }
    }
    untested.retain(|_, missing| !missing.is_empty());
    assert!(untested.is_empty(), "not tested to fire (true), or to be silent (false): {untested:?}");
}

#[test]
fn workers_are_scaled_by_work_and_never_by_what_merely_waits() {
    let worker = read("deploy/kubernetes/base/worker.yaml");
    let object: Value = yaml_serde::from_str(&read(SCALED_OBJECT)).unwrap();
    let target = text(&object, "/spec/scaleTargetRef/name");
    assert!(worker.contains(&format!("kind: Deployment\nmetadata:\n  name: {target}\n")), "there is no {target}");
    let queries = queries::shipped().unwrap();
    let selectors: Vec<_> = queries
        .iter()
        .filter(|query| query.place.starts_with(SCALED_OBJECT))
        .flat_map(|query| asked(&query.text).selectors)
        .collect();
    let metrics: Vec<&str> = selectors.iter().map(|selector| selector.metric.as_str()).collect();
    assert_eq!(metrics, ["countersign_jobs", "countersign_jobs_lag_seconds"]);
    let state = selectors[0].matchers.iter().find(|matcher| matcher.label == "state").unwrap();
    assert_eq!((state.operator.as_str(), state.value.as_str()), ("=~", "due|leased|lost"));
}

#[test]
fn the_pod_monitor_scrapes_what_is_served_and_names_the_jobs_of_the_alerts() {
    let monitor: Value = yaml_serde::from_str(&read(POD_MONITOR)).unwrap();
    let endpoint = "/spec/podMetricsEndpoints/0";
    let route = format!(".route(\"{}\"", text(&monitor, &format!("{endpoint}/path")));
    assert!(read("shared/src/ops.rs").contains(&route), "{route}");
    let port = format!("- name: {}\n", text(&monitor, &format!("{endpoint}/port")));
    let components = monitor.pointer("/spec/selector/matchExpressions/0/values").unwrap().as_array().unwrap();
    let job = text(&monitor, &format!("{endpoint}/relabelings/0/replacement"));
    let rules = read(ALERTS);
    for component in components.iter().map(|component| component.as_str().unwrap()) {
        let deployed = read(&format!("deploy/kubernetes/base/{component}.yaml"));
        assert!(deployed.contains(&port), "{component} has no port {port}");
        assert!(deployed.contains(&format!("app.kubernetes.io/component: {component}\n")), "{component}");
    }
    assert_eq!(components.len(), 3);
    assert_eq!(job, "countersign-$1");
    assert!(rules.contains("countersign-(api|worker|dns)"));
}

#[test]
#[ignore = "needs promtool: make test-all"]
fn alerts_fire_when_they_should_and_only_then() {
    let tests = files(TESTS, ".yaml").into_iter().map(|file| format!("{TESTS}/{file}"));
    let runs = [
        ["check", "rules", ALERTS].map(ToOwned::to_owned).to_vec(),
        ["test", "rules"].map(ToOwned::to_owned).into_iter().chain(tests).collect(),
    ];
    for arguments in runs {
        let Some(output) = promtool(&arguments) else { return };
        let said = String::from_utf8_lossy(&output.stdout);
        println!("{said}");
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    }
}
