//! Requests that are wrong in every way we could think of: each gets its documented status and a reason, and changes nothing.

mod bodies;
mod names;
mod targets;

use countersign_tests::stack::Stack;
use serde_json::json;
use sqlx::PgPool;

use crate::answers::{Connection, check, exchange, refused};
use bodies::bodies;
use names::names;
use targets::targets;

/// A request as its bytes, the status it gets, and what the reason must mention.
struct Bad {
    request: Vec<u8>,
    status: u16,
    because: &'static str,
}

fn bad(request: Vec<u8>, status: u16, because: &'static str) -> Bad {
    Bad { request, status, because }
}

fn request(method_and_target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("{method_and_target} HTTP/1.1\r\nHost: api\r\n{headers}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn post(body: impl AsRef<[u8]>) -> Vec<u8> {
    request("POST /domains", "Content-Type: application/json\r\n", body.as_ref())
}

fn with_headers(headers: &str) -> Vec<u8> {
    request("POST /domains", headers, br#"{"domain_name": "a.example.com"}"#)
}

fn name(name: &str) -> Vec<u8> {
    post(json!({"domain_name": name}).to_string())
}

/// Everything that is stored for domains, as one text.
async fn stored(pool: &PgPool) -> String {
    let all = "SELECT concat_ws(' ', (SELECT count(*) FROM domains), (SELECT count(*) FROM orders), (SELECT count(*) FROM jobs),
                      (SELECT md5(string_agg(d::text, '|' ORDER BY id)) FROM domains d))";
    sqlx::query_scalar(all).fetch_one(pool).await.unwrap()
}

fn shown(request: &[u8]) -> String {
    format!("{:.300}", request.escape_ascii().to_string())
}

#[tokio::test]
async fn every_bad_request_gets_its_status_and_a_reason_and_changes_nothing() {
    let stack = Stack::builder().workers(0).setting("ALLOW_SPECIAL_USE_NAMES", "false").start().await;
    let api = stack.api();
    let known = stack.verified_domain("known.example.com").await;
    let before = stored(stack.pool()).await;

    let table: Vec<Bad> = [bodies(), names(), targets(&known.id)].into_iter().flatten().collect();
    let mut wrong = Vec::new();
    for Bad { request, status, because } in &table {
        let Some(answer) = exchange(api.url(), request).filter(|answer| !answer.body.is_null()) else {
            wrong.push(format!("no answer of ours to {}", shown(request)));
            continue;
        };
        check(answer.status, &answer.headers, &answer.body);
        if answer.status != *status || !answer.error().is_some_and(|error| error.contains(because)) {
            wrong.push(format!("{} {}, not {status} {because}: {}", answer.status, answer.body, shown(request)));
        }
        let after = stored(stack.pool()).await;
        if after != before {
            wrong.push(format!("something was stored: {}", shown(request)));
            break;
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), table.len(), wrong.join("\n"));
    println!("{} bad requests", table.len());

    // Hardly different from some of the above, and good.
    let name_237 = format!("{}.com", &"abcdefg.".repeat(30)[..233]);
    for good in [
        "github.io",
        "shop.github.io",
        "a.co.uk",
        "xn--bcher-kva.example.com",
        "EXAMPLE.com.",
        "1.2.3.example.com",
        "0x7f.example.com",
        "a-b--c.example.com",
        "test.example.com",
        "mytest.com",
        &format!("{}.com", "a".repeat(63)),
        &name_237,
    ] {
        assert_eq!(exchange(api.url(), name(good)).unwrap().expect(201)["domain_name"], good);
    }
    api.delete(&known.id).await;
}

/// What hyper refuses before there is a request: a status without a body and without our headers, or no answer at all.
#[tokio::test]
async fn what_is_no_http_request_is_refused_below_us_and_the_api_goes_on() {
    let stack = Stack::builder().workers(0).start().await;
    let url = stack.api().url();
    let before = stored(stack.pool()).await;
    let header = |header: &str| format!("GET /domains HTTP/1.1\r\nHost: api\r\n{header}\r\n\r\n");
    let post = |headers: &str| {
        format!("POST /domains HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n{headers}\r\n\r\n{{}}")
    };
    let many: String = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect();
    let table: Vec<(String, u16)> = vec![
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\r\n\r\n".to_owned(), 400),
        ("garbage\r\n\r\n".to_owned(), 400),
        ("GET /domains\r\n\r\n".to_owned(), 400),
        ("GET /domains HTTP/3.0\r\n\r\n".to_owned(), 400),
        ("GET  /domains HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("G\u{0}T /domains HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /domains?x=\u{0} HTTP/1.1\r\nHost: api\r\n\r\n".to_owned(), 400),
        ("GET /domains?x=\u{1} HTTP/1.1\r\nHost: api\r\n\r\n".to_owned(), 400),
        ("GET /domains?x=\u{7f} HTTP/1.1\r\nHost: api\r\n\r\n".to_owned(), 400),
        ("GET /domains?x=\t HTTP/1.1\r\nHost: api\r\n\r\n".to_owned(), 400),
        ("GET ?x=/domains HTTP/1.1\r\nHost: api\r\n\r\n".to_owned(), 400),
        ("GET /domains/a b HTTP/1.1\r\nHost: api\r\n\r\n".to_owned(), 400),
        (header("X-Test: a\u{0}b"), 400),
        (header("X-Test: a\u{1}b"), 400),
        (header("X Test: a"), 400),
        (header(": a"), 400),
        (header("no colon"), 400),
        (header("X-Test: a\r\n folded"), 400),
        (post("Content-Length: -1"), 400),
        (post("Content-Length: x"), 400),
        (post("Content-Length: 99999999999999999999999"), 400),
        (post("Content-Length: 2\r\nContent-Length: 3"), 400),
        (post("Transfer-Encoding: gzip"), 400),
        (header(many.trim_end()), 431),
        (header(&format!("X-Long: {}", "a".repeat(33 * 1024))), 431),
        (format!("GET /{} HTTP/1.1\r\nHost: api\r\n\r\n", "x".repeat(33 * 1024)), 431),
        (format!("GET /{}", "x".repeat(40_000)), 431),
    ];
    let mut wrong = Vec::new();
    for (request, status) in &table {
        let mut connection = Connection::open(url);
        connection.send(request);
        match connection.answer() {
            Some(answer) if answer.status == *status && answer.body.is_null() => {
                assert!(connection.answer().is_none(), "the connection goes on after {}", shown(request.as_bytes()));
            }
            answer => wrong.push(format!("{answer:?}, not {status}: {}", shown(request.as_bytes()))),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), table.len(), wrong.join("\n"));

    assert!(exchange(url, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").is_none(), "HTTP/2 is not spoken here");

    assert_eq!(stored(stack.pool()).await, before);
    assert_eq!(refused(stack.api().try_fetch("x").await.unwrap(), 404), "domain not found");
    assert!(!stack.log("api-1").contains("panicked"));
}
