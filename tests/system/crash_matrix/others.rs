//! What is not on the way of an order whose customer publishes: the commits of an API replica that is killed, values that a worker
//! publishes, and the end of authorizations at the CA.

use countersign_tests::acme_front::{Kind, Moment};
use countersign_tests::stack::Stack;
use serde_json::json;

use super::gate::Gate;
use crate::facts::{SOON, certificates_stored, events, is_cleaned_up, published};
use crate::failures::fronted;
use crate::renewals::{Shop, client};

/// Kills the first replica in the transaction that stores `event`; whoever called it gets no answer.
async fn kill_in_commit(stack: &Stack, gate: &Gate, event: &str, moment: Moment, call: impl Future<Output = bool>) {
    gate.close(event, moment).await;
    let killed = async {
        let waits = async || (gate.waiting().await == 1).then_some(());
        stack.wait_until(&format!("the API stores {event}"), SOON, waits).await;
        stack.kill("api-1");
        gate.open().await;
    };
    let (answered, ()) = tokio::join!(call, killed);
    assert!(!answered, "an answer of a replica that was killed");
    // What the transaction of nobody did is done, or undone, when its locks are gone.
    let query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711";
    let gone = async || {
        let locks: i64 = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
        (locks == 0).then_some(())
    };
    stack.wait_until("the transaction has ended", SOON, gone).await;
    gate.remove().await;
    stack.restart("api-1").await;
}

#[tokio::test]
async fn an_api_killed_while_it_stores_an_order_or_its_end_has_done_that_or_nothing() {
    let stack = Stack::builder().apis(2).setting("POLL_TIMEOUT", "5m").start().await;
    let gate = Gate::new(&stack.database_url()).await;
    let other = stack.api_replica(2).clone();
    for (moment, name) in [(Moment::Before, "without.example.com"), (Moment::After, "with.example.com")] {
        let domain = stack.verified_domain(name).await;
        let issue = async { stack.api().try_issue(&domain.id).await.is_ok() };
        kill_in_commit(&stack, &gate, "accepted", moment, issue).await;
        if moment == Moment::Before {
            assert_eq!(other.fetch(&domain.id).await.status, "verified");
            other.issue(&domain.id).await;
        }
        let pending = stack.becomes(&domain.id, "certificate_pending", SOON).await;
        let [owner, value] =
            ["challenge_domain", "expected_txt_value"].map(|field| pending.more[field].as_str().unwrap());
        stack.dns().set_txt(owner, value).await.unwrap();
        stack.becomes_active(&domain.id).await;
        assert_eq!(stack.ca().certificates_issued_for(name).await.unwrap(), 1, "{name}");
        assert_eq!(certificates_stored(&stack, &domain.id).await, 1, "{name}");
    }

    for (moment, name, expected) in
        [(Moment::Before, "kept.example.com", 200), (Moment::After, "gone.example.com", 404)]
    {
        let (domain, order) = stack.pending_domain(name).await;
        let delete = async { stack.api().try_delete(&domain.id).await.is_ok() };
        kill_in_commit(&stack, &gate, "cancelled", moment, delete).await;
        let answer = other.try_fetch(&domain.id).await.unwrap();
        assert_eq!(answer.status, expected, "{}", answer.body);
        if moment == Moment::Before {
            other.delete(&domain.id).await;
        }
        is_cleaned_up(&stack, &domain.id).await;
        let story = events(&stack, &order.order_id).await;
        assert_eq!(story.iter().filter(|event| *event == "cancelled").count(), 1, "{story:?}");
    }
}

/// The values are written again by whoever takes over, and removed in the end.
#[tokio::test]
#[ignore = "the full matrix: make test-all"]
async fn killed_while_it_stores_that_the_values_are_published() {
    let stack = fronted().workers(2).setting("LEASE_FOR", "2s").start().await;
    let gate = Gate::new(&stack.database_url()).await;
    let api = client(&stack).await;
    for moment in [Moment::Before, Moment::After] {
        let name = format!("{moment:?}.example.com").to_lowercase();
        let shop = Shop::new(&stack, &api, &name).await;
        gate.close("presented", moment).await;
        let killed = async {
            let waits = async || (gate.waiting().await == 1).then_some(());
            stack.wait_until("a worker stores presented", SOON, waits).await;
            let leased = "SELECT leased_by FROM jobs WHERE kind = 'poll-challenge' AND leased_by IS NOT NULL";
            let worker = sqlx::query_scalar(leased).fetch_one(stack.pool()).await;
            // In the middle of COMMIT the row is locked, and shows what it was.
            let worker: String = worker.unwrap();
            stack.kill(&worker);
            gate.open().await;
            stack.restart(&worker).await;
        };
        let input = json!({});
        let (certificate, ()) = tokio::join!(shop.issue(&input), killed);
        gate.remove().await;
        let story = "SELECT array_agg(e.event ORDER BY e.id) FROM order_events e JOIN orders o ON o.id = e.order_id
                     WHERE o.certificate_id = $1 AND e.event IN ('placed', 'presented', 'seen', 'cleaned_up')";
        let cleaned_up = async || {
            let story: Vec<String> = sqlx::query_scalar(story).bind(certificate).fetch_one(stack.pool()).await.unwrap();
            (story == ["placed", "presented", "seen", "cleaned_up"]).then_some(())
        };
        stack.wait_until("each happened once", SOON, cleaned_up).await;
        assert_eq!(stack.ca().certificates_issued_for(&name).await.unwrap(), 1, "{moment:?}");
        assert!(
            published(&stack, &format!("_acme-challenge.{name}.")).await.is_empty(),
            "{moment:?}: records stay behind"
        );
    }
}

#[tokio::test]
#[ignore = "the full matrix: make test-all"]
async fn killed_while_it_ends_an_authorization_at_the_ca() {
    let stack = fronted().workers(2).setting("LEASE_FOR", "2s").setting("POLL_TIMEOUT", "5m").start().await;
    for moment in [Moment::Before, Moment::After] {
        let (domain, _) = stack.pending_domain(&format!("{moment:?}.example.com").to_lowercase()).await;
        stack.front().hold_at(Kind::Deactivation, moment);
        stack.api().delete(&domain.id).await;
        let held = async |count: usize, what: &str| {
            let held = async || (stack.front().held(Kind::Deactivation, moment) == count).then_some(());
            stack.wait_until(what, SOON, held).await;
        };
        held(1, "an authorization is being deactivated").await;
        let leased = "SELECT leased_by FROM jobs WHERE kind = 'poll-challenge' AND leased_by IS NOT NULL";
        let worker: String = sqlx::query_scalar(leased).fetch_one(stack.pool()).await.unwrap();
        let reached = stack.front().reached_ca(Kind::Deactivation);
        stack.kill(&worker);
        held(0, "the front has seen the worker go").await;
        stack.front().release();
        is_cleaned_up(&stack, &domain.id).await;
        // The first one never reached the CA, or did all there was to do.
        let more = usize::from(moment == Moment::Before);
        assert_eq!(stack.front().reached_ca(Kind::Deactivation), reached + more, "{moment:?}");
        stack.restart(&worker).await;
    }
    assert_eq!(stack.front().reached_ca(Kind::Deactivation), 2);
}
