//! Trying again after a failure, and the end of a domain in whatever state it is: what stays, what is new, what is refused.

use countersign_shared::model::problem::ProblemCode;
use countersign_tests::acme_front::Kind;
use countersign_tests::api_client::{Domain, Order};
use countersign_tests::stack::Stack;

use crate::facts::{certificates_stored, events, is_cleaned_up, order_is};
use crate::failures::{
    a_retry_leads_to_a_certificate, arrives, fails, fronted, lose_key, lose_record_before_the_ca_looks, publish_alone,
    refusal,
};

/// The deadline is now, and nothing was seen.
async fn failed_domain(stack: &Stack, name: &str) -> (Domain, Order) {
    let (domain, order) = stack.pending_domain(name).await;
    let expire = "UPDATE orders SET deadline_at = now(), revision = revision + 1 WHERE public_id = $1";
    sqlx::query(expire).bind(&order.order_id).execute(stack.pool()).await.unwrap();
    fails(stack, &domain, ProblemCode::RecordNotSeen).await;
    (domain, order)
}

/// The text of the 400.
async fn refused(stack: &Stack, domain: &Domain) -> String {
    let answer = stack.api().try_retry(&domain.id).await.unwrap();
    assert_eq!(answer.status, 400, "{answer:?}");
    answer.error().unwrap().to_owned()
}

#[tokio::test]
async fn two_retries_at_once_make_one_order_that_waits_for_the_same_value_anew() {
    let stack = fronted().apis(2).start().await;
    let (domain, former) = failed_domain(&stack, "shop.example.com").await;

    let (one, other) = tokio::join!(stack.api().try_retry(&domain.id), stack.api_replica(2).try_retry(&domain.id));
    let mut answers = [one.unwrap(), other.unwrap()];
    answers.sort_by_key(|answer| answer.status);
    let [accepted, refused] = answers;
    assert_eq!((accepted.status, refused.status), (202, 400), "{accepted:?} {refused:?}");
    let order: Order = serde_json::from_value(accepted.body).unwrap();
    assert_ne!(order.order_id, former.order_id);
    assert_eq!((order.status.as_str(), &order.challenge_domain), ("certificate_pending", &former.challenge_domain));
    assert_eq!(order.expected_txt_value, former.expected_txt_value, "a value that nobody was told");
    assert!(order.instructions.contains(&order.expected_txt_value));

    let pending = stack.api().fetch(&domain.id).await;
    assert_eq!((&pending.more["order_id"], pending.more.get("failure")), (&order.order_id.as_str().into(), None));
    let window =
        "o.deadline_at = o.placed_at + interval '30 seconds' AND o.deadline_at > now() + interval '20 seconds'";
    assert!(order_is(&stack, &order.order_id, window).await, "no new window");
    publish_alone(&stack, &order).await;
    stack.becomes_active(&domain.id).await;
    assert_eq!((stack.front().reached_ca(Kind::NewOrder), stack.ca().orders_placed().unwrap()), (1, 1));
    assert_eq!(certificates_stored(&stack, &domain.id).await, 1);
}

#[tokio::test]
async fn a_retry_can_fail_again_and_a_dead_order_gets_a_new_value_each_time() {
    let stack = fronted().start().await;
    let (domain, first) = stack.pending_domain("shop.example.com").await;
    lose_record_before_the_ca_looks(&stack, &first).await;
    fails(&stack, &domain, ProblemCode::ChallengeRefused).await;
    let second = stack.api().retry(&domain.id).await;
    lose_record_before_the_ca_looks(&stack, &second).await;
    fails(&stack, &domain, ProblemCode::ChallengeRefused).await;
    assert_ne!(first.expected_txt_value, second.expected_txt_value);
    assert!(!a_retry_leads_to_a_certificate(&stack, &domain, &second).await);
    assert_eq!(stack.front().reached_ca(Kind::NewOrder), 3);
}

#[tokio::test]
async fn a_retry_that_is_not_placed_leaves_the_failure_and_can_be_repeated() {
    let stack = fronted().apis(2).setting_of("api-2", "PLACE_WAIT", "1s").start().await;
    let (domain, former) = failed_domain(&stack, "shop.example.com").await;
    let failure = stack.api().fetch(&domain.id).await.more["failure"].clone();
    stack.kill("worker-1");
    let told = stack.api_replica(2).try_retry(&domain.id).await.unwrap();
    assert!(told.status == 500 && told.error().unwrap().contains("no worker took it"), "{told:?}");
    let now = stack.api().fetch(&domain.id).await;
    assert_eq!((now.status.as_str(), &now.more["failure"]), ("failed", &failure));
    stack.restart("worker-1").await;
    is_cleaned_up(&stack, &domain.id).await;

    // Nor does one that the CA refuses.
    let refusals = [(Kind::Order, 403, "userActionRequired"), (Kind::Authorization, 403, "userActionRequired")];
    for (kind, status, problem) in refusals {
        stack.front().next(1, kind, refusal(status, problem));
        let told = stack.api().try_retry(&domain.id).await.unwrap();
        assert!(told.status == 500 && told.error().unwrap().contains("account"), "{told:?}");
        is_cleaned_up(&stack, &domain.id).await;
        let now = stack.api().fetch(&domain.id).await;
        assert_eq!((now.status.as_str(), &now.more["failure"]), ("failed", &failure));
    }
    assert!(a_retry_leads_to_a_certificate(&stack, &domain, &former).await, "another TXT value");
    assert_eq!(stack.front().reached_ca(Kind::NewOrder), 1);
}

#[tokio::test]
async fn a_retry_is_refused_with_the_reason() {
    let stack = fronted().setting("MAX_ATTEMPTS", "1").start().await;
    let pending = stack.api().register("pending.example.com").await;
    let verified = stack.verified_domain("verified.example.com").await;
    let active = stack.active_domain("active.example.com").await;
    let (waiting, waiting_order) = stack.pending_domain("waiting.example.com").await;
    for (domain, status) in
        [(&pending, "pending"), (&verified, "verified"), (&waiting, "certificate_pending"), (&active, "active")]
    {
        let reason = refused(&stack, domain).await;
        assert!(reason.ends_with(&format!("status is {status}")), "{reason}");
    }

    stack.front().next(1, Kind::Finalize, refusal(400, "rejectedIdentifier"));
    stack.publish_value(&waiting_order).await;
    fails(&stack, &waiting, ProblemCode::NameRefused).await;
    let reason = refused(&stack, &waiting).await;
    assert!(reason.contains("does not issue certificates for waiting.example.com"), "{reason}");

    let (broken, broken_order) = stack.pending_domain("broken.example.com").await;
    lose_key(&stack, &broken_order).await;
    fails(&stack, &broken, ProblemCode::Internal).await;
    let reason = refused(&stack, &broken).await;
    assert!(reason.contains("operator must act"), "{reason}");
    stack.api().delete(&broken.id).await;

    let (untidy, _) = failed_domain(&stack, "untidy.example.com").await;
    stack.finish().await;
    stack.kill("worker-1");
    let not_yet = "UPDATE orders SET cleaned_up_at = NULL, revision = revision + 1 WHERE state = 'failed'
                   AND domain_id = (SELECT id FROM domains WHERE public_id = $1)";
    sqlx::query(not_yet).bind(&untidy.id).execute(stack.pool()).await.unwrap();
    assert_eq!(stack.api().fetch(&untidy.id).await.more["failure"]["retryable"], false);
    let reason = refused(&stack, &untidy).await;
    assert!(reason.contains("cleaned up"), "{reason}");
    stack.api().try_retry(&"0".repeat(32)).await.unwrap().expect(404);
}

#[tokio::test]
async fn a_failed_domain_can_be_verified_and_issued_instead() {
    let stack = fronted().start().await;
    let (domain, former) = failed_domain(&stack, "shop.example.com").await;
    assert_eq!(stack.api().verify(&domain.id).await.status, "verified");
    let order = stack.api().issue(&domain.id).await;
    assert_ne!((&order.order_id, &order.expected_txt_value), (&former.order_id, &former.expected_txt_value));
    publish_alone(&stack, &order).await;
    stack.becomes_active(&domain.id).await;
    assert!(refused(&stack, &domain).await.ends_with("status is active"));
}

/// Every state that an order can be caught in, held by the front; then all are deleted, and the CA answers again.
#[tokio::test]
async fn a_domain_can_be_deleted_in_every_state() {
    let stack = fronted().setting("MAX_ATTEMPTS", "1").start().await;
    let front = stack.front();
    let mut doomed = vec![
        (stack.api().register("pending.example.com").await, None, "pending"),
        (stack.verified_domain("verified.example.com").await, None, "verified"),
        (stack.active_domain("active.example.com").await, None, "active"),
    ];
    let (failed, _) = failed_domain(&stack, "failed.example.com").await;
    doomed.push((failed, None, "failed"));
    let (parked, parked_order) = stack.pending_domain("parked.example.com").await;
    lose_key(&stack, &parked_order).await;
    fails(&stack, &parked, ProblemCode::Internal).await;
    doomed.push((parked, None, "failed"));
    let (presented, order) = stack.pending_domain("presented.example.com").await;
    doomed.push((presented, Some(order), "certificate_pending"));
    // The later a request comes in the life of an order, the earlier it is held, so that each stops another one.
    let mut held = Vec::new();
    for (label, kind, _) in HELD {
        held.push((stack.pending_domain(&format!("{label}.example.com")).await, kind));
    }
    for ((domain, order), kind) in held {
        let before = front.arrived(kind);
        front.hold(kind);
        stack.publish_value(&order).await;
        arrives(&stack, kind, before + 1).await;
        doomed.push((domain, Some(order), "certificate_pending"));
    }
    for ((_, order, _), (label, _, state)) in doomed.iter().rev().zip(HELD.iter().rev()) {
        assert!(order_is(&stack, &order.as_ref().unwrap().order_id, state).await, "{label} is in another state");
    }
    let new = stack.verified_domain("new.example.com").await;
    let before = front.arrived(Kind::NewOrder);
    front.hold(Kind::NewOrder);
    let deleted_meanwhile = async {
        arrives(&stack, Kind::NewOrder, before + 1).await;
        stack.api().delete(&new.id).await;
    };
    let (issuing, ()) = tokio::join!(stack.api().try_issue(&new.id), deleted_meanwhile);
    issuing.unwrap().expect(404);
    doomed.push((new, None, "deleted"));

    for (domain, _, status) in &doomed {
        if *status != "deleted" {
            assert_eq!(&stack.api().fetch(&domain.id).await.status, status, "{}", domain.domain_name);
            stack.api().delete(&domain.id).await;
        }
        stack.api().try_fetch(&domain.id).await.unwrap().expect(404);
        stack.api().try_delete(&domain.id).await.unwrap().expect(404);
        stack.api().register(&domain.domain_name).await;
    }
    assert_eq!(front.reached_ca(Kind::Finalize), 2, "the CSR of the held one did not wait");
    front.release();
    stack.finish().await;

    for (domain, order, _) in &doomed {
        let name = &domain.domain_name;
        let expected = i64::from(name == "active.example.com");
        assert_eq!(certificates_stored(&stack, &domain.id).await, expected, "certificates stored for {name}");
        if let Some(order) = order {
            let events = events(&stack, &order.order_id).await;
            assert!(events.ends_with(&["cancelled".to_owned(), "cleaned_up".to_owned()]), "{name}: {events:?}");
        }
    }
    for (what, query) in [
        ("open orders", "SELECT count(*) FROM orders WHERE ended_at IS NULL OR cleaned_up_at IS NULL"),
        ("jobs", "SELECT count(*) FROM jobs WHERE order_id IS NOT NULL"),
        ("findings", "SELECT count(*) FROM order_events WHERE detail ? 'finding'"),
    ] {
        let left: i64 = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
        assert_eq!(left, 0, "{what}");
    }
    // All but those of the domains without an order, and of the one that was never placed.
    assert_eq!(front.reached_ca(Kind::Deactivation), 4 + HELD.len());
}

/// What an order waits for when the request is held, and its state meanwhile.
const HELD: [(&str, Kind, &str); 4] = [
    ("finalizing", Kind::Certificate, "o.state = 'finalizing'"),
    ("prepared", Kind::Finalize, "o.state = 'prepared'"),
    ("responded", Kind::Order, "o.state = 'responded'"),
    ("confirmed", Kind::Challenge, "o.state = 'confirmed'"),
];
