//! The operators' listener: routes, pages, refusals, its token, and that the public listener knows nothing of it.

use std::time::{Duration, Instant};

use countersign_tests::api_client::{Answer, ApiClient};
use countersign_tests::stack::ports;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::{domain, everything, job, order, sql};
use crate::answers::{Connection, SECURITY_HEADERS, exchange};
use crate::databases::{connect, migrated};
use crate::schema::{Programs, service};

const TOKEN: &str = "the-operators-own-token";
const UNKNOWN: &str = "0123456789abcdef0123456789abcdef";

/// An API without a worker, as operators and as customers reach it.
pub(super) struct Listener {
    pub(super) operators: ApiClient,
    customers: ApiClient,
    programs: Programs,
}

impl Listener {
    pub(super) async fn of_an_api(url: &str, more: &[(&'static str, &str)]) -> Self {
        let programs = Programs::new();
        let (mut settings, ready) = service(url);
        settings.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        programs.start("api", "countersign-api", &[], &settings);
        programs.serves("api", &ready).await;
        let public = &settings.iter().find(|(name, _)| *name == "SERVER_ADDR").unwrap().1;
        Self {
            operators: ApiClient::new(ready.trim_end_matches("/readyz"), None).unwrap(),
            customers: ApiClient::new(&format!("http://{public}"), None).unwrap(),
            programs,
        }
    }

    pub(super) async fn answer(&self, method: Method, path: &str) -> Answer {
        self.operators.send(self.operators.request(method, path)).await.unwrap()
    }

    async fn retry_jobs(&self, body: &Value) -> Answer {
        self.operators.send(self.operators.request(Method::POST, "/jobs/retry").json(body)).await.unwrap()
    }
}

#[tokio::test]
async fn pages_lead_to_every_order_and_every_job_once() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    for number in 1..=5 {
        let domain = domain(&mut conn, &format!("shop-{number}.example.com"), "certificate_pending").await;
        let order = order(&mut conn, domain, "presented", None).await;
        job(&mut conn, &order, "due_at", "now() + interval '1 hour'").await;
    }
    let listener = Listener::of_an_api(&url, &[]).await;
    let in_order = [
        ("orders", "before", "SELECT public_id FROM orders ORDER BY id DESC"),
        ("jobs", "after", "SELECT id::text FROM jobs WHERE order_id IS NOT NULL ORDER BY id"),
    ];
    for (what, cursor, query) in in_order {
        let all: Vec<String> = sqlx::query_scalar(query).fetch_all(&mut conn).await.unwrap();
        for limit in [1, 2, 4, 5, 6] {
            let (mut seen, mut next, mut pages) = (Vec::new(), String::new(), 0);
            loop {
                let kind = if what == "jobs" { "&kind=poll-challenge" } else { "" };
                let page =
                    listener.answer(Method::GET, &format!("/{what}?limit={limit}{kind}{next}")).await.expect(200);
                pages += 1;
                let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
                seen.extend(page[what].as_array().unwrap().iter().map(|line| text(&line["id"])));
                match &page[format!("next_{cursor}")] {
                    Value::Null => break,
                    value => next = format!("&{cursor}={}", text(value)),
                }
            }
            assert_eq!((&seen, pages), (&all, all.len().div_ceil(limit)), "{what} by {limit}");
        }
    }
    let pages = async |after: i64| {
        let body = json!({"filter": {"kind": "poll-challenge", "limit": 2, "after": after}});
        let page = listener.retry_jobs(&body).await.expect(200);
        (page["job_ids"].as_array().unwrap().len(), page["next_after"].as_i64())
    };
    let (first, next) = pages(0).await;
    let (second, next) = pages(next.unwrap()).await;
    assert_eq!((first, second, pages(next.unwrap()).await), (2, 2, (1, None)));
    assert_eq!(sql(&mut conn, "SELECT FROM jobs WHERE due_at > now()").await, 0);
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_status_and_changes_nothing() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    let active = domain(&mut conn, "active.example.com", "active").await;
    let issued = order(&mut conn, active, "issued", None).await;
    let listener = Listener::of_an_api(&url, &[]).await;
    let before = everything(&url).await;
    let post = |path: &'static str, body: &str| {
        let request = listener.operators.request(Method::POST, path).header(CONTENT_TYPE, "application/json");
        listener.operators.send(request.body(body.to_owned()))
    };
    let get = |path: &str| listener.operators.send(listener.operators.request(Method::GET, path));
    let retry = |id: &str| {
        let path = format!("/orders/{id}/retry");
        listener.operators.send(listener.operators.request(Method::POST, &path))
    };
    let large = format!(r#"{{"filter": {{"kind": "{}"}}}}"#, "x".repeat(65 * 1024));
    for (answer, status, told) in [
        (get("/orders?state=stuck").await, 400, "accepted, placed, presented, confirmed"),
        (get("/orders?code=oops").await, 400, "record_not_seen, dns_lookup_failed"),
        (get("/orders?since=yesterday").await, 400, "since"),
        (get("/orders?limit=0").await, 400, "between 1 and 1000"),
        (get("/orders?limit=1001").await, 400, "between 1 and 1000"),
        (get("/orders?parked=perhaps").await, 400, "parked"),
        (get("/orders?colour=red").await, 400, "colour"),
        (get("/jobs?state=failed").await, 400, "due, waiting, leased, lost, parked"),
        (get("/jobs?lane=x").await, 400, "lane"),
        (get("/jobs?after=x").await, 400, "after"),
        (post("/jobs/retry", r#"{"filter": {"state": "stuck"}}"#).await, 400, "due, waiting, leased, lost, parked"),
        (post("/jobs/retry", r#"{"filter": {}}"#).await, 400, "must have a condition"),
        (post("/jobs/retry", r#"{"filter": {"limit": 5}}"#).await, 400, "must have a condition"),
        (post("/jobs/retry", r#"{"filter": {"colour": 1}}"#).await, 400, "colour"),
        (post("/jobs/retry", "{}").await, 400, "filter"),
        (post("/jobs/retry", r#"{"filter": {"kind": "sweep"}, "dryrun": true}"#).await, 400, "dryrun"),
        (post("/jobs/retry", "[]").await, 400, "JSON object"),
        (post("/jobs/retry", "").await, 400, "JSON object"),
        (post("/jobs/retry", &large).await, 413, "64 KiB"),
        (get(&format!("/orders/{UNKNOWN}")).await, 404, "order not found"),
        (get("/orders/not-an-id").await, 404, "order not found"),
        (retry(UNKNOWN).await, 404, "order not found"),
        (retry("not-an-id").await, 404, "order not found"),
        (post("/jobs/4711/retry", "").await, 404, "job not found"),
        (post("/jobs/x/retry", "").await, 404, "job not found"),
        (retry(&issued).await, 409, "it is issued"),
        (get("/orders/retry/x/y").await, 404, "no such route"),
        (get("/domains").await, 404, "no such route"),
        (get("/docs").await, 404, "no such route"),
        (get("/jobs/retry").await, 405, "not allowed"),
        (get(&format!("/orders/{issued}/retry")).await, 405, "not allowed"),
        (post("/orders", "{}").await, 405, "not allowed"),
    ] {
        let answer = answer.unwrap();
        let error = answer.error().unwrap_or_default().to_owned();
        assert!(answer.status == status && error.contains(told), "{status} {told}: {answer:?}");
        assert!(answer.headers.contains_key("x-request-id"), "{answer:?}");
    }
    assert_eq!(everything(&url).await, before);
}

#[tokio::test]
async fn orders_and_jobs_are_retried_one_by_one_and_by_filter() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    let mut ids = Vec::new();
    for (label, status, state, code) in [
        ("failed", "failed", "failed", Some("ca_account")),
        ("open", "certificate_pending", "presented", None),
        ("parked", "failed", "failed", Some("internal")),
    ] {
        let domain = domain(&mut conn, &format!("{label}.example.com"), status).await;
        ids.push(order(&mut conn, domain, state, code).await);
    }
    let later = "now() + interval '1 hour', 5";
    let open = job(&mut conn, &ids[1], "due_at, attempts", later).await;
    sql(&mut conn, &format!("UPDATE orders SET cleaned_up_at = NULL WHERE public_id = '{}'", ids[2])).await;
    let parked = job(&mut conn, &ids[2], "parked_at", "now()").await;
    let listener = Listener::of_an_api(&url, &[]).await;
    let state = async |id: i64| -> Value {
        let jobs = listener.answer(Method::GET, &format!("/jobs?after={}&limit=1", id - 1)).await.expect(200);
        json!([jobs["jobs"][0]["state"], jobs["jobs"][0]["attempts"]])
    };

    let filter = json!({"filter": {"state": "waiting,parked", "kind": "poll-challenge"}, "dry_run": true});
    let before = everything(&url).await;
    let dry = listener.retry_jobs(&filter).await.expect(200);
    assert_eq!(dry, json!({"dry_run": true, "job_ids": [open, parked], "next_after": null}));
    assert_eq!(everything(&url).await, before);
    let mut done = filter.clone();
    done["dry_run"] = json!(false);
    let done = listener.retry_jobs(&done).await.expect(200);
    assert_eq!(done, json!({"dry_run": false, "job_ids": [open, parked], "next_after": null}));
    assert_eq!((state(open).await, state(parked).await), (json!(["due", 0]), json!(["due", 0])));
    let none = listener.retry_jobs(&filter).await.expect(200);
    assert_eq!(none["job_ids"], json!([]));

    sql(
        &mut conn,
        &format!("UPDATE jobs SET due_at = {later_at} WHERE id = {open}", later_at = "now() + interval '1 hour'"),
    )
    .await;
    let retried = listener.answer(Method::POST, &format!("/jobs/{open}/retry")).await.expect(202);
    assert_eq!(retried, json!({"id": open, "result": "due"}));
    assert_eq!(state(open).await, json!(["due", 0]));
    let retried = listener.answer(Method::POST, &format!("/orders/{}/retry", ids[1])).await.expect(202);
    assert_eq!(retried, json!({"id": ids[1], "result": "due"}));

    for id in [&ids[0], &ids[2]] {
        let retried = listener.answer(Method::POST, &format!("/orders/{id}/retry")).await.expect(202);
        assert_eq!((&retried["id"], &retried["result"]), (&json!(id), &json!("new_order")));
        let new = retried["new_order_id"].as_str().unwrap();
        let shown = listener.answer(Method::GET, &format!("/orders/{new}")).await.expect(200);
        assert_eq!((&shown["retry_of"], &shown["state"]), (&json!(id), &json!("accepted")));
        assert_eq!(shown["job"]["lane"], 1, "before those who wait for an answer");
    }
    let newest = listener.answer(Method::GET, "/orders?domain=failed.example.com").await.expect(200);
    let newest = newest["orders"][0]["id"].as_str().unwrap();
    let again = listener.answer(Method::POST, &format!("/orders/{}/retry", ids[0])).await;
    assert!(again.status == 409 && again.error().unwrap().contains(newest), "{again:?}");
    // Nobody has cleaned up after this one yet.
    let again = listener.answer(Method::POST, &format!("/orders/{}/retry", ids[2])).await.expect(202);
    assert_eq!((&again["id"], &again["result"]), (&json!(ids[2]), &json!("clean_up")));
    assert!(again["reason"].as_str().unwrap().contains("newer"), "{again}");
}

#[tokio::test]
async fn customers_reach_none_of_it() {
    let url = migrated().await;
    let listener = Listener::of_an_api(&url, &[]).await;
    for (method, path) in [
        (Method::GET, "/orders".to_owned()),
        (Method::GET, format!("/orders/{UNKNOWN}")),
        (Method::POST, format!("/orders/{UNKNOWN}/retry")),
        (Method::GET, "/jobs".to_owned()),
        (Method::POST, "/jobs/1/retry".to_owned()),
        (Method::POST, "/jobs/retry".to_owned()),
        (Method::GET, "/healthz".to_owned()),
        (Method::GET, "/readyz".to_owned()),
    ] {
        let answer = listener.customers.send(listener.customers.request(method, &path)).await.unwrap();
        assert_eq!((answer.status, answer.error()), (404, Some("no such route")), "{path}");
    }
}

#[tokio::test]
async fn a_listener_that_others_can_reach_needs_a_token() {
    let url = migrated().await;
    let programs = Programs::new();
    for (number, host) in ["0.0.0.0", "", "[::]"].into_iter().enumerate() {
        for binary in ["countersign-api", "countersign-worker"] {
            let name = format!("{binary}-{number}");
            let (mut settings, _) = service(&url);
            settings
                .extend([("ADMIN_ADDR", format!("{host}:{}", ports::free().unwrap())), ("ADMIN_TOKEN", String::new())]);
            programs.start(&name, binary, &[], &settings);
            let (status, said) = programs.ended(&name).await;
            assert_eq!(status.code(), Some(1), "{said}");
            assert!(said.contains("ADMIN_TOKEN must be set") && said.contains(host), "{said}");
        }
    }
}

#[tokio::test]
async fn once_there_is_a_token_everything_but_health_asks_for_it() {
    let url = migrated().await;
    let port = ports::free().unwrap();
    for address in [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}")] {
        let mut listener = Listener::of_an_api(&url, &[("ADMIN_TOKEN", TOKEN)]).await;
        if address.starts_with('0') {
            let programs = Programs::new();
            let (mut settings, _) = service(&url);
            settings.extend([("ADMIN_ADDR", address.clone()), ("ADMIN_TOKEN_FILE", programs.file("token", TOKEN))]);
            programs.start("api", "countersign-api", &[], &settings);
            programs.serves("api", &format!("http://127.0.0.1:{port}/readyz")).await;
            listener.operators = ApiClient::new(&format!("http://127.0.0.1:{port}"), None).unwrap();
            listener.programs = programs;
        }
        let routes = [
            (Method::GET, "/orders".to_owned(), 200),
            (Method::GET, format!("/orders/{UNKNOWN}"), 404),
            (Method::POST, format!("/orders/{UNKNOWN}/retry"), 404),
            (Method::GET, "/jobs".to_owned(), 200),
            (Method::POST, "/jobs/4711/retry".to_owned(), 404),
            (Method::POST, "/jobs/retry".to_owned(), 400),
        ];
        for (method, path, status) in routes {
            for (token, expected) in [(None, 401), (Some("wrong"), 401), (Some(""), 401), (Some(TOKEN), status)] {
                let client = listener.operators.with_token(token);
                let answer = client.send(client.request(method.clone(), &path)).await.unwrap();
                assert_eq!(answer.status, expected, "{path} with {token:?}: {answer:?}");
            }
        }
        for path in ["/healthz", "/readyz", "/metrics"] {
            listener.answer(Method::GET, path).await.expect(200);
        }
        assert!(!listener.programs.output("api").contains(TOKEN), "the token is logged");
    }
    // The workers' listener has nothing to guard yet, and must come up all the same.
    let programs = Programs::new();
    let (mut settings, _) = service(&url);
    let admin = format!("0.0.0.0:{}", ports::free().unwrap());
    settings.extend([("ADMIN_ADDR", admin.clone()), ("ADMIN_TOKEN", TOKEN.to_owned())]);
    programs.start("worker", "countersign-worker", &[], &settings);
    let worker = format!("http://{}", admin.replace("0.0.0.0", "127.0.0.1"));
    programs.serves("worker", &format!("{worker}/readyz")).await;
    let worker = ApiClient::new(&worker, None).unwrap();
    for (path, status) in [("/healthz", 200), ("/metrics", 200), ("/orders", 404)] {
        assert_eq!(worker.send(worker.request(Method::GET, path)).await.unwrap().status, status, "{path}");
    }
}

#[tokio::test]
async fn every_listener_has_the_security_headers_and_limits_for_its_clients() {
    let url = migrated().await;
    let programs = Programs::new();
    for binary in ["countersign-api", "countersign-worker", "countersign-dns"] {
        let (mut settings, ready) = service(&url);
        settings.push(("CHALLENGE_ZONE", "acme.example.net".to_owned()));
        settings.push(("DNS_ADDR", format!("127.0.0.1:{}", ports::free().unwrap())));
        programs.start(binary, binary, &[], &settings);
        programs.serves(binary, &ready).await;
        let listener = ready.trim_end_matches("/readyz");
        let mut silent = Connection::open(listener);
        let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n");
        for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/nowhere", 404)] {
            let answer = exchange(listener, get(path, "")).unwrap();
            assert_eq!(answer.status, status, "{path} of {binary}");
            for (name, value) in SECURITY_HEADERS {
                assert_eq!(answer.headers.get(name).unwrap(), value, "{name} of {path} of {binary}");
            }
        }
        let long = format!("X-Long: {}\r\n", "x".repeat(33 << 10));
        assert_eq!(exchange(listener, get("/healthz", &long)).unwrap().status, 431, "{binary}");
        let many: String = (0..101).map(|number| format!("X-{number}: x\r\n")).collect();
        assert_eq!(exchange(listener, get("/healthz", &many)).unwrap().status, 431, "{binary}");
        let began = Instant::now();
        let ended = tokio::task::spawn_blocking(move || silent.answer().is_none()).await.unwrap();
        assert!(ended && began.elapsed() < Duration::from_secs(20), "{binary} waits for who says nothing");
    }
}
