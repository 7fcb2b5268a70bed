//! `deploy/` is true of the code: programs, settings, ports, probes, paths, times to stop, and who reaches what.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use countersign_tests::checkout;
use serde::Deserialize as _;
use serde_json::Value;

use crate::settings::settings;

const PROGRAMS: [&str; 4] = ["countersign-api", "countersign-dns", "countersign-worker", "countersignctl"];
const KUSTOMIZATIONS: [&str; 3] = ["base", "overlays/staging", "overlays/production"];

/// Variables in `deploy/` that are not ours to define.
const OF_OTHERS: [&str; 12] = [
    "CARGO_PROFILE_RELEASE_STRIP",
    "DNS_SERVER",
    // Read by the OpenTelemetry SDK itself.
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_TRACES_SAMPLER",
    "PEBBLE_CONFIG",
    "PEBBLE_VA_NOSLEEP",
    "POSTGRES_DB",
    "POSTGRES_PASSWORD",
    "POSTGRES_USER",
    "SQLX_OFFLINE",
];

/// After `SHUTDOWN_GRACE`, what a worker takes at most to give back the rest.
const GIVE_BACK_WITHIN: u64 = 3;
/// What any process takes at most after that to push what is left for a collector.
const PUSH_WITHIN: u64 = 3;

/// One program as `deploy/` starts it.
struct Process {
    /// Where that is written.
    place: String,
    program: String,
    settings: BTreeMap<String, String>,
    /// The service of compose.yaml, or the pod of a manifest.
    written: Value,
}

fn read(path: &str) -> String {
    fs::read_to_string(checkout::root().unwrap().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Vec<Value> {
    let text = read(path);
    let documents = yaml_serde::Deserializer::from_str(&text).map(Value::deserialize);
    documents.map(|document| document.unwrap_or_else(|error| panic!("{path}: {error}"))).collect()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The objects of the base, each with the file it is in.
fn objects() -> Vec<(String, Value)> {
    let base = "deploy/kubernetes/base";
    let kustomization = yaml(&format!("{base}/kustomization.yaml")).remove(0);
    let files = list(&kustomization, "/resources").iter().map(|file| format!("{base}/{}", file.as_str().unwrap()));
    let found: Vec<_> =
        files.flat_map(|file| yaml(&file).into_iter().map(move |object| (file.clone(), object))).collect();
    assert!(found.len() > 10, "the base has lost its objects");
    found
}

/// What the generated ConfigMaps hold, in the base and in every overlay, by name.
fn generated() -> BTreeMap<String, BTreeMap<String, String>> {
    let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for folder in KUSTOMIZATIONS {
        let kustomization = yaml(&format!("deploy/kubernetes/{folder}/kustomization.yaml")).remove(0);
        for map in list(&kustomization, "/configMapGenerator") {
            let literals = list(map, "/literals").iter().map(|literal| {
                let (name, value) = literal.as_str().unwrap().split_once('=').unwrap();
                (name.to_owned(), value.to_owned())
            });
            found.entry(text(map, "/name").to_owned()).or_default().extend(literals);
        }
    }
    found
}

fn in_kubernetes() -> Vec<Process> {
    let generated = generated();
    let workloads =
        objects().into_iter().filter(|(_, object)| !list(object, "/spec/template/spec/containers").is_empty());
    let processes: Vec<Process> = workloads
        .map(|(place, object)| {
            let pod = object["spec"]["template"]["spec"].clone();
            let [container] = list(&pod, "/containers") else { panic!("{place}: a pod has one container") };
            let maps = list(container, "/envFrom").iter().map(|from| {
                let name = text(from, "/configMapRef/name");
                generated.get(name).unwrap_or_else(|| panic!("{place}: nothing makes the ConfigMap {name:?}")).clone()
            });
            let single = list(container, "/env")
                .iter()
                .map(|variable| (text(variable, "/name").to_owned(), text(variable, "/value").to_owned()));
            let settings = maps.flatten().chain(single).collect();
            Process { program: text(container, "/command/0").to_owned(), settings, place, written: pod }
        })
        .collect();
    assert_eq!(processes.len(), 4, "api, worker, dns, migrate");
    processes
}

fn in_compose() -> Vec<Process> {
    let place = "deploy/compose/compose.yaml";
    let compose = yaml(place).remove(0);
    let services = compose["services"].as_object().unwrap();
    let ours = services.iter().filter(|(_, service)| service["image"] == "countersign");
    let processes: Vec<Process> = ours
        .map(|(name, service)| {
            let environment = service["environment"].as_object().unwrap();
            let settings = environment.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
            Process {
                place: format!("{place}, {name}"),
                program: text(service, "/command/0").to_owned(),
                settings: settings.collect(),
                written: service.clone(),
            }
        })
        .collect();
    assert_eq!(processes.len(), 4, "api, worker, dns, migrate");
    processes
}

/// Those that run until they are stopped.
fn servers(processes: &[Process]) -> impl Iterator<Item = &Process> {
    processes.iter().filter(|process| process.program != "countersignctl")
}

/// The programs that the workspace builds, by cargo's own account.
fn bin_targets() -> BTreeSet<String> {
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output = Command::new("cargo").args(arguments).current_dir(checkout::root().unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let targets = list(&metadata, "/packages").iter().flat_map(|package| list(package, "/targets"));
    let programs = targets.filter(|target| list(target, "/kind").contains(&Value::from("bin")));
    programs.map(|target| text(target, "/name").to_owned()).collect()
}

/// What the COPY lines of a Dockerfile take from the context.
fn copied(dockerfile: &str) -> Vec<&str> {
    let lines = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY "));
    let of_the_context = lines.filter(|line| !line.contains("--from="));
    of_the_context
        .flat_map(|line| {
            let mut words: Vec<&str> = line.split_whitespace().filter(|word| !word.starts_with("--")).collect();
            words.pop();
            words
        })
        .collect()
}

/// Names in capitals with an underscore, as settings have them.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| {
        word.trim_matches('_').contains('_')
            && !word.ends_with('_')
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    })
}

fn files(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            files(&entry.path(), found);
        } else {
            found.push(entry.path().strip_prefix(checkout::root().unwrap()).unwrap().to_str().unwrap().to_owned());
        }
    }
}

fn seconds(length: &str) -> u64 {
    length.strip_suffix('s').and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{length:?} in seconds"))
}

/// The port of `:port` or `host:port`.
fn port_of(address: &str) -> u64 {
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or_else(|| panic!("{address:?}"))
}

/// Whether a policy is about the pods of this component.
fn is_about(policy: &Value, component: &str) -> bool {
    let label = |key: &str| match key {
        "app.kubernetes.io/name" => "countersign",
        "app.kubernetes.io/component" => component,
        other => panic!("our pods have no label {other}"),
    };
    let selector = &policy["spec"]["podSelector"];
    let mut labels = selector["matchLabels"].as_object().into_iter().flatten();
    let expressions = list(selector, "/matchExpressions");
    labels.all(|(key, value)| label(key) == value)
        && expressions.iter().all(|expression| {
            assert_eq!(expression["operator"], "In");
            list(expression, "/values").contains(&Value::from(label(text(expression, "/key"))))
        })
}

#[test]
fn every_program_is_told_settings_that_it_has() {
    let has: BTreeMap<&str, BTreeSet<String>> =
        PROGRAMS.into_iter().map(|program| (program, settings(program, &[]))).collect();
    for process in in_kubernetes().into_iter().chain(in_compose()) {
        let Process { place, program, settings, .. } = process;
        let known = has.get(program.as_str()).unwrap_or_else(|| panic!("{place}: there is no program {program:?}"));
        let unknown: Vec<&String> = settings.keys().filter(|name| !known.contains(*name)).collect();
        assert!(unknown.is_empty(), "{place}: {program} has no {unknown:?}");
        let database = ["DATABASE_URL", "DATABASE_URL_FILE"].iter().any(|name| settings.contains_key(*name));
        assert!(database, "{place}: {program} is not told where the database is");
    }
    let (all, mut paths) = (has.into_values().flatten().collect::<BTreeSet<String>>(), Vec::new());
    files(&checkout::root().unwrap().join("deploy"), &mut paths);
    for path in paths {
        let text = read(&path);
        let unknown: Vec<&str> =
            named(&text).filter(|name| !all.contains(*name) && !OF_OTHERS.contains(name)).collect();
        assert!(unknown.is_empty(), "{path} names settings that no program has: {unknown:?}");
    }
    assert_eq!(
        named("`ACME_EMAIL`, the `DNS_…` settings, $AUTH_TOKEN=x, TXT").collect::<Vec<_>>(),
        ["ACME_EMAIL", "AUTH_TOKEN"]
    );
}

#[test]
fn the_image_is_made_of_what_there_is() {
    let (root, dockerfile) = (checkout::root().unwrap(), read("deploy/docker/Dockerfile"));
    let ignored = read("deploy/docker/Dockerfile.dockerignore");
    let sources = copied(&dockerfile);
    assert!(sources.contains(&"Cargo.lock") && sources.contains(&"migrations"), "{sources:?}");
    for source in sources {
        assert!(root.join(source).exists(), "deploy/docker/Dockerfile copies {source}, which is not there");
        assert!(ignored.lines().any(|line| line == format!("!{source}")), "Dockerfile.dockerignore keeps {source} out");
    }
    let pebble = read("deploy/compose/pebble/Dockerfile");
    for source in copied(&pebble) {
        assert!(root.join("deploy/compose/pebble").join(source).exists(), "compose/pebble/Dockerfile copies {source}");
    }
    let built = bin_targets();
    for program in PROGRAMS {
        assert!(built.contains(program), "{program} is not among the programs that cargo builds: {built:?}");
        assert!(dockerfile.contains(&format!("target/release/{program}")), "the image lacks {program}");
    }
    let taken: BTreeSet<&str> =
        dockerfile.split_whitespace().filter_map(|word| word.strip_prefix("target/release/")).collect();
    assert_eq!(taken, BTreeSet::from(PROGRAMS));
    let manifest = read("Cargo.toml");
    let toolchain = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(dockerfile.contains(&format!("FROM rust:{toolchain}-")), "the workspace needs Rust {toolchain}");
}

#[test]
fn probes_and_services_ask_what_is_served() {
    let routes = read("shared/src/ops.rs");
    for Process { place, settings, written, .. } in servers(&in_kubernetes()) {
        let container = &written["containers"][0];
        let ports: BTreeMap<&str, u64> = list(container, "/ports")
            .iter()
            .map(|port| (text(port, "/name"), port["containerPort"].as_u64().unwrap()))
            .collect();
        let served: BTreeSet<u64> =
            settings.iter().filter(|(name, _)| name.ends_with("_ADDR")).map(|(_, address)| port_of(address)).collect();
        assert_eq!(ports.values().copied().collect::<BTreeSet<_>>(), served, "{place}: ports, and settings …_ADDR");
        let admin = port_of(&settings["ADMIN_ADDR"]);
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let probe = container.get(probe).unwrap_or_else(|| panic!("{place} has no {probe}"));
            match probe.get("httpGet") {
                Some(get) => {
                    assert_eq!(ports.get(text(get, "/port")), Some(&admin), "{place}: {probe}");
                    let route = format!(".route(\"{}\"", text(get, "/path"));
                    assert!(routes.contains(&route), "{place}: the operators' listener has no such path: {probe}");
                }
                None => {
                    let port = ports.get(text(probe, "/tcpSocket/port"));
                    assert_eq!(port, Some(&port_of(&settings["DNS_ADDR"])), "{place}: {probe}");
                }
            }
        }
    }
    for (place, object) in objects().iter().filter(|(_, object)| object["kind"] == "Service") {
        let deployment = yaml(place).remove(0);
        assert_eq!(object["spec"]["selector"], deployment["spec"]["template"]["metadata"]["labels"], "{place}");
        let ports = list(&deployment, "/spec/template/spec/containers/0/ports");
        for port in list(object, "/spec/ports") {
            assert!(ports.iter().any(|open| open["name"] == port["targetPort"]), "{place}: {port}");
        }
    }
}

#[test]
fn a_process_has_the_time_to_stop() {
    for Process { place, settings, written, .. } in servers(&in_kubernetes()) {
        assert!(written["containers"][0].get("lifecycle").is_none(), "{place}: a pre-stop hook takes time, too");
        let delay = settings.get("SHUTDOWN_DELAY").map_or(0, |delay| seconds(delay));
        let least = delay + seconds(&settings["SHUTDOWN_GRACE"]) + GIVE_BACK_WITHIN + PUSH_WITHIN;
        let given = written["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
        assert!(given > least, "{place}: it needs more than {least} s, and is killed after {given} s");
    }
    for Process { place, program, written, .. } in servers(&in_compose()) {
        // The default of SHUTDOWN_GRACE.
        let least = 20 + GIVE_BACK_WITHIN + PUSH_WITHIN;
        assert!(seconds(text(written, "/stop_grace_period")) > least, "{place}: {program} needs more than {least} s");
    }
}

#[test]
fn secrets_are_files_that_are_mounted() {
    for Process { place, settings, written, .. } in in_kubernetes() {
        let mount = text(&written, "/containers/0/volumeMounts/0/mountPath");
        let sources =
            list(&written, "/volumes/0/projected/sources").iter().flat_map(|source| list(source, "/secret/items"));
        let mounted: BTreeSet<String> = sources.map(|item| format!("{mount}/{}", text(item, "/path"))).collect();
        let named: BTreeSet<String> =
            settings.iter().filter(|(name, _)| name.ends_with("_FILE")).map(|(_, path)| path.clone()).collect();
        assert_eq!(named, mounted, "{place}: settings …_FILE, and what is mounted");
        for secret in ["DATABASE_URL", "ADMIN_TOKEN", "AUTH_TOKEN", "ACME_EAB_HMAC_KEY", "ENCRYPTION_KEYS"] {
            assert!(!settings.contains_key(secret), "{place}: {secret} belongs into a file");
        }
    }
}

#[test]
fn pods_may_nothing_that_they_do_not_need() {
    let user =
        read("deploy/docker/Dockerfile").lines().find_map(|line| Some(line.strip_prefix("USER ")?.to_owned())).unwrap();
    for Process { place, written, .. } in in_kubernetes() {
        assert_eq!(written["automountServiceAccountToken"], false, "{place}");
        let pod = &written["securityContext"];
        assert_eq!(pod["runAsNonRoot"], true, "{place}");
        assert_eq!(format!("{}:{}", pod["runAsUser"], pod["runAsGroup"]), user, "{place}: the image's user");
        assert_eq!(pod["seccompProfile"]["type"], "RuntimeDefault", "{place}");
        let container = &written["containers"][0];
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false, "{place}");
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{place}");
        assert_eq!(list(container, "/securityContext/capabilities/drop"), [Value::from("ALL")], "{place}");
        assert!(container["resources"]["requests"]["cpu"].is_string(), "{place}: requests");
        assert!(container["resources"]["limits"]["memory"].is_string(), "{place}: limits");
    }
    for Process { place, written, .. } in in_compose() {
        assert_eq!(written["read_only"], true, "{place}");
        assert_eq!(list(&written, "/cap_drop"), [Value::from("ALL")], "{place}");
    }
    let objects = objects();
    let namespace = objects.iter().find(|(_, object)| object["kind"] == "Namespace").unwrap();
    assert_eq!(namespace.1["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
}

#[test]
fn the_api_and_the_name_server_cannot_reach_the_ca() {
    let objects = objects();
    let policies: Vec<&Value> =
        objects.iter().map(|(_, object)| object).filter(|object| object["kind"] == "NetworkPolicy").collect();
    let refuses_everything = |policy: &&Value| {
        let spec = policy["spec"].as_object().unwrap();
        spec["podSelector"] == serde_json::json!({}) && spec.len() == 2 && list(policy, "/spec/policyTypes").len() == 2
    };
    assert!(policies.iter().any(refuses_everything), "no policy refuses everything that no other allows");
    let reaches = |component: &str| -> BTreeSet<u64> {
        let about = policies.iter().filter(|policy| is_about(policy, component));
        let rules = about.flat_map(|policy| list(policy, "/spec/egress"));
        rules
            .flat_map(|rule| {
                assert!(!list(rule, "/ports").is_empty(), "a rule without ports allows all of them: {rule}");
                list(rule, "/ports").iter().map(|port| {
                    assert!(port.get("endPort").is_none(), "{port}");
                    port["port"].as_u64().unwrap()
                })
            })
            .collect()
    };
    for component in ["api", "dns", "migrate"] {
        assert_eq!(reaches(component), BTreeSet::from([53, 5432]), "{component}");
    }
    assert_eq!(reaches("worker"), BTreeSet::from([53, 443, 5432]));
}

#[test]
fn prometheus_can_scrape_every_program_and_nobody_else_gets_in_there() {
    let (objects, routes, generated) = (objects(), read("shared/src/ops.rs"), generated());
    for component in ["api", "worker", "dns"] {
        let path = format!("deploy/kubernetes/base/{component}.yaml");
        let annotations = yaml(&path).remove(0)["spec"]["template"]["metadata"]["annotations"].clone();
        assert_eq!(annotations["prometheus.io/scrape"], "true", "{path}");
        let address = &generated[&format!("countersign-{component}")]["ADMIN_ADDR"];
        assert_eq!(annotations["prometheus.io/port"], port_of(address).to_string(), "{path}");
        let route = format!(".route(\"{}\"", annotations["prometheus.io/path"].as_str().unwrap());
        assert!(routes.contains(&route), "{path}: the operators' listener has no such path: {route}");
        let policies = objects.iter().map(|(_, object)| object).filter(|object| object["kind"] == "NetworkPolicy");
        let about = policies.filter(|policy| is_about(policy, component));
        let rules = about.flat_map(|policy| list(policy, "/spec/ingress"));
        let to_admin: Vec<_> =
            rules.filter(|rule| list(rule, "/ports").iter().any(|port| port["port"] == "admin")).collect();
        let [rule] = to_admin[..] else { panic!("{component}: {to_admin:?}") };
        let [from] = list(rule, "/from") else { panic!("{component}: {rule}") };
        let labels = &from["namespaceSelector"]["matchLabels"];
        assert_eq!(*labels, serde_json::json!({ "countersign/scraper": "true" }), "{component}");
    }
}

#[test]
#[ignore = "needs tools from PyPI and npm: make deploy-check, make test-all"]
fn the_files_are_what_their_readers_expect() {
    let output = Command::new("sh").arg("tests/deploy-check").current_dir(checkout::root().unwrap()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // Its way to say that the tools cannot be had here.
    let skipped = output.status.code() == Some(77);
    assert!(skipped || output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    println!("{said}");
}
