//! Jobs that are stopped for a person: parked by an operator under a run, and the order that kills every worker that takes it.

use countersign_shared::model::problem::ProblemCode;
use countersign_tests::acme_front::Kind;
use serde_json::json;

use super::{ctl_on, new_order};
use crate::facts::{SOON, events, has_one_certificate_each, order_is};
use crate::failures::{arrives, fails, fronted};

#[tokio::test]
async fn a_job_parked_under_a_run_loses_that_run_and_comes_back_when_it_is_retried() {
    let stack = fronted().start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    stack.front().hold(Kind::Challenge);
    stack.publish_value(&order).await;
    arrives(&stack, Kind::Challenge, 1).await;
    let leased = ctl_on(&stack, &["jobs", "list", "--worker", "worker-1", "--state", "leased", "--json"]).await.json();
    let job = &leased["jobs"][0];
    assert_eq!((job["order_id"].as_str(), &job["order_state"]), (Some(order.order_id.as_str()), &json!("confirmed")));
    let id = job["id"].to_string();
    let story = events(&stack, &order.order_id).await;

    let parked = ctl_on(&stack, &["jobs", "park", &id, "--json"]).await.ended(0).results();
    assert_eq!(parked, [json!({"id": job["id"], "result": "parked"})]);
    stack.front().release();
    let refused = async || stack.log("worker-1").contains("lease lost").then_some(());
    stack.wait_until("the outcome of the run is refused", SOON, refused).await;
    let still = "o.state = 'confirmed' AND (SELECT j.parked_at IS NOT NULL AND j.leased_by IS NULL AND j.attempts = 0
                 FROM jobs j WHERE j.order_id = o.id)";
    assert!(order_is(&stack, &order.order_id, still).await, "the run left something behind");
    assert_eq!(events(&stack, &order.order_id).await, story);
    assert_eq!(stack.api().fetch(&domain.id).await.status, "certificate_pending");
    let shown = ctl_on(&stack, &["jobs", "show", &id]).await.ended(0).out;
    assert!(shown.contains("state         parked") && shown.contains("by an operator"), "{shown}");

    ctl_on(&stack, &["jobs", "retry", &id]).await.ended(0);
    stack.becomes_active(&domain.id).await;
    has_one_certificate_each(&stack, &[(domain, order)]).await;
    ctl_on(&stack, &["jobs", "show", &id]).await.ended(3);
}

#[tokio::test]
async fn an_order_that_kills_every_worker_is_parked_and_the_fleet_goes_on() {
    let stack = fronted().workers(2).setting("MAX_ATTEMPTS", "2").setting("LEASE_FOR", "3s").start().await;
    let (domain, order) = stack.pending_domain("poison.example.com").await;
    // A URL like no other order's, so that the CA says nothing to this one only.
    let elsewhere = stack.front().directory().replace("/dir", "/poison");
    for (update, value) in [
        (
            "UPDATE authorizations SET challenge_url = $1 WHERE order_id = (SELECT id FROM orders WHERE public_id = $2)",
            &elsewhere,
        ),
        (
            "UPDATE orders SET revision = revision + 1, updated_at = $1::text::timestamptz WHERE public_id = $2",
            &"now".to_owned(),
        ),
    ] {
        sqlx::query(update).bind(value).bind(&order.order_id).execute(stack.pool()).await.unwrap();
    }
    stack.front().hold(Kind::Other);
    stack.publish_value(&order).await;

    let holder = "SELECT leased_by FROM jobs WHERE order_id = (SELECT id FROM orders WHERE public_id = $1)";
    let (mut healthy, mut deaths, mut runs) = (Vec::new(), 0, 0);
    loop {
        let run_or_end = async || {
            if stack.front().arrived(Kind::Other) > runs {
                return Some(true);
            }
            order_is(&stack, &order.order_id, "o.state = 'failed'").await.then_some(false)
        };
        if !stack.wait_until("a worker has it, or nobody takes it any more", SOON, run_or_end).await {
            break;
        }
        let holder = sqlx::query_scalar(holder).bind(&order.order_id).fetch_one(stack.pool()).await;
        let holder: Option<String> = holder.unwrap();
        let holder = holder.expect("the CA was asked without a lease");
        stack.kill(&holder);
        runs = stack.front().arrived(Kind::Other);
        deaths += 1;
        let (other, its_order) = stack.pending_domain(&format!("healthy-{deaths}.example.com")).await;
        stack.publish_value(&its_order).await;
        stack.becomes_active(&other.id).await;
        healthy.push((other, its_order));
        stack.restart(&holder).await;
    }
    assert_eq!(deaths, 2, "as many as MAX_ATTEMPTS says");
    let (detail, _) = fails(&stack, &domain, ProblemCode::Internal).await;
    assert!(detail.contains("operator"), "{detail}");
    let (other, its_order) = stack.pending_domain("afterwards.example.com").await;
    stack.publish_value(&its_order).await;
    stack.becomes_active(&other.id).await;
    healthy.push((other, its_order));

    let parked = ctl_on(&stack, &["jobs", "list", "--state", "parked", "--json"]).await.ended(0).json();
    let parked = parked["jobs"].as_array().unwrap();
    assert_eq!((parked.len(), parked[0]["order_id"].as_str()), (1, Some(order.order_id.as_str())), "{parked:?}");
    assert_eq!((&parked[0]["attempts"], &parked[0]["last_result"]["parked"]), (&json!(2), &json!("attempts used up")));
    let listed = ctl_on(&stack, &["orders", "list", "--parked"]).await.ended(0).out;
    assert!(listed.lines().count() == 2 && listed.contains(&order.order_id) && listed.contains("internal"), "{listed}");

    new_order(&stack, &order.order_id).await;
    stack.becomes_active(&domain.id).await;
    healthy.push((domain, order));
    has_one_certificate_each(&stack, &healthy).await;
}
