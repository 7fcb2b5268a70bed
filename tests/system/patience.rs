//! How long the faults of a CA are borne: no order stays open for ever, and those who were held back do not come back in step.

use countersign_shared::model::problem::ProblemCode;
use countersign_tests::acme_front::{Fault, Kind, RetryAfter};
use countersign_tests::api_client::Order;
use countersign_tests::stack::Stack;

use crate::facts::{SOON, all_become_active, has_one_certificate_each, names, order_is, pending_domains};
use crate::failures::{CA_SAYS, a_retry_leads_to_a_certificate, arrives, fails, fronted, refusal};

/// As if the order had last advanced so long ago.
async fn age(stack: &Stack, order: &Order, by: &str) {
    let query = "UPDATE orders SET updated_at = now() - $2::text::interval WHERE public_id = $1";
    sqlx::query(query).bind(&order.order_id).bind(by).execute(stack.pool()).await.unwrap();
}

/// Makes every job of an order due, again and again until `holds`.
async fn due_until(stack: &Stack, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let due = "UPDATE jobs SET due_at = now() WHERE order_id IS NOT NULL AND leased_by IS NULL";
    let held = async || {
        sqlx::query(due).execute(stack.pool()).await.unwrap();
        holds().await.then_some(())
    };
    stack.wait_until(what, SOON, held).await;
}

/// What the CA does, whether it is borne for a day or for an hour, and how the order ends after that.
struct Case {
    label: &'static str,
    faults: Vec<(Kind, Fault)>,
    borne: &'static str,
    too_long: &'static str,
    code: ProblemCode,
    told: &'static str,
}

impl Case {
    fn of_a_day(label: &'static str, fault: Fault, code: ProblemCode, told: &'static str) -> Self {
        Self { label, faults: vec![(Kind::Challenge, fault)], borne: "23 hours", too_long: "25 hours", code, told }
    }

    fn of_an_hour(label: &'static str, faults: Vec<(Kind, Fault)>) -> Self {
        let (code, told) = (ProblemCode::CaRefused, "it did not finish within an hour");
        Self { label, faults, borne: "59 minutes", too_long: "61 minutes", code, told }
    }
}

async fn an_order_ends(case: Case) {
    let stack = fronted().start().await;
    let (domain, order) = stack.pending_domain(&format!("{}.example.com", case.label)).await;
    let kind = case.faults[0].0;
    for (kind, fault) in case.faults {
        stack.front().always(kind, fault);
    }
    stack.publish_value(&order).await;
    arrives(&stack, kind, 1).await;

    age(&stack, &order, case.borne).await;
    // The second of them is of a run that began after that.
    let asked = stack.front().arrived(kind) + 2;
    due_until(&stack, "it is tried again", async || stack.front().arrived(kind) >= asked).await;
    assert_eq!(stack.api().fetch(&domain.id).await.status, "certificate_pending", "{} is too long", case.borne);

    age(&stack, &order, case.too_long).await;
    due_until(&stack, "it has failed", async || order_is(&stack, &order.order_id, "o.state = 'failed'").await).await;
    let (detail, _) = fails(&stack, &domain, case.code).await;
    assert!(detail.contains(case.told), "{detail}");
    stack.front().heal();
    if case.code.retryable() {
        a_retry_leads_to_a_certificate(&stack, &domain, &order).await;
    }
}

#[tokio::test]
async fn a_ca_that_cannot_be_reached_is_borne_for_a_day() {
    let told = "it could not be reached for a day";
    an_order_ends(Case::of_a_day("away", Fault::html(503), ProblemCode::CaRefused, told)).await;
}

#[tokio::test]
async fn an_account_that_the_ca_does_not_accept_is_borne_for_a_day() {
    let fault = refusal(403, "externalAccountRequired");
    an_order_ends(Case::of_a_day("account", fault, ProblemCode::CaAccount, "account")).await;
}

#[tokio::test]
async fn a_limit_of_the_account_is_borne_for_a_day() {
    let fault = Fault::rate_limited(RetryAfter::Seconds(1));
    an_order_ends(Case::of_a_day("limited", fault, ProblemCode::RateLimited, "limits how many certificates")).await;
}

#[tokio::test]
async fn a_validation_that_does_not_end_is_borne_for_an_hour() {
    let never_ready = Fault::change_json(|order| {
        if order["status"] == "ready" {
            order["status"] = "pending".into();
        }
    });
    an_order_ends(Case::of_an_hour("validating", vec![(Kind::Order, never_ready)])).await;
}

#[tokio::test]
async fn an_issuance_that_does_not_end_is_borne_for_an_hour() {
    let stuck = Fault::stuck_in_processing();
    an_order_ends(Case::of_an_hour("issuing", vec![(Kind::Order, stuck.clone()), (Kind::Finalize, stuck)])).await;
}

#[tokio::test]
async fn those_who_were_held_back_do_not_come_back_in_the_same_instant() {
    const ORDERS: usize = 20;
    let stack = fronted().workers(2).start().await;
    let domains = pending_domains(&stack, &names(ORDERS)).await;
    let hold = "UPDATE acme_accounts SET held_until = now() + interval '100 seconds', held_because = $1";
    sqlx::query(hold).bind(CA_SAYS).execute(stack.pool()).await.unwrap();
    for (_, order) in &domains {
        stack.publish_value(order).await;
    }
    let come = "SELECT extract(epoch FROM j.due_at - a.held_until)::float8
                FROM jobs j JOIN orders o ON o.id = j.order_id CROSS JOIN acme_accounts a
                WHERE o.state = 'confirmed' AND j.leased_by IS NULL ORDER BY 1";
    let all_wait = async || {
        let come: Vec<f64> = sqlx::query_scalar(come).fetch_all(stack.pool()).await.unwrap();
        (come.len() == ORDERS).then_some(come)
    };
    let come = stack.wait_until("all are held back", SOON, all_wait).await;
    // A tenth of the hold at most, and never before its end. That 20 random moments of 10 s lie within 2 s is out of the question.
    let (first, last) = (come[0], come[ORDERS - 1]);
    assert!(first >= 0.0 && last <= 10.0 && last - first > 2.0, "they come {come:?} s after the end");

    sqlx::query("UPDATE acme_accounts SET held_until = now()").execute(stack.pool()).await.unwrap();
    due_until(&stack, "all have gone on", async || {
        let left = "SELECT count(*) FROM orders WHERE state = 'confirmed'";
        sqlx::query_scalar::<_, i64>(left).fetch_one(stack.pool()).await.unwrap() == 0
    })
    .await;
    all_become_active(&stack, &domains).await;
    has_one_certificate_each(&stack, &domains).await;
}
