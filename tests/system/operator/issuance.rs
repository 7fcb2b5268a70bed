//! `orders retry`, `cancel` and `show` while programs run: what the workers, the CA and the customers make of it.

use countersign_shared::model::problem::ProblemCode;
use countersign_tests::acme_front::{Fault, Kind, Reply};
use countersign_tests::api_client::{ApiClient, Domain, Order};
use countersign_tests::stack::Stack;
use serde_json::{Value, json};

use super::{ctl_on, new_order};
use crate::facts::{SOON, certificates_stored, events, is_cleaned_up, order_is, wait_until_order};
use crate::failures::{CA_SAYS, arrives, fails, fronted, lose_key, publish_alone, refusal};

const IS_PARKED: &str = "EXISTS (SELECT FROM jobs j WHERE j.order_id = o.id AND j.parked_at IS NOT NULL)";
const IS_TIDY: &str = "o.cleaned_up_at IS NOT NULL AND NOT EXISTS (SELECT FROM jobs j WHERE j.order_id = o.id)";

async fn orders_of(stack: &Stack, domain: &Domain) -> i64 {
    let query = "SELECT count(*) FROM orders WHERE domain_id = (SELECT id FROM domains WHERE public_id = $1)";
    sqlx::query_scalar(query).bind(&domain.id).fetch_one(stack.pool()).await.unwrap()
}

/// The deadline is now, and nothing was seen.
async fn lose_patience(stack: &Stack, order: &Order) {
    let expire = "UPDATE orders SET deadline_at = now(), revision = revision + 1 WHERE public_id = $1";
    sqlx::query(expire).bind(&order.order_id).execute(stack.pool()).await.unwrap();
}

async fn cancel(stack: &Stack, domain: &Domain) {
    let args = ["orders", "cancel", "--domain", &domain.domain_name, "--json"];
    let cancelled = ctl_on(stack, &args).await.ended(0).results();
    assert_eq!((cancelled.len(), &cancelled[0]["result"]), (1, &json!("cancelled")));
}

#[tokio::test]
async fn an_order_parked_after_its_attempts_is_unparked_cleaned_up_and_replaced() {
    let stack = fronted().setting("MAX_ATTEMPTS", "2").start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    lose_key(&stack, &order).await;
    fails(&stack, &domain, ProblemCode::Internal).await;
    wait_until_order(&stack, &order.order_id, IS_PARKED).await;
    stack.publish_value(&order).await;
    assert_eq!(stack.api().try_retry(&domain.id).await.unwrap().status, 400, "a customer cannot help");

    let new = new_order(&stack, &order.order_id).await;
    stack.becomes_active(&domain.id).await;
    wait_until_order(&stack, &order.order_id, IS_TIDY).await;
    assert_eq!(events(&stack, &order.order_id).await.last().unwrap(), "cleaned_up");
    let shown = ctl_on(&stack, &["orders", "show", &new, "--json"]).await.ended(0).json();
    assert_eq!((&shown["state"], &shown["retry_of"]), (&json!("issued"), &json!(order.order_id)));
    assert_eq!(shown["events"][0]["actor"], "operator");
    assert_eq!(certificates_stored(&stack, &domain.id).await, 1);
    assert_eq!(stack.front().reached_ca(Kind::NewOrder), 1, "the value that was published is of another order");
}

#[tokio::test]
async fn an_open_order_that_sleeps_looks_at_once() {
    let stack = Stack::builder().setting("POLL_INTERVAL", "1h").setting("POLL_TIMEOUT", "5h").start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    let sleeps = "EXISTS (SELECT FROM jobs j WHERE j.order_id = o.id AND j.leased_by IS NULL AND j.due_at > now() + interval '1 minute')";
    wait_until_order(&stack, &order.order_id, sleeps).await;
    stack.publish_value(&order).await;
    let retried = ctl_on(&stack, &["orders", "retry", &order.order_id, "--json"]).await.ended(0).results();
    assert_eq!(retried, [json!({"id": order.order_id, "result": "due"})]);
    stack.becomes_active(&domain.id).await;
    assert_eq!(orders_of(&stack, &domain).await, 1);
}

#[tokio::test]
async fn two_processes_or_an_operator_and_a_customer_at_once_make_one_new_order() {
    let stack = fronted().apis(2).start().await;
    let mut failed = Vec::new();
    for number in 1..=4 {
        failed.push(stack.pending_domain(&format!("shop-{number}.example.com")).await);
    }
    for (domain, order) in &failed {
        lose_patience(&stack, order).await;
        fails(&stack, domain, ProblemCode::RecordNotSeen).await;
    }
    for (number, (domain, order)) in failed.iter().enumerate() {
        let args = ["orders", "retry", &order.order_id, "--json"];
        let accepted = if number % 2 == 0 {
            let (one, other) = tokio::join!(ctl_on(&stack, &args), ctl_on(&stack, &args));
            let mut codes = [one.code, other.code];
            codes.sort_unstable();
            assert_eq!(codes, [0, 4], "{one:?} {other:?}");
            let refused = if one.code == 4 { one } else { other }.results();
            assert!(refused[0]["reason"].as_str().unwrap().contains("of the same domain is newer"), "{refused:?}");
            true
        } else {
            let (operator, customer) = tokio::join!(ctl_on(&stack, &args), stack.api().try_retry(&domain.id));
            let customer = customer.unwrap();
            assert!(matches!((operator.code, customer.status), (0, 400) | (4, 202)), "{operator:?} {customer:?}");
            operator.code == 0
        };
        println!("{}", if accepted { "the operator was first" } else { "the customer was first" });
        assert_eq!(orders_of(&stack, domain).await, 2);
    }
    for (domain, order) in &failed {
        publish_alone(&stack, order).await;
        stack.becomes_active(&domain.id).await;
        assert_eq!(certificates_stored(&stack, &domain.id).await, 1);
    }
}

#[tokio::test]
async fn a_cancelled_order_leaves_nothing_at_the_ca_and_its_customer_may_retry() {
    let stack = fronted().start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    cancel(&stack, &domain).await;
    let now = stack.becomes(&domain.id, "failed", SOON).await;
    assert_eq!(now.more["failure"]["code"], "cancelled_by_operator");
    let detail = now.more["failure"]["detail"].as_str().unwrap();
    assert!(detail.contains("operator") && detail.contains("retry"), "{detail}");
    is_cleaned_up(&stack, &domain.id).await;
    assert_eq!(stack.front().reached_ca(Kind::Deactivation), 1);
    assert_eq!(stack.api().fetch(&domain.id).await.more["failure"]["retryable"], true);

    let by_customer = stack.api().retry(&domain.id).await;
    assert_ne!(by_customer.expected_txt_value, order.expected_txt_value, "the value of a dead authorization");
    cancel(&stack, &domain).await;
    is_cleaned_up(&stack, &domain.id).await;
    let by_operator = new_order(&stack, &by_customer.order_id).await;
    wait_until_order(&stack, &by_operator, "o.placed_at IS NOT NULL").await;
    let pending = stack.api().fetch(&domain.id).await;
    let value = pending.more["expected_txt_value"].as_str().unwrap();
    stack.dns().clear_txt(&order.challenge_domain).await.unwrap();
    stack.dns().set_txt(&order.challenge_domain, value).await.unwrap();
    stack.becomes_active(&domain.id).await;
    assert_eq!((orders_of(&stack, &domain).await, certificates_stored(&stack, &domain.id).await), (3, 1));
    assert_eq!(stack.front().reached_ca(Kind::Deactivation), 2);
}

/// A CA hands out the same pending authorization again; clean-up is about to take it away.
#[tokio::test]
async fn an_order_retried_while_its_authorization_is_being_deactivated_waits_for_another() {
    let stack = fronted().start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    let former = "SELECT url FROM authorizations WHERE order_id = (SELECT id FROM orders WHERE public_id = $1)";
    let url: String = sqlx::query_scalar(former).bind(&order.order_id).fetch_one(stack.pool()).await.unwrap();
    let same = move |reply: Reply| reply.with_json(|order| order["authorizations"] = json!([url]));
    stack.front().next(1, Kind::NewOrder, Fault::change(same));
    stack.front().hold(Kind::Deactivation);
    cancel(&stack, &domain).await;
    arrives(&stack, Kind::Deactivation, 1).await;
    let new = new_order(&stack, &order.order_id).await;
    arrives(&stack, Kind::NewOrder, 2).await;
    let judged = "o.state <> 'accepted' OR EXISTS (SELECT FROM jobs j WHERE j.order_id = o.id AND j.lease > 0 AND j.leased_by IS NULL)";
    wait_until_order(&stack, &new, judged).await;
    assert!(order_is(&stack, &new, "o.state = 'accepted'").await, "it builds on what is about to go");
    stack.front().release();
    wait_until_order(&stack, &new, "o.placed_at IS NOT NULL").await;
    let value = stack.api().fetch(&domain.id).await.more["expected_txt_value"].as_str().unwrap().to_owned();
    assert_ne!(value, order.expected_txt_value);
    stack.dns().clear_txt(&order.challenge_domain).await.unwrap();
    stack.dns().set_txt(&order.challenge_domain, &value).await.unwrap();
    stack.becomes_active(&domain.id).await;
}

#[tokio::test]
async fn a_customer_whose_order_is_cancelled_before_it_is_placed_is_told_so() {
    let stack = fronted().start().await;
    let domain = stack.verified_domain("shop.example.com").await;
    stack.front().hold(Kind::NewOrder);
    let cancelled = async {
        arrives(&stack, Kind::NewOrder, 1).await;
        cancel(&stack, &domain).await;
    };
    let (told, ()) = tokio::join!(stack.api().try_issue(&domain.id), cancelled);
    let told = told.unwrap();
    assert!(told.status == 500 && told.error().unwrap().contains("operator of this service cancelled"), "{told:?}");
    stack.front().release();
    let now = stack.api().fetch(&domain.id).await;
    assert_eq!((now.status.as_str(), now.more.get("failure")), ("verified", None));
    is_cleaned_up(&stack, &domain.id).await;
    let order = stack.api().issue(&domain.id).await;
    publish_alone(&stack, &order).await;
    stack.becomes_active(&domain.id).await;
}

#[tokio::test]
async fn a_refused_order_is_shown_with_the_words_of_the_ca_and_the_worker() {
    let stack = fronted().start().await;
    stack.active_domain("active.example.com").await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    stack.front().next(1, Kind::Finalize, refusal(403, "rejectedIdentifier"));
    stack.publish_value(&order).await;
    fails(&stack, &domain, ProblemCode::NameRefused).await;

    let text = ctl_on(&stack, &["orders", "show", &order.order_id]).await.ended(0).out;
    for told in [
        CA_SAYS,
        "urn:ietf:params:acme:error:rejectedIdentifier",
        "name_refused",
        "worker-1",
        &order.expected_txt_value,
    ] {
        assert!(text.contains(told), "{told} is not in\n{text}");
    }
    let shown = ctl_on(&stack, &["orders", "show", &order.order_id, "--json"]).await.ended(0).json();
    assert_eq!(shown["problem"]["acme"]["detail"], CA_SAYS);
    let timeline = shown["events"].as_array().unwrap();
    let names: Vec<&str> = timeline.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, events(&stack, &order.order_id).await);
    for event in timeline {
        let by = if event["event"] == "accepted" { "api" } else { "worker-1" };
        assert!(event["actor"] == by && event["at"].as_str().unwrap().ends_with('Z'), "{event}");
    }
    let gave_up = timeline.iter().find(|event| event["event"] == "gave_up").unwrap();
    assert_eq!((&gave_up["state"], &gave_up["detail"]["acme"]["detail"]), (&json!("failed"), &json!(CA_SAYS)));

    // Of both, one of them issued: keys and chains are stored, and never shown.
    let list = ctl_on(&stack, &["orders", "list", "--json"]).await.ended(0);
    let ids: Vec<String> = list.json()["orders"].as_array().unwrap().iter().map(|line| text_of(&line["id"])).collect();
    assert_eq!(ids.len(), 2);
    let operators = stack.admin_url("api-1");
    for id in ids {
        for args in [&["orders", "show", &id][..], &["orders", "show", &id, "--json"]] {
            let said = ctl_on(&stack, args).await.ended(0).out;
            assert!(!said.contains("BEGIN") && !said.contains("PRIVATE KEY"), "{args:?}");
        }
        let client = ApiClient::new(&operators, None).unwrap();
        let answer = client.send(client.request(reqwest::Method::GET, &format!("/orders/{id}"))).await.unwrap();
        assert!(!answer.expect(200).to_string().contains("BEGIN"));
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
