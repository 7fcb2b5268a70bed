//! Who publishes an account's records, by `/v2`: proposed, tried by a worker, in force or refused; and never a secret to be seen.

use countersign_tests::dns_software::{KEY_NAME, SECRET, Software};
use countersign_tests::primary::{NameServer, Zone};
use countersign_tests::receiver::{Manner, Receiver};
use countersign_tests::stack::{Stack, StackBuilder};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Caller, message};
use crate::answers::fields;
use crate::facts::SOON;
use crate::renewals::automatic::job_runs;

const DOMAIN: &str = "shop.example.com";
const HIDDEN: &str = "c0untersign-t0ken";

fn hooked(receiver: &Receiver) -> StackBuilder {
    Stack::builder()
        .setting("WEBHOOK_ALLOW_PRIVATE", "true")
        .setting("WEBHOOK_CA_FILE", receiver.root_file().display().to_string())
}

async fn put(caller: &Caller<'_>, of_account: &str, body: &Value) -> countersign_tests::api_client::Answer {
    caller.send(caller.api.request(Method::PUT, &caller.path(of_account)).json(body)).await
}

/// Waits until the trial is over; what is shown then.
async fn tried(caller: &Caller<'_>, of_account: &str) -> Value {
    let over = async || {
        let shown = caller.get(of_account).await.expect(200)["data"].clone();
        assert_eq!(fields(&shown), ["in_force", "proposed"]);
        (shown["proposed"].is_null() || !shown["proposed"]["refused_at"].is_null()).then_some(shown)
    };
    caller.stack.wait_until("the trial is over", 2 * SOON, over).await
}

#[tokio::test]
async fn what_works_is_in_force_what_does_not_is_refused_and_what_was_in_force_stays() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).setting("LOG_LEVEL", "trace").start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    let domain = caller.domain(DOMAIN).await;
    let of_domain = format!("domains/{DOMAIN}/presenter");
    assert_eq!(caller.get(&of_domain).await.expect(200), json!({ "data": { "in_force": null, "proposed": null } }));
    assert_eq!(message(caller.delete(&of_domain).await, 404), "Presenter not found");

    receiver.publish_at(stack.dns(), "/good");
    let good =
        json!({ "kind": "webhook", "url": receiver.url("/good"), "secret": HIDDEN, "headers": { "X-Zone": "a" } });
    let answer = put(&caller, &of_domain, &good).await.expect(202);
    assert_eq!(answer["data"]["in_force"], Value::Null);
    assert_eq!(answer["data"]["proposed"]["refused_at"], Value::Null);
    let shown = tried(&caller, &of_domain).await;
    let settings = json!({ "kind": "webhook", "url": receiver.url("/good"), "headers": { "X-Zone": "a" } });
    assert_eq!((&shown["in_force"]["settings"], &shown["in_force"]["has_secret"]), (&settings, &json!(true)));
    let sent = receiver.received("/good/present").pop().unwrap();
    assert_eq!((sent.header("authorization"), sent.header("x-zone")), (&*format!("Bearer {HIDDEN}"), "a"));
    assert_eq!(receiver.received("/good/cleanup").len(), 1);

    // In its place one that does not work: refused, and forgotten with its secret.
    receiver.behave("/bad/present", Manner::Answer(403, "whatever the service says".to_owned()));
    let bad = json!({ "kind": "webhook", "url": receiver.url("/bad"), "secret": HIDDEN });
    put(&caller, &of_domain, &bad).await.expect(202);
    let shown = tried(&caller, &of_domain).await;
    assert_eq!(shown["in_force"]["settings"], settings);
    assert_eq!(shown["proposed"]["error"], "the value could not be written: the DNS webhook answered 403");
    assert_eq!(
        (&shown["proposed"]["settings"]["url"], &shown["proposed"]["has_secret"]),
        (&json!(receiver.url("/bad")), &json!(false))
    );

    // A certificate by what is in force, with nobody's doing.
    let id = caller.requested(DOMAIN, json!({ "name": "*", "alternate_names": [DOMAIN] })).await;
    caller.issued(DOMAIN, id).await;
    caller.delete(&of_domain).await.expect(204);
    assert_eq!(caller.get(&of_domain).await.expect(200), json!({ "data": { "in_force": null, "proposed": null } }));

    // For the whole account; manual needs no trial.
    let mut of_account = good.clone();
    of_account["trial_domain"] = json!(domain.to_string());
    put(&caller, "presenter", &of_account).await.expect(202);
    assert_eq!(tried(&caller, "presenter").await["in_force"]["settings"], settings);
    let manual = put(&caller, "presenter", &json!({ "kind": "manual" })).await.expect(200);
    assert_eq!(manual["data"]["in_force"]["settings"], json!({ "kind": "manual" }));
    assert_eq!(manual["data"]["proposed"], Value::Null);

    let trail = "SELECT string_agg(action || ' ' || subject, ', ' ORDER BY id) FROM audit_entries WHERE action LIKE 'presenter.%'";
    let trail: String = sqlx::query_scalar(trail).fetch_one(stack.pool()).await.unwrap();
    let (account, proposed) = (caller.account.id, format!("presenter.propose domain {domain} webhook"));
    let expected = format!(
        "{proposed}, {proposed}, presenter.delete domain {domain}, presenter.propose account {account} webhook, \
         presenter.propose account {account} manual"
    );
    assert_eq!(trail, expected);
    let everywhere = "SELECT count(*) FROM (SELECT a::text AS row FROM audit_entries a UNION ALL SELECT e::text FROM order_events e
        UNION ALL SELECT j::text FROM jobs j UNION ALL SELECT p::text FROM presenter_proposals p) AS t WHERE row LIKE '%' || $1 || '%'";
    let shown: i64 = sqlx::query_scalar(everywhere).bind(HIDDEN).fetch_one(stack.pool()).await.unwrap();
    assert_eq!(shown, 0, "the secret is in a row where it does not belong");
    for program in ["api-1", "worker-1"] {
        assert!(!stack.log(program).contains(HIDDEN), "{program} logs the secret");
    }
    stack.finish().await;
}

#[tokio::test]
async fn a_newer_proposal_and_a_deletion_end_the_trial_before() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    caller.domain(DOMAIN).await;
    let of_domain = format!("domains/{DOMAIN}/presenter");
    receiver.behave("/silent/present", Manner::Hang);
    receiver.publish_at(stack.dns(), "/good");
    let propose = async |path: &str| {
        put(&caller, &of_domain, &json!({ "kind": "webhook", "url": receiver.url(path) })).await.expect(202);
    };
    propose("/silent").await;
    let under_way = async |count| {
        let reached = async || (receiver.received("/silent/present").len() == count).then_some(());
        stack.wait_until("the trial is under way", SOON, reached).await;
    };
    under_way(1).await;
    propose("/good").await;
    let shown = tried(&caller, &of_domain).await;
    assert_eq!(shown["in_force"]["settings"]["url"], receiver.url("/good"));
    propose("/silent").await;
    under_way(2).await;
    caller.delete(&of_domain).await.expect(204);
    let nothing_left = async || {
        let query = "SELECT count(*) FROM jobs WHERE kind = 'try-presenter'";
        let count: i64 = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
        (count == 0).then_some(())
    };
    stack.wait_until("no trial is left", SOON, nothing_left).await;
    // Those two that were overtaken come to nothing.
    let silent = receiver.url("/silent");
    stack.finish().await;
    let query = "SELECT count(*) FROM presenter_configs WHERE settings ->> 'url' = $1";
    let stored: i64 = sqlx::query_scalar(query).bind(silent).fetch_one(stack.pool()).await.unwrap();
    assert_eq!(stored, 0);
    // And each removed what it may have written.
    assert_eq!(receiver.received("/silent/cleanup").len(), 2);
    assert_eq!(caller.get(&of_domain).await.expect(200), json!({ "data": { "in_force": null, "proposed": null } }));
    assert_eq!(proposals(&stack).await, 0);
}

async fn proposals(stack: &Stack) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM presenter_proposals").fetch_one(stack.pool()).await.unwrap()
}

#[tokio::test]
async fn what_a_lost_trial_wrote_is_removed_though_another_proposal_took_its_place() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).setting("LEASE_FOR", "2s").start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    caller.domain(DOMAIN).await;
    let of_domain = format!("domains/{DOMAIN}/presenter");
    receiver.behave("/lost/present", Manner::Hang);
    receiver.publish_at(stack.dns(), "/good");
    put(&caller, &of_domain, &json!({ "kind": "webhook", "url": receiver.url("/lost") })).await.expect(202);
    let written = async || receiver.received("/lost/present").pop();
    let written = stack.wait_until("the trial is under way", SOON, written).await.json();
    stack.kill("worker-1");
    put(&caller, &of_domain, &json!({ "kind": "webhook", "url": receiver.url("/good") })).await.expect(202);
    stack.restart("worker-1").await;
    assert_eq!(tried(&caller, &of_domain).await["in_force"]["settings"]["url"], receiver.url("/good"));
    let removed = async || receiver.received("/lost/cleanup").pop();
    let removed = stack.wait_until("what the lost trial wrote is removed", SOON, removed).await.json();
    assert_eq!((&removed["fqdn"], &removed["value"]), (&written["fqdn"], &written["value"]));
    let forgotten = async || (proposals(&stack).await == 0).then_some(());
    stack.wait_until("it is forgotten", SOON, forgotten).await;
    assert_eq!(receiver.received("/lost/present").len(), 1, "it is not tried again");
}

#[tokio::test]
async fn what_is_withdrawn_at_the_moment_its_trial_ends_does_not_come_into_force() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    caller.domain(DOMAIN).await;
    let of_domain = format!("domains/{DOMAIN}/presenter");
    receiver.publish_at(stack.dns(), "/good");
    stack.pause("worker-1");
    put(&caller, &of_domain, &json!({ "kind": "webhook", "url": receiver.url("/good") })).await.expect(202);
    // Whoever changes an account's presenters holds its row.
    let mut change = stack.pool().begin().await.unwrap();
    let lock = sqlx::query("SELECT FROM accounts WHERE id = $1 FOR NO KEY UPDATE").bind(caller.account.id);
    lock.execute(&mut *change).await.unwrap();
    stack.resume("worker-1");
    let waits = async || {
        let query =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let waiting: i64 = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
        (waiting > 0 && receiver.received("/good/cleanup").len() == 1).then_some(())
    };
    stack.wait_until("the trial has succeeded and waits for the account", SOON, waits).await;
    let withdraw =
        "UPDATE presenter_proposals SET withdrawn_at = now(), refused_at = now(), refused_because = 'withdrawn'";
    sqlx::query(withdraw).execute(&mut *change).await.unwrap();
    change.commit().await.unwrap();
    let over = async || (proposals(&stack).await == 0).then_some(());
    stack.wait_until("the trial is over", SOON, over).await;
    assert_eq!(caller.get(&of_domain).await.expect(200), json!({ "data": { "in_force": null, "proposed": null } }));
}

#[tokio::test]
async fn an_account_with_many_proposals_holds_up_neither_renewals_nor_deliveries_nor_the_trials_of_others() {
    let receiver = Receiver::start().unwrap();
    // A quarter of them for trials and deliveries.
    let stack = hooked(&receiver).setting("WORKER_SLOTS", "16").start().await;
    let greedy = Caller::new(&stack, "greedy", "manual");
    receiver.behave("/silent/present", Manner::Hang);
    receiver.behave("/silent/cleanup", Manner::Hang);
    receiver.publish_at(stack.dns(), "/good");
    for number in 0..8 {
        let domain = format!("shop-{number}.example.com");
        greedy.domain(&domain).await;
        let silent = json!({ "kind": "webhook", "url": receiver.url("/silent") });
        put(&greedy, &format!("domains/{domain}/presenter"), &silent).await.expect(202);
    }
    let under_way = async || (receiver.received("/silent/present").len() >= 2).then_some(());
    stack.wait_until("its trials are under way", SOON, under_way).await;
    job_runs(&stack).await;
    let other = Caller::new(&stack, "other", "manual");
    other.domain(DOMAIN).await;
    let of_domain = format!("domains/{DOMAIN}/presenter");
    put(&other, &of_domain, &json!({ "kind": "webhook", "url": receiver.url("/good") })).await.expect(202);
    assert_eq!(tried(&other, &of_domain).await["in_force"]["settings"]["url"], receiver.url("/good"));
    // Each is silent for 10 s when it writes and for 10 s when it removes; only then is it another one's turn.
    let removing = async || (!receiver.received("/silent/cleanup").is_empty()).then_some(());
    stack.wait_until("the first are given up", SOON, removing).await;
    assert_eq!(receiver.received("/silent/present").len(), 2);
    for number in 0..8 {
        greedy.delete(&format!("domains/shop-{number}.example.com/presenter")).await.expect(204);
    }
    receiver.behave("/silent/cleanup", Manner::Answer(200, String::new()));
    let over = async || (proposals(&stack).await == 0).then_some(());
    stack.wait_until("no trial is left", 2 * SOON, over).await;
}

#[tokio::test]
async fn what_is_wrong_is_said_by_field_and_our_own_network_is_out_of_bounds() {
    let stack = Stack::builder().workers(0).start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    caller.domain(DOMAIN).await;
    let of_domain = format!("domains/{DOMAIN}/presenter");
    let server = json!({ "kind": "rfc2136", "server": "93.184.215.14:53", "key_name": "k.", "secret": "c2VjcmV0" });
    let hook = json!({ "kind": "webhook", "url": "https://93.184.215.14/dns" });
    let with = |body: &Value, field: &str, value: Value| {
        let mut body = body.clone();
        body[field] = value;
        body
    };
    for (body, wrong) in [
        (json!({}), vec!["kind"]),
        (json!({ "kind": "test-dns" }), vec!["kind"]),
        (json!({ "kind": "rfc2136" }), vec!["key_name", "server"]),
        (with(&server, "server", json!("dns.example.com")), vec!["server"]),
        (with(&server, "server", json!("10.0.0.1:53")), vec!["server"]),
        (with(&server, "server", json!("[::1]:53")), vec!["server"]),
        (with(&server, "key_name", json!(5)), vec!["key_name"]),
        (with(&server, "algorithm", json!("md5")), vec!["algorithm"]),
        (with(&server, "transport", json!("quic")), vec!["transport"]),
        (with(&server, "zone", json!("a b")), vec!["zone"]),
        (with(&server, "secret", json!("no base64!")), vec!["secret"]),
        (with(&server, "secret", Value::Null), vec!["secret"]),
        (json!({ "kind": "webhook" }), vec!["url"]),
        (with(&hook, "url", json!("http://93.184.215.14/")), vec!["url"]),
        (with(&hook, "url", json!("https://127.0.0.1/")), vec!["url"]),
        (with(&hook, "url", json!("https://localhost/")), vec!["url"]),
        (with(&hook, "headers", json!({ "Authorization": "Bearer x" })), vec!["headers"]),
        (with(&hook, "headers", json!(["a"])), vec!["headers"]),
        (with(&hook, "username", json!("u")), vec!["secret"]),
        (with(&hook, "trial_domain", json!(DOMAIN)), vec!["trial_domain"]),
    ] {
        let refused = put(&caller, &of_domain, &body).await.expect(400);
        assert_eq!(refused["message"], "Validation failed", "{body}");
        assert_eq!(fields(&refused["errors"]), wrong, "{body}: {refused}");
        assert!(!refused.to_string().contains("base64!"), "{refused}");
    }
    for (body, wrong) in
        [(hook.clone(), "trial_domain"), (with(&hook, "trial_domain", json!("example.net")), "trial_domain")]
    {
        let refused = put(&caller, "presenter", &body).await.expect(400);
        assert_eq!(fields(&refused["errors"]), [wrong], "{body}");
    }
    let other = Caller::new(&stack, "other", "manual");
    assert_eq!(message(put(&other, &of_domain, &hook).await, 404), format!("Domain `{DOMAIN}` not found"));
    let rows: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM presenter_proposals) + (SELECT count(*) FROM presenter_configs)",
    )
    .fetch_one(stack.pool())
    .await
    .unwrap();
    assert_eq!(rows, 0);
}

#[tokio::test]
#[ignore = "needs knot: make test-all"]
async fn a_server_that_takes_updates_is_tried_there() {
    let Some(kind) = Software::Knot.if_installed() else {
        return;
    };
    let server =
        NameServer::start(kind, &[Zone { name: "example.com.", records: "", is_dynamic: true }]).await.unwrap();
    let stack = Stack::builder().resolver(server.address()).setting("WEBHOOK_ALLOW_PRIVATE", "true").start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    caller.domain(DOMAIN).await;
    let of_domain = format!("domains/{DOMAIN}/presenter");
    let mut body = json!({ "kind": "rfc2136", "server": server.address(), "key_name": KEY_NAME, "secret": SECRET });
    put(&caller, &of_domain, &body).await.expect(202);
    assert_eq!(tried(&caller, &of_domain).await["in_force"]["settings"]["kind"], "rfc2136");
    body["key_name"] = json!("other.");
    put(&caller, &of_domain, &body).await.expect(202);
    let shown = tried(&caller, &of_domain).await;
    assert_eq!(shown["in_force"]["settings"]["key_name"], KEY_NAME);
    assert!(shown["proposed"]["error"].as_str().unwrap().contains("BADKEY"), "{shown}");
    assert!(server.values("_acme-challenge.shop.example.com.").await.unwrap().is_empty());
}
