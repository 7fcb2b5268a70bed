//! What the doctor finds through a resolver alone, where the zones' servers cannot be asked; and the findings of failed orders.

use countersign_shared::model::problem::ProblemCode;
use countersign_tests::dns_front::DnsFault;
use countersign_tests::stack::Stack;
use countersign_tests::stack::accounts::{ALL_SCOPES, DEFAULT};
use reqwest::Method;
use serde_json::{Value, json};

use super::{codes, diagnosis};
use crate::facts::all;
use crate::failures::fails;

const NAME: &str = "shop.example.com";
const OWNER: &str = "_acme-challenge.shop.example.com.";

#[tokio::test]
async fn a_customer_learns_what_is_wrong_and_which_record_to_set() {
    let stack = Stack::builder().workers(0).dns_front().setting("CHALLENGE_ZONE", "acme.example.net").start().await;
    let domain = stack.api().register(NAME).await;
    let token = domain.verification_token.as_deref().unwrap();
    let target = &domain.more["delegation"]["cname_target"];

    let missing = diagnosis(stack.api(), &domain.id).await;
    assert_eq!(codes(&missing), ["record_missing"], "{missing}");
    assert_eq!(missing["findings"][0]["record"], json!({"type": "TXT", "name": OWNER, "value": token}));
    assert_eq!(missing["expected"], json!({"record_name": OWNER, "values": [token]}));
    assert_eq!(missing["delegation"], json!({"type": "CNAME", "name": OWNER, "value": target}));
    assert_eq!((&missing["domain_name"], &missing["walk"]), (&json!(NAME), &json!([])));
    assert!(missing["looked_at"].as_str().unwrap().ends_with('Z'), "{missing}");

    stack.dns().set_txt(OWNER, "last-year's value").await.unwrap();
    let wrong = diagnosis(stack.api(), &domain.id).await;
    assert_eq!(codes(&wrong), ["wrong_value"], "{wrong}");
    assert!(wrong["findings"][0]["detail"].as_str().unwrap().contains("last-year's value"), "{wrong}");
    assert_eq!(wrong["resolver"]["values"], json!(["last-year's value"]));

    stack.dns().set_txt(&format!("{OWNER}{NAME}"), token).await.unwrap();
    let misplaced = diagnosis(stack.api(), &domain.id).await;
    assert_eq!(codes(&misplaced), ["value_at_wrong_name", "wrong_value"], "{misplaced}");

    stack.dns().set_txt(OWNER, token).await.unwrap();
    let well = diagnosis(stack.api(), &domain.id).await;
    assert_eq!(codes(&well), ["all_well"], "{well}");

    stack.dns_front().fault(OWNER, DnsFault::ServFail);
    let failing = diagnosis(stack.api(), &domain.id).await;
    assert_eq!(codes(&failing), ["dns_failed"], "{failing}");
    stack.dns_front().fault_everywhere(DnsFault::Refused);
    stack.dns_front().fault(OWNER, DnsFault::Refused);
    assert_eq!(codes(&diagnosis(stack.api(), &domain.id).await), ["dns_failed"]);
}

#[tokio::test]
async fn the_same_is_told_through_v2_and_one_at_a_time() {
    let stack = Stack::builder().workers(0).dns_front().start().await;
    let domain = stack.api().register(NAME).await;
    let path = format!("/v2/1/domains/{NAME}/diagnosis");
    let caller = stack.api().with_token(Some(&stack.token(DEFAULT, ALL_SCOPES).secret));
    let told = caller.send(caller.request(Method::GET, &path)).await.unwrap().expect(200);
    assert_eq!(codes(&told["data"]), ["record_missing"], "{told}");

    let powerless = stack.api().with_token(Some(&stack.token(DEFAULT, "certificates:read").secret));
    powerless.send(powerless.request(Method::GET, &path)).await.unwrap().expect(403);
    let other = stack.account("other", "manual");
    let stranger = stack.api().with_token(Some(&stack.token(other, ALL_SCOPES).secret));
    let path_of_other = format!("/v2/{}/domains/{NAME}/diagnosis", other.id);
    stranger.send(stranger.request(Method::GET, &path_of_other)).await.unwrap().expect(404);
    let unknown = stack.api().request(Method::GET, &format!("/domains/{}/diagnosis", "0".repeat(32)));
    stack.api().send(unknown).await.unwrap().expect(404);

    // One waits for a server that says nothing; the other comes meanwhile.
    stack.dns_front().fault_everywhere(DnsFault::Silence);
    let at_once = (0..2).map(|_| {
        let (api, path) = (stack.api().clone(), format!("/domains/{}/diagnosis", domain.id));
        async move { api.send(api.request(Method::GET, &path)).await.unwrap() }
    });
    let mut answers = all(at_once).await;
    answers.sort_by_key(|answer| answer.status);
    let refused = answers.pop().unwrap();
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.headers.contains_key("retry-after") && refused.error().is_some(), "{refused:?}");
    assert_eq!(codes(&answers.pop().unwrap().expect(200)), ["dns_failed"]);
}

#[tokio::test]
async fn a_failed_order_carries_what_was_found() {
    let stack = Stack::builder().setting("POLL_TIMEOUT", "1s").start().await;
    let (domain, order) = stack.pending_domain(NAME).await;
    stack.dns().clear_txt(OWNER).await.unwrap();
    fails(&stack, &domain, ProblemCode::RecordNotSeen).await;
    let failure = stack.api().fetch(&domain.id).await.more["failure"].clone();
    let finding = &failure["findings"][0];
    assert_eq!(finding["code"], "record_missing", "{failure}");
    assert_eq!(finding["record"], json!({"type": "TXT", "name": OWNER, "value": order.expected_txt_value}));
    let told = countersign_tests::stack::accounts::ctl(stack.plan(), &["orders", "show", &order.order_id, "--json"]);
    let story: Value = serde_json::from_str(&told.unwrap()).unwrap();
    assert_eq!(story["problem"]["findings"][0], *finding, "{story}");
    // What a retry would await.
    let now = diagnosis(stack.api(), &domain.id).await;
    assert_eq!(now["expected"]["values"], json!([order.expected_txt_value]), "{now}");
}
