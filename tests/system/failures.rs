//! Every failure code, produced: what the customer reads, what operators find, and that the order can be retried where that is promised.
//! And, in `unnoticed`, the faults of the CA that fail no order.

mod unnoticed;

use countersign_shared::model::problem::ProblemCode;
use countersign_tests::acme_front::{Fault, Kind, Reply};
use countersign_tests::api_client::{Domain, Order};
use countersign_tests::stack::pebble::BLOCKED;
use countersign_tests::stack::{Stack, StackBuilder};
use serde_json::{Value, json};

use crate::facts::{SOON, is_cleaned_up, order_is, verified_domains};

/// What the CA says in the problems that these tests make up: for operators, not for customers.
pub(crate) const CA_SAYS: &str = "the very own words of the CA";

/// A stack with a front whose CA refuses no nonces by chance, and remembers valid authorizations in one order of a hundred only: Pebble
/// cannot be told never to.
pub(crate) fn fronted() -> StackBuilder {
    Stack::builder().acme_front().pebble("PEBBLE_WFE_NONCEREJECT", "0").pebble("PEBBLE_AUTHZREUSE", "0")
}

pub(crate) fn refusal(status: u16, problem: &str) -> Fault {
    Fault::Answer(Reply::problem(status, problem, CA_SAYS))
}

/// Only this value is published for the domain then: Pebble reads answers of 512 octets and no more.
pub(crate) async fn publish_alone(stack: &Stack, order: &Order) {
    stack.dns().clear_txt(&order.challenge_domain).await.unwrap();
    stack.publish_value(order).await;
}

pub(crate) async fn arrives(stack: &Stack, kind: Kind, number: usize) {
    let arrived = async || (stack.front().arrived(kind) >= number).then_some(());
    stack.wait_until(&format!("{kind:?} request {number} is there"), SOON, arrived).await;
}

/// The CA finds nothing where our look-up just found the value.
pub(crate) async fn lose_record_before_the_ca_looks(stack: &Stack, order: &Order) {
    let before = stack.front().arrived(Kind::Challenge);
    stack.front().hold(Kind::Challenge);
    stack.publish_value(order).await;
    arrives(stack, Kind::Challenge, before + 1).await;
    stack.dns().clear_txt(&order.challenge_domain).await.unwrap();
    stack.front().release();
}

/// A state that no step can work with: a key is due to be sent, and there is none.
pub(crate) async fn lose_key(stack: &Stack, order: &Order) {
    let update = "UPDATE orders SET state = 'prepared', revision = revision + 1 WHERE public_id = $1";
    sqlx::query(update).bind(&order.order_id).execute(stack.pool()).await.unwrap();
}

/// State and problem of an order, the detail of its last `gave_up` or `cancelled` event, and the state of its certificate's row.
async fn end_of(stack: &Stack, order_of: &str) -> (String, Value, Value, String) {
    let query = "SELECT o.state, o.problem, e.detail, c.state FROM orders o
                 JOIN domains d ON d.id = o.domain_id JOIN certificates c ON c.id = o.certificate_id
                 JOIN order_events e ON e.order_id = o.id AND e.event IN ('gave_up', 'cancelled')
                 WHERE d.public_id = $1 ORDER BY o.id DESC LIMIT 1";
    sqlx::query_as(query).bind(order_of).fetch_one(stack.pool()).await.unwrap()
}

/// Our words and only ours.
fn is_for_customers(detail: &str, acme: &Value) {
    let ca_words = acme["detail"].as_str().unwrap_or(CA_SAYS);
    for foreign in [ca_words, CA_SAYS, "urn:", "http", "error:", "hickory", "sql", "os error"] {
        assert!(!detail.contains(foreign), "{foreign:?} is in {detail:?}");
    }
}

/// Waits for the domain's failure and checks all places that tell of it. Returns `failure.detail` and the CA's problem.
pub(crate) async fn fails(stack: &Stack, domain: &Domain, code: ProblemCode) -> (String, Value) {
    stack.becomes(&domain.id, "failed", SOON).await;
    if code != ProblemCode::Internal {
        is_cleaned_up(stack, &domain.id).await;
    }
    let failure = stack.api().fetch(&domain.id).await.more["failure"].clone();
    assert_eq!((&failure["code"], &failure["retryable"]), (&json!(code.as_str()), &json!(code.retryable())));
    let (state, problem, event, certificate) = end_of(stack, &domain.id).await;
    assert_eq!((state.as_str(), certificate.as_str()), ("failed", "failed"));
    assert_eq!(problem, event);
    assert_eq!((&problem["code"], &problem["detail"]), (&failure["code"], &failure["detail"]));
    let detail = failure["detail"].as_str().unwrap();
    is_for_customers(detail, &problem["acme"]);
    stack.api().try_certificate(&domain.id).await.unwrap().expect(404);
    (detail.to_owned(), problem["acme"].clone())
}

/// The caller is told at once, and the domain is as it was.
pub(crate) async fn is_refused(stack: &Stack, domain: &Domain, code: ProblemCode, told: &str) -> Value {
    let refused = stack.api().try_issue(&domain.id).await.unwrap();
    let (error, status) = (refused.error().unwrap().to_owned(), refused.status);
    let (state, problem, event, certificate) = end_of(stack, &domain.id).await;
    assert_eq!((status, &problem["code"]), (500, &json!(code.as_str())), "{error}");
    assert!(error.contains(told), "{error}");
    is_for_customers(&error, &problem["acme"]);
    let ended = if code == ProblemCode::NotPlacedInTime { "cancelled" } else { "failed" };
    assert_eq!((state.as_str(), certificate.as_str(), &problem), (ended, ended, &event));
    let now = stack.api().fetch(&domain.id).await;
    assert_eq!((now.status.as_str(), now.more.get("failure")), ("verified", None));
    problem["acme"].clone()
}

/// From `failed` by a retry to `active`. Returns whether the TXT value stayed.
pub(crate) async fn a_retry_leads_to_a_certificate(stack: &Stack, domain: &Domain, former: &Order) -> bool {
    let order = stack.api().retry(&domain.id).await;
    assert_ne!(order.order_id, former.order_id);
    publish_alone(stack, &order).await;
    stack.becomes_active(&domain.id).await;
    order.expected_txt_value == former.expected_txt_value
}

#[tokio::test]
async fn record_not_seen_and_dns_lookup_failed() {
    let stack = fronted().setting("POLL_TIMEOUT", "2s").setting("CONFIRM_GRACE", "2s").start().await;
    let (stale, stale_order) = stack.pending_domain("stale.example.com").await;
    let (silent, silent_order) = stack.pending_domain("silent.example.com").await;
    stack.dns().clear_txt(&stale_order.challenge_domain).await.unwrap();
    stack.dns().set_txt(&stale_order.challenge_domain, "last-year's value").await.unwrap();
    stack.dns().set_servfail(&silent_order.challenge_domain).await.unwrap();

    let (detail, _) = fails(&stack, &stale, ProblemCode::RecordNotSeen).await;
    for named in [stale_order.challenge_domain.as_str(), &stale_order.expected_txt_value, "last-year's value"] {
        assert!(detail.contains(named), "{named} is not in {detail:?}");
    }
    let (detail, _) = fails(&stack, &silent, ProblemCode::DnsLookupFailed).await;
    assert!(detail.contains(&silent_order.challenge_domain) && detail.contains("SERVFAIL"), "{detail}");
    let patient = "o.ended_at >= o.deadline_at + interval '2 seconds'";
    assert!(order_is(&stack, &silent_order.order_id, patient).await, "DNS got no grace");

    stack.dns().clear_servfail(&silent_order.challenge_domain).await.unwrap();
    for (domain, order) in [(stale, stale_order), (silent, silent_order)] {
        assert!(a_retry_leads_to_a_certificate(&stack, &domain, &order).await, "another TXT value");
    }
    assert_eq!(stack.front().reached_ca(Kind::NewOrder), 2, "a retry placed a new order");
}

#[tokio::test]
async fn challenge_refused_by_a_ca_that_does_not_find_what_we_found() {
    let stack = fronted().start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    lose_record_before_the_ca_looks(&stack, &order).await;
    let (detail, acme) = fails(&stack, &domain, ProblemCode::ChallengeRefused).await;
    for named in [order.challenge_domain.as_str(), "it did not see the value", "retry to get a new value"] {
        assert!(detail.contains(named), "{named} is not in {detail:?}");
    }
    assert!(!detail.contains(&order.expected_txt_value), "a value that no retry keeps: {detail:?}");
    assert_eq!(acme["type"], "urn:ietf:params:acme:error:unauthorized");
    assert!(!a_retry_leads_to_a_certificate(&stack, &domain, &order).await, "the value of a dead order");
}

#[tokio::test]
async fn an_invalid_authorization_of_each_kind() {
    const CASES: [(&str, ProblemCode, &str); 8] = [
        ("dns", ProblemCode::ChallengeRefused, "its DNS look-up failed"),
        ("unauthorized", ProblemCode::ChallengeRefused, "it did not see the value"),
        ("incorrectResponse", ProblemCode::ChallengeRefused, "it did not see the value"),
        ("connection", ProblemCode::ChallengeRefused, "it could not reach the name servers"),
        ("tls", ProblemCode::ChallengeRefused, "every name server"),
        ("serverInternal", ProblemCode::ChallengeRefused, "every name server"),
        ("caa", ProblemCode::CaaForbids, "CAA record"),
        ("rejectedIdentifier", ProblemCode::NameRefused, "does not issue certificates for"),
    ];
    let stack = fronted().start().await;
    let mut pending = Vec::new();
    for (problem, ..) in CASES {
        pending.push(stack.pending_domain(&format!("{}.example.com", problem.to_lowercase())).await);
    }
    stack
        .front()
        .always(Kind::Order, Fault::change(|reply| reply.with_json(|order| order["status"] = "invalid".into())));
    let refused = |reply: Reply| {
        reply.with_json(|authorization| {
            let name = authorization["identifier"]["value"].as_str().unwrap_or_default().to_owned();
            let problem = CASES.iter().find(|case| name.starts_with(&case.0.to_lowercase())).map_or("", |case| case.0);
            authorization["status"] = "invalid".into();
            for challenge in authorization["challenges"].as_array_mut().into_iter().flatten() {
                challenge["status"] = "invalid".into();
                challenge["error"] =
                    json!({"type": format!("urn:ietf:params:acme:error:{problem}"), "detail": CA_SAYS, "status": 403});
            }
        })
    };
    stack.front().always(Kind::Authorization, Fault::change(refused));
    for (_, order) in &pending {
        stack.publish_value(order).await;
    }
    for ((problem, code, told), (domain, _)) in CASES.iter().zip(&pending) {
        let (detail, acme) = fails(&stack, domain, *code).await;
        assert!(detail.contains(told), "{problem}: {detail}");
        assert_eq!(acme["type"], format!("urn:ietf:params:acme:error:{problem}"));
        assert_eq!(acme["detail"], CA_SAYS);
    }
    stack.front().heal();
    let (forbidden, order) = &pending[6];
    assert!(!a_retry_leads_to_a_certificate(&stack, forbidden, order).await, "the value of a dead order");
}

#[tokio::test]
async fn refused_when_placing() {
    const CASES: [(&str, u16, ProblemCode, &str); 8] = [
        ("rejectedIdentifier", 400, ProblemCode::NameRefused, "does not issue certificates for shop.example.com"),
        ("unsupportedIdentifier", 400, ProblemCode::NameRefused, "does not issue certificates for shop.example.com"),
        ("caa", 403, ProblemCode::CaaForbids, "CAA record of shop.example.com"),
        ("malformed", 400, ProblemCode::CaRefused, "refused the order"),
        ("unheardOf", 403, ProblemCode::CaRefused, "refused the order"),
        ("userActionRequired", 403, ProblemCode::CaAccount, "account"),
        ("unauthorized", 403, ProblemCode::CaAccount, "account"),
        // Both times: the key was registered again in between.
        ("accountDoesNotExist", 400, ProblemCode::CaAccount, "account"),
    ];
    let stack = fronted().start().await;
    let domain = stack.verified_domain("shop.example.com").await;
    for problem in ["externalAccountRequired", "unsupportedContact", "malformed"] {
        stack.front().next(1, Kind::NewAccount, refusal(400, problem));
        let acme = is_refused(&stack, &domain, ProblemCode::CaAccount, "account").await;
        assert_eq!(acme["detail"], CA_SAYS);
    }
    for (problem, status, code, told) in CASES {
        let times = if problem == "accountDoesNotExist" { 2 } else { 1 };
        stack.front().next(times, Kind::NewOrder, refusal(status, problem));
        let acme = is_refused(&stack, &domain, code, told).await;
        assert_eq!(
            (&acme["type"], &acme["detail"]),
            (&json!(format!("urn:ietf:params:acme:error:{problem}")), &json!(CA_SAYS))
        );
    }
    assert!(stack.front().unused().is_empty(), "{:?}", stack.front().unused());
    let blocked = stack.verified_domain(BLOCKED).await;
    let acme = is_refused(&stack, &blocked, ProblemCode::NameRefused, BLOCKED).await;
    assert_eq!(acme["type"], "urn:ietf:params:acme:error:rejectedIdentifier");

    let order = stack.api().issue(&domain.id).await;
    publish_alone(&stack, &order).await;
    stack.becomes_active(&domain.id).await;
    assert_eq!(stack.ca().accounts().unwrap(), 1);
}

#[tokio::test]
async fn refused_when_finalizing_and_a_chain_that_does_not_fit() {
    let stack = fronted().start().await;
    stack.active_domain("other.example.com").await;
    let query = sqlx::query_scalar("SELECT certificate_pem FROM certificates WHERE state = 'issued'");
    let chain: String = query.fetch_one(stack.pool()).await.unwrap();
    let chain_of = |pem: String| Fault::Answer(Reply::new(200, "application/pem-certificate-chain", pem));
    let cases = [
        ("bad-csr", Kind::Finalize, refusal(400, "badCSR"), ProblemCode::CaRefused, "badCSR", "refused the order"),
        ("forbidden", Kind::Finalize, refusal(403, "caa"), ProblemCode::CaaForbids, "caa", "CAA record"),
        (
            "rejected",
            Kind::Finalize,
            refusal(403, "rejectedIdentifier"),
            ProblemCode::NameRefused,
            "rejectedIdentifier",
            "rejected.example.com",
        ),
        ("gone", Kind::Finalize, refusal(404, "malformed"), ProblemCode::CaOrderLost, "malformed", "retry"),
        ("gone-late", Kind::Certificate, refusal(404, "malformed"), ProblemCode::CaOrderLost, "malformed", "retry"),
        ("foreign", Kind::Certificate, chain_of(chain), ProblemCode::ChainRefused, "", "does not fit"),
    ];
    for (label, kind, fault, code, problem, told) in cases {
        let (domain, order) = stack.pending_domain(&format!("{label}.example.com")).await;
        stack.front().next(1, kind, fault);
        stack.publish_value(&order).await;
        let (detail, acme) = fails(&stack, &domain, code).await;
        assert!(detail.contains(told), "{label}: {detail}");
        match problem {
            "" => assert_eq!(acme, Value::Null),
            _ => assert_eq!(acme["type"], format!("urn:ietf:params:acme:error:{problem}"), "{label}"),
        }
        if code.retryable() {
            a_retry_leads_to_a_certificate(&stack, &domain, &order).await;
        }
    }
}

/// The CA looks at CAA records once more before it signs.
#[tokio::test]
async fn an_order_that_dies_while_the_ca_finalizes_it_says_why() {
    let stack = fronted().start().await;
    let dead = |reply: Reply| {
        reply.with_json(|order| {
            if order["status"] == "valid" || order["status"] == "processing" {
                order["status"] = "invalid".into();
                order["error"] = json!({"type": "urn:ietf:params:acme:error:caa", "detail": CA_SAYS, "status": 403});
            }
        })
    };
    // In the answer to the CSR, and when the order is looked at later.
    for (label, kind) in [("later", Kind::Order), ("at-once", Kind::Finalize)] {
        let (domain, order) = stack.pending_domain(&format!("{label}.example.com")).await;
        stack.front().always(kind, Fault::change(dead));
        stack.publish_value(&order).await;
        let (_, acme) = fails(&stack, &domain, ProblemCode::CaaForbids).await;
        assert_eq!(acme["detail"], CA_SAYS, "{label}");
        stack.front().heal();
    }
}

#[tokio::test]
async fn ca_order_lost_with_the_memory_of_the_ca() {
    let stack = Stack::builder().start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    stack.kill("pebble");
    stack.restart("pebble").await;
    stack.publish_value(&order).await;
    let (detail, _) = fails(&stack, &domain, ProblemCode::CaOrderLost).await;
    assert!(detail.contains("retry"), "{detail}");
    assert!(!a_retry_leads_to_a_certificate(&stack, &domain, &order).await, "the value of a lost order");
}

#[tokio::test]
async fn rate_limited_holds_everybody_back_without_asking_the_ca() {
    const HELD: &str = "SELECT extract(epoch FROM held_until - now())::int4, held_because FROM acme_accounts";
    let stack = fronted().start().await;
    let names = ["first.example.com", "second.example.com"].map(ToOwned::to_owned);
    let [first, second] = <[Domain; 2]>::try_from(verified_domains(&stack, &names).await).unwrap();
    let limit = Reply::problem(429, "rateLimited", CA_SAYS);
    let by_date = limit.clone().header("retry-after", "Fri, 01 Jan 2027 00:02:00 GMT");
    let forms = [limit.clone().header("retry-after", "120"), by_date.header("date", "Fri, 01 Jan 2027 00:00:00 GMT")];
    for form in forms {
        stack.front().next(1, Kind::NewOrder, Fault::Answer(form));
        is_refused(&stack, &first, ProblemCode::RateLimited, "limits how many certificates").await;
        let (seconds, because): (i32, String) = sqlx::query_as(HELD).fetch_one(stack.pool()).await.unwrap();
        assert!((90..=120).contains(&seconds), "held for {seconds} s");
        assert!(because.contains(CA_SAYS), "{because}");

        let asked = stack.front().arrived(Kind::NewOrder);
        is_refused(&stack, &second, ProblemCode::RateLimited, "limits how many certificates").await;
        assert_eq!(stack.front().arrived(Kind::NewOrder), asked, "the CA was asked in spite of its limit");
        let over = "UPDATE acme_accounts SET held_until = now() - interval '1 second'";
        sqlx::query(over).execute(stack.pool()).await.unwrap();
    }
    // A limit shorter than the caller's patience is waited for.
    stack.front().next(1, Kind::NewOrder, Fault::Answer(limit.header("retry-after", "1")));
    for domain in [&first, &second] {
        let order = stack.api().issue(&domain.id).await;
        publish_alone(&stack, &order).await;
        stack.becomes_active(&domain.id).await;
    }
}

#[tokio::test]
async fn directory_changed_under_an_order() {
    let mut stack = Stack::builder().start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    let elsewhere = stack.ca().directory().replace("127.0.0.1", "localhost");
    stack.restart_with("worker-1", "ACME_DIRECTORY", elsewhere).await;
    let (detail, acme) = fails(&stack, &domain, ProblemCode::DirectoryChanged).await;
    assert!(detail.contains("retry") && acme == Value::Null, "{detail}");
    assert!(!a_retry_leads_to_a_certificate(&stack, &domain, &order).await, "the value of another CA");
}

#[tokio::test]
async fn not_placed_in_time_and_domain_deleted() {
    let stack = Stack::builder().apis(2).setting_of("api-1", "PLACE_WAIT", "1s").not_yet("worker-1").start().await;
    let domain = stack.verified_domain("shop.example.com").await;
    is_refused(&stack, &domain, ProblemCode::NotPlacedInTime, "no worker took it").await;

    stack.restart("worker-1").await;
    stack.api_replica(2).issue(&domain.id).await;
    stack.api().delete(&domain.id).await;
    let (state, problem, event, certificate) = end_of(&stack, &domain.id).await;
    assert_eq!((state.as_str(), certificate.as_str(), &problem), ("cancelled", "cancelled", &event));
    assert_eq!(problem, json!({"code": "domain_deleted", "detail": "the domain was deleted"}));
}

#[tokio::test]
async fn internal_parks_the_job_and_the_fleet_goes_on() {
    let stack = Stack::builder().setting("MAX_ATTEMPTS", "2").start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    lose_key(&stack, &order).await;
    stack.active_domain("other.example.com").await;
    let (detail, acme) = fails(&stack, &domain, ProblemCode::Internal).await;
    assert!(detail.contains("operator") && acme == Value::Null, "{detail}");
    let parked = "(SELECT j.attempts >= 2 AND j.leased_by IS NULL AND j.last_result ? 'parked'
                   FROM jobs j WHERE j.order_id = o.id AND j.parked_at IS NOT NULL)";
    assert!(order_is(&stack, &order.order_id, parked).await, "no operator can find it");
    let log = stack.log("worker-1");
    // The other tests look for these and must not find them.
    for written in ["parked for a person", r#""counted":true"#, r#""job.attempt":0,"#, r#""job.attempt":1,"#] {
        assert!(log.contains(written), "{written} is not in the log");
    }
    stack.active_domain("another.example.com").await;

    stack.api().delete(&domain.id).await;
    is_cleaned_up(&stack, &domain.id).await;
}

#[tokio::test]
async fn what_the_last_look_up_saw_stays_shown_while_the_ca_is_away() {
    let stack = fronted().start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    let last_check = async || stack.api().fetch(&domain.id).await.more["last_check"].clone();
    let looked = async || (!last_check().await.is_null()).then_some(());
    stack.wait_until("a look-up is shown", SOON, looked).await;
    stack.front().always(Kind::Challenge, Fault::html(503));
    stack.publish_value(&order).await;
    arrives(&stack, Kind::Challenge, 2).await;
    let shown = last_check().await;
    stack.front().heal();
    stack.becomes_active(&domain.id).await;
    assert_ne!(shown, Value::Null, "null means that nobody has looked yet");
}
