//! What operators see: lists with every filter, one order, one job, the counts. The same by both doors.

use countersign_tests::api_client::ApiClient;
use reqwest::Method;
use serde_json::{Value, json};

use super::listener::Listener;
use super::{ctl, domain, everything, job, order, sql};
use crate::databases::{connect, migrated};

/// The orders `a` (the older of two), `a`, `b` and so on of `a.example.com`, `b.example.com` and so on; none of them like another.
async fn rows(url: &str) -> Vec<String> {
    let mut conn = connect(url).await;
    sql(&mut conn, "UPDATE jobs SET due_at = now() - interval '1 minute'").await;
    let mut orders = Vec::new();
    let cases = [
        ("a", "failed", vec![("failed", Some("ca_refused")), ("cancelled", Some("cancelled_by_operator"))]),
        ("b", "certificate_pending", vec![("presented", None)]),
        ("c", "failed", vec![("failed", Some("internal"))]),
        ("d", "active", vec![("issued", None)]),
        ("e", "verified", vec![("accepted", None)]),
        ("f", "certificate_pending", vec![("responded", None)]),
        ("g", "certificate_pending", vec![("presented", None)]),
    ];
    for (label, status, its_orders) in cases {
        let domain = domain(&mut conn, &format!("{label}.example.com"), status).await;
        for (state, code) in its_orders {
            orders.push(order(&mut conn, domain, state, code).await);
        }
    }
    let old = format!("UPDATE orders SET updated_at = now() - interval '3 days' WHERE public_id = '{}'", orders[0]);
    sql(&mut conn, &old).await;
    let untidy = format!("UPDATE orders SET cleaned_up_at = NULL WHERE public_id = '{}'", orders[3]);
    sql(&mut conn, &untidy).await;
    let failure = r#"'{"failures": 1, "failure": {"detail": "the CA could not be reached"}}'"#;
    let waiting = format!("now() + interval '1 hour', 1, {failure}");
    job(&mut conn, &orders[2], "due_at, attempts, last_result", &waiting).await;
    job(&mut conn, &orders[3], "parked_at", "now()").await;
    let leased = job(&mut conn, &orders[5], "due_at, leased_by", "now() + interval '1 minute', 'worker-7'").await;
    sql(&mut conn, &format!("UPDATE jobs SET lane = 0, lease = 4 WHERE id = {leased}")).await;
    job(&mut conn, &orders[6], "due_at, leased_by", "now() - interval '1 minute', 'worker-8'").await;
    job(&mut conn, &orders[7], "due_at", "now() - interval '1 minute'").await;
    orders
}

/// A filter as pairs for a query, and what it selects.
const ORDERS: &[(&[(&str, &str)], &str)] = &[
    (&[], "g f e d c b a a"),
    (&[("state", "failed")], "c a"),
    (&[("state", "failed,cancelled")], "c a a"),
    (&[("code", "ca_refused")], "a"),
    (&[("domain", "A.example.COM")], "a a"),
    (&[("since", "1day")], "g f e d c b a"),
    (&[("parked", "true")], "c"),
    (&[("newest", "true")], "g f e d c b a"),
    (&[("newest", "true"), ("state", "failed")], "c"),
    (&[("limit", "2")], "g f"),
    (&[("before", "00000000000000000000000000000000")], ""),
    (&[("domain", "nobody.example.com")], ""),
];
const JOBS: &[(&[(&str, &str)], &str)] = &[
    (&[], "sweep purge renew-due b c e f g"),
    (&[("state", "due")], "sweep purge renew-due g"),
    (&[("state", "waiting")], "b"),
    (&[("state", "leased")], "e"),
    (&[("state", "lost")], "f"),
    (&[("state", "parked")], "c"),
    (&[("state", "waiting,parked")], "b c"),
    (&[("kind", "poll-challenge")], "b c e f g"),
    (&[("kind", "purge")], "purge"),
    (&[("lane", "0")], "e"),
    (&[("lane", "2")], "sweep purge renew-due"),
    (&[("worker", "worker-7")], "e"),
    (&[("domain", "B.example.com")], "b"),
    (&[("failing", "true")], "b"),
    (&[("limit", "1")], "sweep"),
    (&[("failing", "true"), ("state", "due")], ""),
];

/// The first label of each name, or the kind of a job that has none.
fn labels(lines: &Value) -> String {
    let label = |line: &Value| match line["domain_name"].as_str() {
        Some(name) => name.split('.').next().unwrap_or_default().to_owned(),
        None => line["kind"].as_str().unwrap().to_owned(),
    };
    lines.as_array().unwrap().iter().map(label).collect::<Vec<_>>().join(" ")
}

/// The same list by both doors.
async fn listed(url: &str, api: &ApiClient, what: &str, filter: &[(&str, &str)]) -> Value {
    let flags: Vec<String> = filter
        .iter()
        .map(|(name, value)| if *value == "true" { format!("--{name}") } else { format!("--{name}={value}") })
        .collect();
    let mut args = vec![what, "list", "--json"];
    args.extend(flags.iter().map(String::as_str));
    let said = ctl(url, &args).await.ended(0).json()[what].clone();
    let query: Vec<String> = filter.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let answer = api.send(api.request(Method::GET, &format!("/{what}?{}", query.join("&")))).await.unwrap();
    let answered = answer.expect(200)[what].clone();
    assert_eq!(labels(&said), labels(&answered), "{filter:?}");
    said
}

#[tokio::test]
async fn every_filter_selects_what_it_says_by_both_doors_and_seeing_changes_nothing() {
    let url = migrated().await;
    let orders = rows(&url).await;
    let listener = Listener::of_an_api(&url, &[]).await;
    let before = everything(&url).await;
    for (filter, expected) in ORDERS {
        assert_eq!(labels(&listed(&url, &listener.operators, "orders", filter).await), *expected, "{filter:?}");
    }
    for (filter, expected) in JOBS {
        assert_eq!(labels(&listed(&url, &listener.operators, "jobs", filter).await), *expected, "{filter:?}");
    }
    let after_c = listed(&url, &listener.operators, "orders", &[("before", &orders[3])]).await;
    assert_eq!(labels(&after_c), "b a a");
    let jobs = listed(&url, &listener.operators, "jobs", &[]).await;
    let b = jobs[3]["id"].to_string();
    assert_eq!(labels(&listed(&url, &listener.operators, "jobs", &[("after", &b)]).await), "c e f g");
    assert_eq!(everything(&url).await, before);
}

#[tokio::test]
async fn tables_for_people_and_lines_for_scripts() {
    let url = migrated().await;
    let orders = rows(&url).await;
    let table = ctl(&url, &["orders", "list"]).await.ended(0).out;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 9, "{table}");
    let header: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(header, ["ORDER", "DOMAIN", "STATE", "CODE", "CHANGED", "JOB"]);
    for (order, words) in
        [(3, "c.example.com failed internal parked"), (5, "e.example.com accepted - with worker-7"), (4, "issued - -")]
    {
        let line = lines.iter().find(|line| line.contains(&orders[order])).unwrap();
        assert!(words.split(' ').all(|word| line.split_whitespace().any(|cell| cell == word)), "{words}: {line}");
    }
    assert!(lines[1..].iter().all(|line| line.find(" example.com") == lines[1].find(" example.com")), "{table}");

    let table = ctl(&url, &["jobs", "list"]).await.ended(0).out;
    let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        header,
        ["JOB", "KIND", "LANE", "STATE", "DUE,", "LEASED", "UNTIL", "WORKER", "FAILURES", "DOMAIN", "ORDER"]
    );
    let lost = table.lines().find(|line| line.contains("f.example.com")).unwrap();
    assert!(lost.contains("lost") && lost.contains("worker-8") && lost.contains(&orders[6]), "{lost}");

    let one = ctl(&url, &["jobs", "list", "--domain", "c.example.com", "--json"]).await.json()["jobs"][0].clone();
    let shown = ctl(&url, &["jobs", "show", &one["id"].to_string()]).await.ended(0).out;
    for line in ["kind          poll-challenge", "state         parked", "domain        c.example.com", &orders[3]] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    let shown = ctl(&url, &["jobs", "show", &one["id"].to_string(), "--json"]).await.ended(0).json();
    assert_eq!((&shown["id"], &shown["state"]), (&one["id"], &json!("parked")));
}

#[tokio::test]
async fn stats_count_what_stands_where_and_name_the_accounts_held_back() {
    let url = migrated().await;
    rows(&url).await;
    let held = "INSERT INTO acme_accounts (directory, private_key_pem, held_until, held_because)
                VALUES ('https://ca.example/dir', '-----BEGIN PRIVATE KEY-----', now() + interval '1 hour', 'too many'),
                       ('https://other.example/dir', '-----BEGIN PRIVATE KEY-----', now() - interval '1 hour', 'over')";
    sql(&mut connect(&url).await, held).await;
    let stats = ctl(&url, &["jobs", "stats", "--json"]).await.ended(0).json();
    let counts = |kind: &str, lane: u8| -> Value {
        let jobs = stats["jobs"].as_array().unwrap();
        let mut line = jobs.iter().find(|line| line["kind"] == kind && line["lane"] == lane).unwrap().clone();
        let lag = line.as_object_mut().unwrap().remove("lag_secs").unwrap();
        assert_eq!(lag.as_f64().is_some_and(|lag| lag >= 60.0), line["due"] != 0 || line["lost"] != 0, "{line} {lag}");
        line
    };
    assert_eq!(
        counts("poll-challenge", 1),
        json!({"kind": "poll-challenge", "lane": 1, "due": 1, "waiting": 1, "leased": 0, "lost": 1, "parked": 1, "failing": 1})
    );
    assert_eq!(
        counts("poll-challenge", 0),
        json!({"kind": "poll-challenge", "lane": 0, "due": 0, "waiting": 0, "leased": 1, "lost": 0, "parked": 0, "failing": 0})
    );
    assert_eq!(counts("purge", 2)["due"], 1);
    let holds = stats["holds"].as_array().unwrap();
    assert_eq!(
        (holds.len(), &holds[0]["directory"], &holds[0]["because"]),
        (1, &json!("https://ca.example/dir"), &json!("too many"))
    );
    let said = ctl(&url, &["jobs", "stats"]).await.ended(0).out;
    assert!(said.starts_with("KIND") && said.contains("https://ca.example/dir is held back until"), "{said}");
    assert!(!said.contains("BEGIN") && !stats.to_string().contains("BEGIN"), "a key is shown");
}

/// Rows with keys and chains in them.
#[tokio::test]
async fn an_order_is_told_whole_but_for_its_key_and_chain() {
    let url = migrated().await;
    let orders = rows(&url).await;
    let listener = Listener::of_an_api(&url, &[]).await;
    for id in &orders {
        let said = ctl(&url, &["orders", "show", id, "--json"]).await.ended(0).json();
        let text = ctl(&url, &["orders", "show", id]).await.ended(0).out;
        let mut answered = listener.answer(Method::GET, &format!("/orders/{id}")).await.expect(200);
        assert!(!format!("{said}{text}{answered}").contains("BEGIN"), "{text}");
        // Counted from now.
        answered["job"]["overdue_secs"] = said["job"]["overdue_secs"].clone();
        let mut said = said;
        said["job"]["overdue_secs"] = answered["job"]["overdue_secs"].clone();
        assert_eq!(said, answered);
        assert!(text.contains(id) && text.contains("Timeline"), "{text}");
    }
    let failed = ctl(&url, &["orders", "show", &orders[0]]).await.out;
    for told in ["what the CA says", "what the customer reads", "ca_refused", "urn:ietf:params:acme:error:malformed"] {
        assert!(failed.contains(told), "{told} is not in\n{failed}");
    }
    let issued = ctl(&url, &["orders", "show", &orders[4], "--json"]).await.json();
    assert_eq!((&issued["certificate"]["serial_number"], &issued["job"]), (&json!("1a2b"), &Value::Null));
    let leased = ctl(&url, &["orders", "show", &orders[5]]).await.out;
    assert!(leased.contains("with worker-7"), "{leased}");
}
