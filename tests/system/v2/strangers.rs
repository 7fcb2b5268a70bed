//! Two accounts on one service: neither sees, touches or takes anything of the other, whoever asks and by whatever call.

use countersign_tests::receiver::Receiver;
use countersign_tests::stack::Stack;
use countersign_tests::stack::accounts::{ALL_SCOPES, DEFAULT};
use reqwest::Method;
use serde_json::json;

use super::surroundings::Named;
use super::{Caller, message};
use crate::facts::SOON;
use crate::webhooks::{hooked, until};

const DOMAIN: &str = "shop.example.com";

/// All rows that a caller could change, as text.
async fn rows(stack: &Stack) -> Vec<String> {
    let query = "SELECT d::text FROM domains d UNION ALL SELECT c::text FROM certificates c UNION ALL SELECT o::text FROM orders o
                 UNION ALL SELECT r::text FROM renewals r UNION ALL SELECT w::text FROM webhooks w
                 UNION ALL SELECT e::text FROM events e UNION ALL SELECT y::text FROM deliveries y
                 UNION ALL SELECT j.order_id::text FROM jobs j WHERE j.order_id IS NOT NULL ORDER BY 1";
    sqlx::query_scalar(query).fetch_all(stack.pool()).await.unwrap()
}

#[tokio::test]
async fn no_call_answers_another_account_s_token_or_none_or_one_that_is_over() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).start().await;
    let owner = Caller::new(&stack, "owner", "test-dns");
    let made = Named::made(&owner, DOMAIN, &receiver.url("/")).await;
    let domain = owner.get(&format!("domains/{DOMAIN}")).await.expect(200)["data"]["id"].to_string();
    let issued = made.certificate;
    let new = owner.order(DOMAIN, json!({})).await;
    stack.finish().await;
    until(&stack, "SELECT bool_and(delivered_at IS NOT NULL) FROM deliveries").await;

    let foreign = Caller::new(&stack, "foreign", "test-dns");
    foreign.domain("foreign.example.com").await;
    let revoked = stack.token(owner.account, ALL_SCOPES);
    let revoked_caller = owner.with_token(Some(&revoked.secret));
    revoked_caller.ask(Method::GET, "/v2/whoami").await.expect(200);
    stack.revoke(&revoked);
    let short = stack.token_with(owner.account, &["--expires-in", "2s"]);
    let expired_caller = owner.with_token(Some(&short.secret));
    let is_over = async || (expired_caller.ask(Method::GET, "/v2/whoami").await.status == 401).then_some(());
    stack.wait_until("the token has expired", SOON, is_over).await;
    let before = rows(&stack).await;

    for (domain, certificate) in [(DOMAIN, issued), (&domain, issued), (DOMAIN, new), (&domain, new)] {
        let named = Named { domain: domain.to_owned(), certificate, ..made };
        let of_owner = [format!("/domains/{domain}"), format!("/webhooks/{}", named.webhook)];
        for (methods, path) in named.calls() {
            // The same things under the caller's own account.
            let own = path.replacen(&format!("/v2/{}/", owner.account.id), &format!("/v2/{}/", foreign.account.id), 1);
            for method in methods {
                for (caller, status) in [(&owner.with_token(None), 401), (&revoked_caller, 401), (&expired_caller, 401)]
                {
                    assert_eq!(
                        message(caller.ask(method.clone(), &path).await, status),
                        "Authentication failed",
                        "{path}"
                    );
                }
                for path in [&path, &own] {
                    let answer =
                        foreign.send(foreign.api.request(method.clone(), path).json(&json!({"name": "api"}))).await;
                    let text = answer.body.to_string();
                    if of_owner.iter().any(|theirs| path.contains(theirs)) {
                        assert_eq!(answer.status, 404, "{method} {path}: {text}");
                    } else if path.contains(&format!("/v2/{}/", owner.account.id)) {
                        assert_eq!(message(answer, 404), "Not Found", "{method} {path}");
                        continue;
                    }
                    let shown = text.replace(&format!("`{domain}`"), "");
                    assert!(!shown.contains(DOMAIN) && !shown.contains("owner"), "{method} {path}: {text}");
                }
            }
        }
    }
    // The certificate by way of a domain of one's own.
    for call in ["", "/download", "/private_key", "/challenges"] {
        let answer = foreign.get(&format!("domains/foreign.example.com/certificates/{issued}{call}")).await;
        assert_eq!(message(answer, 404), format!("Certificate `{issued}` not found"));
    }
    message(foreign.issue("foreign.example.com", new).await, 404);
    // A name that is taken is taken for everybody.
    let taken = foreign.post("domains", &json!({"name": DOMAIN})).await.expect(400);
    assert_eq!(taken["errors"], json!({"name": ["has already been taken"]}));
    assert_eq!(rows(&stack).await, before, "something of theirs was changed");
}

#[tokio::test]
async fn domains_shows_and_changes_nothing_of_other_accounts() {
    let stack = Stack::builder().workers(0).start().await;
    let (caller, default) = (Caller::new(&stack, "shop", "manual"), Caller::of(&stack, DEFAULT, ALL_SCOPES));
    caller.domain(DOMAIN).await;
    let public_id: String = sqlx::query_scalar("SELECT public_id FROM domains").fetch_one(stack.pool()).await.unwrap();
    let before = rows(&stack).await;
    let api = stack.api();
    assert_eq!(api.try_list("").await.unwrap().expect(200)["domains"], json!([]));
    assert_eq!(api.try_list("status=pending").await.unwrap().expect(200)["domains"], json!([]));
    for id in [public_id.as_str(), DOMAIN, "1"] {
        for answer in [
            api.try_fetch(id).await,
            api.try_verify(id).await,
            api.try_issue(id).await,
            api.try_retry(id).await,
            api.try_check(id).await,
            api.try_certificate(id).await,
            api.try_delete(id).await,
        ] {
            answer.unwrap().expect(404);
        }
    }
    // Neither does the default account's token.
    default.get(&format!("domains/{DOMAIN}")).await.expect(404);
    // The documented answer for a name that is taken.
    api.try_register(DOMAIN).await.unwrap().expect(500);
    assert_eq!(rows(&stack).await, before);

    // What /domains registers belongs to the default account.
    let registered = api.register("other.example.com").await;
    default.get("domains/other.example.com").await.expect(200);
    caller.get("domains/other.example.com").await.expect(404);
    default.delete("domains/other.example.com").await.expect(204);
    api.try_fetch(&registered.id).await.unwrap().expect(404);
}

#[tokio::test]
async fn a_token_may_do_what_its_scopes_say_and_nothing_else() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).leftovers_allowed().start().await;
    let all = Caller::new(&stack, "shop", "test-dns");
    let named = Named::made(&all, DOMAIN, &receiver.url("/")).await;
    let needed = |method: &Method, path: &str| match path {
        "/v2/whoami" | "/v2/accounts" => None,
        path if path.ends_with("/private_key") => Some("certificates:key"),
        path if path.contains("/certificates") && method == Method::GET => Some("certificates:read"),
        path if path.contains("/certificates") => Some("certificates:write"),
        path if path.contains("/webhooks") => Some("webhooks:*"),
        path if path.contains("/domains") || path.ends_with("/presenter") => Some("domains:*"),
        path => panic!("which scope does {method} {path} need?"),
    };
    for scope in ALL_SCOPES.split(',') {
        let caller = Caller::of(&stack, all.account, scope);
        for (methods, path) in named.calls() {
            for method in methods {
                let needed = needed(&method, &path);
                if needed.is_none_or(|needed| needed == scope) {
                    // All but the end of what the other calls name.
                    if method != Method::DELETE {
                        let answer = caller.ask(method.clone(), &path).await;
                        assert_ne!(answer.status, 403, "{method} {path}: {}", answer.body);
                    }
                    continue;
                }
                let expected = format!("Permission Denied. Required Scope: {}", needed.unwrap_or_default());
                assert_eq!(message(caller.ask(method.clone(), &path).await, 403), expected, "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn deleting_a_domain_cancels_its_open_orders_and_frees_its_name() {
    let stack = Stack::builder().setting("POLL_TIMEOUT", "10m").start().await;
    let (caller, other) = (Caller::new(&stack, "shop", "manual"), Caller::new(&stack, "other", "manual"));
    let domain = caller.domain(DOMAIN).await;
    let mut waiting = Vec::new();
    for name in ["www", "api", ""] {
        let id = caller.requested(DOMAIN, json!({"name": name})).await;
        caller.challenges(DOMAIN, id).await;
        waiting.push(id);
    }
    let new = caller.order(DOMAIN, json!({})).await;
    caller.delete(&format!("domains/{domain}")).await.expect(204);
    for id in waiting.iter().chain([&new]) {
        caller.get(&format!("domains/{DOMAIN}/certificates/{id}")).await.expect(404);
        caller.get(&format!("domains/{domain}/certificates/{id}")).await.expect(404);
    }
    let states: Vec<String> = sqlx::query_scalar("SELECT DISTINCT state FROM orders WHERE domain_id = $1")
        .bind(domain)
        .fetch_all(stack.pool())
        .await
        .unwrap();
    assert_eq!(states, ["cancelled"]);
    caller.delete(&format!("domains/{domain}")).await.expect(404);
    assert!(caller.get("domains").await.expect(200)["data"].as_array().unwrap().is_empty());
    assert_ne!(other.domain(DOMAIN).await, domain);
    // Nothing is left to do for them.
    stack.finish().await;
}

/// Whoever had the name may have left the alias of its challenge name behind.
#[tokio::test]
async fn a_name_that_changes_hands_gets_another_delegation_label() {
    let stack = Stack::builder().workers(0).setting("CHALLENGE_ZONE", "acme.example.net").start().await;
    let (before, after) = (Caller::new(&stack, "before", "manual"), Caller::new(&stack, "after", "manual"));
    let label = async || -> String {
        let query = "SELECT delegation_label FROM domains WHERE name = $1 AND deleted_at IS NULL";
        sqlx::query_scalar(query).bind(DOMAIN).fetch_one(stack.pool()).await.unwrap()
    };
    let domain = before.domain(DOMAIN).await;
    let first = label().await;
    before.delete(&format!("domains/{domain}")).await.expect(204);
    after.domain(DOMAIN).await;
    assert_ne!(label().await, first);
}
