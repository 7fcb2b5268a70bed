//! A dry run tells what would be refused, as the same verb without it does.

use serde_json::json;

use super::{ctl, domain, everything, job, order};
use crate::databases::{connect, migrated};

#[tokio::test]
async fn a_dry_run_refuses_what_the_verb_refuses_and_changes_nothing() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    let active = domain(&mut conn, "active.example.com", "active").await;
    let issued = order(&mut conn, active, "issued", None).await;
    let failed = domain(&mut conn, "failed.example.com", "failed").await;
    let older = order(&mut conn, failed, "failed", Some("ca_refused")).await;
    let newer = order(&mut conn, failed, "failed", Some("ca_refused")).await;
    let open = domain(&mut conn, "open.example.com", "certificate_pending").await;
    let open = order(&mut conn, open, "presented", None).await;
    let parked = job(&mut conn, &open, "parked_at", "now()").await;
    let (id, parked_id) = ("0123456789abcdef0123456789abcdef", parked.to_string());
    let before = everything(&url).await;

    let not_found = |id: &str| json!({"id": id, "result": "not_found"});
    let refused = |id: &str, reason: &str| json!({"id": id, "result": "refused", "reason": reason});
    let newer_is = format!("order {newer} of the same domain is newer");
    let cases: [(&[&str], i32, serde_json::Value); 8] = [
        (&["orders", "retry", id], 3, json!([not_found(id)])),
        (&["orders", "cancel", "no id"], 3, json!([not_found("no id")])),
        (&["orders", "cancel", &issued], 4, json!([refused(&issued, "it is issued")])),
        (&["orders", "retry", &issued], 4, json!([refused(&issued, "it is issued")])),
        (&["orders", "retry", &older], 4, json!([refused(&older, &newer_is)])),
        (&["orders", "cancel", &open, id], 3, json!([{"id": open}, not_found(id)])),
        (&["jobs", "retry", "999999"], 3, json!([{"id": 999_999, "result": "not_found"}])),
        (
            &["jobs", "park", &parked_id],
            4,
            json!([{"id": parked, "result": "refused", "reason": "it is parked already"}]),
        ),
    ];
    for (args, code, results) in cases {
        let said = ctl(&url, &[args, &["--dry-run", "--json"][..]].concat()).await.ended(code).json();
        assert_eq!(said, json!({"dry_run": true, "results": results, "next": null}), "{args:?}");
        let said = ctl(&url, &[args, &["--dry-run"][..]].concat()).await.ended(code).out;
        assert!(said.contains("nothing was changed"), "{said}");
    }
    assert_eq!(everything(&url).await, before);
}
