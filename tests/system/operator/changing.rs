//! `countersignctl` on rows that no worker touches: exit codes, reasons, dry runs, filters, pages, and what is the matter with a database.

use std::process::Stdio;

use countersign_tests::stack::ports;
use serde_json::json;

use super::{command, ctl, domain, everything, job, order, sql};
use crate::databases::{connect, empty, migrated};

const UNKNOWN: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn wrong_usage_is_2_before_the_database_is_asked() {
    let away = format!("postgres://nobody@127.0.0.1:{}/nothing", ports::free().unwrap());
    for (args, named) in [
        (&["orders", "retry", UNKNOWN, "--state", "failed"][..], "not both"),
        (&["orders", "cancel", UNKNOWN, "--newest"], "not both"),
        (&["jobs", "park", "1", "--kind", "sweep"], "not both"),
        (&["jobs", "retry", "1", "--failing"], "not both"),
        (&["orders", "retry"], "give a filter"),
        (&["orders", "cancel", "--limit", "5"], "give a filter"),
        (&["jobs", "retry", "--dry-run"], "give a filter"),
        (&["jobs", "park", "--after", "7"], "give a filter"),
        (&["orders", "list", "--state", "stuck"], "accepted, placed, presented"),
        (&["orders", "list", "--code", "oops"], "record_not_seen"),
        (&["orders", "list", "--since", "yesterday"], "--since"),
        (&["orders", "list", "--limit", "0"], "1..=1000"),
        (&["orders", "list", "--limit", "1001"], "1..=1000"),
        (&["jobs", "list", "--state", "failed"], "due, waiting, leased, lost, parked"),
        (&["jobs", "list", "--lane", "4"], "0..=3"),
        (&["jobs", "show", "x"], "x"),
        (&["orders", "show"], "<ID>"),
        (&["orders", "explode", UNKNOWN], "explode"),
    ] {
        let said = ctl(&away, args).await.ended(2);
        assert!(said.out.is_empty() && said.err.contains(named), "{args:?}: {said:?}");
    }
}

#[tokio::test]
async fn what_is_the_matter_with_the_database_is_one_line_and_1() {
    let away = format!("postgres://nobody:secret@127.0.0.1:{}/nothing", ports::free().unwrap());
    let verbs: [&[&str]; 4] =
        [&["orders", "list"], &["orders", "retry", UNKNOWN], &["jobs", "stats", "--json"], &["jobs", "park", "1"]];
    for (url, named) in [(away, "the database cannot be reached"), (empty().await, "countersignctl migrate")] {
        for args in verbs {
            let said = ctl(&url, args).await.ended(1);
            assert!(said.err.starts_with("countersignctl: ") && said.err.contains(named), "{said:?}");
            assert!(said.out.is_empty() && said.err.lines().count() == 1 && !said.err.contains("secret"), "{said:?}");
        }
    }
}

#[tokio::test]
async fn what_does_not_exist_is_3_and_what_cannot_be_is_4_with_the_reason() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    // What the schema refuses to move to may be there all the same, from another time.
    let shop =
        async |conn: &mut _, label: &str, status: &str| domain(conn, &format!("{label}.example.com"), status).await;
    let active = shop(&mut conn, "active", "active").await;
    let issued = order(&mut conn, active, "issued", None).await;
    let failed = shop(&mut conn, "failed", "failed").await;
    let older = order(&mut conn, failed, "failed", Some("ca_refused")).await;
    let newer = order(&mut conn, failed, "cancelled", Some("cancelled_by_operator")).await;
    let deleted = shop(&mut conn, "deleted", "failed").await;
    let orphan = order(&mut conn, deleted, "cancelled", Some("domain_deleted")).await;
    sql(&mut conn, &format!("UPDATE domains SET deleted_at = now() WHERE id = {deleted}")).await;
    let pending = shop(&mut conn, "pending", "pending").await;
    let unproved = order(&mut conn, pending, "failed", Some("ca_refused")).await;
    let parked_order = shop(&mut conn, "parked", "certificate_pending").await;
    let parked_order = order(&mut conn, parked_order, "presented", None).await;
    let parked = job(&mut conn, &parked_order, "parked_at", "now()").await.to_string();
    let before = everything(&url).await;

    for (args, code, reason) in [
        (["orders", "retry", &issued], 4, "it is issued"),
        (["orders", "retry", &older], 4, &*format!("order {newer} of the same domain is newer")),
        (["orders", "retry", &orphan], 4, "its domain is deleted"),
        (["orders", "retry", &unproved], 4, "its domain is pending"),
        (["orders", "cancel", &issued], 4, "it is issued"),
        (["orders", "cancel", &older], 4, "it is failed"),
        (["orders", "cancel", &newer], 4, "it is cancelled"),
        (["jobs", "park", &parked], 4, "it is parked already"),
        (["orders", "retry", UNKNOWN], 3, ""),
        (["orders", "cancel", "not-an-id"], 3, ""),
        (["jobs", "retry", "4711"], 3, ""),
        (["jobs", "park", "4711"], 3, ""),
    ] {
        let said = ctl(&url, &[&args[..], &["--json"]].concat()).await.ended(code).results();
        let expected = match code {
            3 => json!("not_found"),
            _ => json!("refused"),
        };
        assert_eq!((said.len(), &said[0]["result"]), (1, &expected), "{args:?}: {said:?}");
        assert_eq!(said[0]["reason"].as_str().unwrap_or_default(), reason, "{args:?}");
        let said = ctl(&url, &args).await.ended(code).out;
        assert!(said.contains(if code == 3 { "not found" } else { "refused: " }) && said.contains(reason), "{said}");
    }
    for args in [["orders", "show", UNKNOWN], ["orders", "show", "not-an-id"], ["jobs", "show", "4711"]] {
        let said = ctl(&url, &args).await.ended(3);
        assert!(said.out.is_empty() && said.err.contains(args[2]), "{said:?}");
    }
    assert_eq!(everything(&url).await, before, "what was refused changed something");
}

#[tokio::test]
async fn each_of_several_is_tried_and_the_worst_decides_the_exit_code() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    let (failed, active) = (
        domain(&mut conn, "failed.example.com", "failed").await,
        domain(&mut conn, "active.example.com", "active").await,
    );
    let first = order(&mut conn, failed, "failed", Some("ca_refused")).await;
    let issued = order(&mut conn, active, "issued", None).await;
    let said = ctl(&url, &["orders", "retry", UNKNOWN, &issued, &first, "--json"]).await.ended(3).results();
    let what: Vec<&str> = said.iter().map(|line| line["result"].as_str().unwrap()).collect();
    assert_eq!(what, ["not_found", "refused", "new_order"]);
    let new = said[2]["new_order_id"].as_str().unwrap();
    let said = ctl(&url, &["orders", "cancel", &issued, new, "--json"]).await.ended(4).results();
    assert_eq!((&said[0]["result"], &said[1]["result"]), (&json!("refused"), &json!("cancelled")));
    let shown = ctl(&url, &["orders", "show", new, "--json"]).await.json();
    let timeline: Vec<(&str, &str)> = shown["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["event"].as_str().unwrap(), e["actor"].as_str().unwrap()))
        .collect();
    assert_eq!(timeline, [("accepted", "operator"), ("cancelled", "operator")]);
    assert_eq!((&shown["domain_status"], &shown["retry_of"]), (&json!("failed"), &json!(first)), "it was never placed");
    assert_eq!(ctl(&url, &["orders", "show", &first, "--json"]).await.json()["retried_by"], new);
}

#[tokio::test]
async fn an_order_that_cannot_be_read_does_not_hide_what_was_done_before_it() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    let mut ids = Vec::new();
    for label in ["good", "broken", "later"] {
        let domain = domain(&mut conn, &format!("{label}.example.com"), "failed").await;
        ids.push(order(&mut conn, domain, "failed", Some("ca_refused")).await);
    }
    sql(&mut conn, &format!("UPDATE orders SET problem = '\"?\"' WHERE public_id = '{}'", ids[1])).await;
    let said = ctl(&url, &["orders", "retry", &ids[0], &ids[1], &ids[2]]).await.ended(1);
    assert!(said.out.contains(&format!("{}  order ", ids[0])) && !said.out.contains(&ids[2]), "{said:?}");
    assert!(said.err.contains(&ids[1]) && said.err.contains("nothing was changed"), "{said:?}");
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_changed_and_changes_nothing() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    let failed = domain(&mut conn, "failed.example.com", "failed").await;
    let failed = order(&mut conn, failed, "failed", Some("ca_refused")).await;
    let open = domain(&mut conn, "open.example.com", "certificate_pending").await;
    let open = order(&mut conn, open, "presented", None).await;
    let job = job(&mut conn, &open, "due_at", "now() + interval '1 hour'").await;
    let before = everything(&url).await;
    let by_filter: [(&[&str], serde_json::Value, &str); 6] = [
        (&["orders", "retry", "--code", "ca_refused"], json!(failed), "new_order"),
        (&["orders", "cancel", "--domain", "open.example.com"], json!(open), "cancelled"),
        (&["jobs", "retry", "--domain", "open.example.com"], json!(job), "due"),
        (&["jobs", "park", "--domain", "open.example.com"], json!(job), "parked"),
        (&["orders", "retry", &open], json!(open), "due"),
        (&["jobs", "park", &job.to_string()], json!(job), "parked"),
    ];
    for (args, id, _) in &by_filter {
        let said = ctl(&url, &[args, &["--dry-run", "--json"][..]].concat()).await.ended(0).json();
        assert_eq!(said, json!({"dry_run": true, "results": [{"id": id}], "next": null}), "{args:?}");
        let said = ctl(&url, &[args, &["--dry-run"][..]].concat()).await.ended(0).out;
        assert!(said.contains("nothing was changed"), "{said}");
    }
    assert_eq!(everything(&url).await, before);
    for (args, id, result) in [&by_filter[0], &by_filter[2], &by_filter[3], &by_filter[1]] {
        let said = ctl(&url, &[args, &["--json"][..]].concat()).await.ended(0).results();
        assert_eq!((said.len(), &said[0]["id"], said[0]["result"].as_str()), (1, id, Some(*result)), "{args:?}");
    }
}

/// `--newest` and the states that can be changed are understood: what would be refused is not selected.
#[tokio::test]
async fn bulk_by_filter_selects_what_can_be_changed_and_walks_on_where_it_is_told() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    for number in 1..=5 {
        let domain = domain(&mut conn, &format!("shop-{number}.example.com"), "failed").await;
        order(&mut conn, domain, "failed", Some("ca_account")).await;
        order(&mut conn, domain, "failed", Some("ca_account")).await;
    }
    let mut retried = 0;
    let mut before: Option<String> = None;
    for page in [2, 2, 1] {
        let mut args = vec!["orders", "retry", "--code", "ca_account", "--limit", "2", "--json"];
        args.extend(before.iter().flat_map(|before| ["--before", before]));
        let said = ctl(&url, &args).await.ended(0).json();
        let results = said["results"].as_array().unwrap();
        assert!(results.len() == page && results.iter().all(|line| line["result"] == "new_order"), "{said}");
        retried += results.len();
        before = said["next"]["value"].as_str().map(ToOwned::to_owned);
        assert_eq!((page == 2).then(|| json!("before")), said["next"].get("flag").cloned());
    }
    assert_eq!(retried, 5);
    let again = ctl(&url, &["orders", "retry", "--code", "ca_account"]).await.ended(0).out;
    assert!(again.starts_with("0 in all"), "{again}");

    let mut after = 0;
    for page in [3, 2] {
        let after_this = after.to_string();
        let args = ["jobs", "park", "--kind", "poll-challenge", "--limit", "3", "--after", &after_this, "--json"];
        let said = ctl(&url, &args).await.ended(0).json();
        assert_eq!(said["results"].as_array().unwrap().len(), page, "{said}");
        after = said["next"]["value"].as_i64().unwrap_or_default();
    }
    let rest = ctl(&url, &["jobs", "park", "--kind", "poll-challenge", "--limit", "4"]).await.ended(4).out;
    assert!(rest.contains("4 in all; there are more: repeat this with --after "), "{rest}");

    let said = ctl(&url, &["orders", "cancel", "--domain", "shop-1.example.com", "--json"]).await.ended(0).results();
    assert_eq!((said.len(), &said[0]["result"]), (1, &json!("cancelled")), "the ended ones were not selected");
    let parked = ctl(&url, &["jobs", "list", "--state", "parked", "--json"]).await.json();
    assert_eq!(parked["jobs"].as_array().unwrap().len(), 4, "a cancelled order's job is un-parked for its clean-up");
}

#[tokio::test]
async fn every_order_whose_job_is_parked_is_retried_by_that_filter_alone() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    let mut expected = Vec::new();
    for (name, status, state, result) in [
        ("open", "certificate_pending", "presented", "due"),
        ("failed", "failed", "failed", "new_order"),
        ("issued", "active", "issued", "clean_up"),
    ] {
        let domain = domain(&mut conn, &format!("{name}.example.com"), status).await;
        let order = order(&mut conn, domain, state, (state == "failed").then_some("internal")).await;
        sql(&mut conn, &format!("UPDATE orders SET cleaned_up_at = NULL WHERE public_id = '{order}'")).await;
        job(&mut conn, &order, "parked_at", "now()").await;
        expected.push((order, result));
    }
    let said = ctl(&url, &["orders", "retry", "--parked", "--json"]).await.ended(0).results();
    for (order, result) in &expected {
        assert!(said.iter().any(|line| line["id"] == **order && line["result"] == *result), "{result}: {said:?}");
    }
    assert_eq!(said.len(), expected.len());
    let parked = ctl(&url, &["jobs", "list", "--state", "parked", "--json"]).await.json();
    assert_eq!(parked["jobs"], json!([]));
}

#[tokio::test]
async fn a_reader_that_has_heard_enough_ends_the_tool_quietly() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    sql(&mut conn, "DROP INDEX jobs_scheduled_once").await;
    sql(&mut conn, "INSERT INTO jobs (kind, lane) SELECT 'sweep', 2 FROM generate_series(1, 1000)").await;
    let mut listing = command(&url, &["jobs", "list", "--limit", "1000"]);
    listing.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::task::spawn_blocking(move || {
        let mut listing = listing.spawn().unwrap();
        drop(listing.stdout.take());
        listing.wait_with_output().unwrap()
    });
    let ended = ended.await.unwrap();
    assert_eq!((ended.status.code(), String::from_utf8(ended.stderr).unwrap().as_str()), (Some(1), ""));
}
