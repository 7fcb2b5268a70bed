//! Requests that are wrong in every way we could think of: each gets its documented status and a reason, and changes nothing.

use countersign_tests::stack::Stack;
use serde_json::json;
use sqlx::PgPool;

use crate::answers::{Connection, check, exchange, refused};

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

const NOT_AN_OBJECT: &str = "must be a JSON object";
const MALFORMED: &str = "malformed JSON, at line";
const WRONG_FIELD: &str = "a field is missing, doubled or of the wrong type, at line";

fn bodies() -> Vec<Bad> {
    let deep = |open: &str, close: &str, depth: usize| {
        format!(r#"{{"domain_name": "a.example.com", "x": {}1{}}}"#, open.repeat(depth), close.repeat(depth))
    };
    let texts: &[(&str, &str)] = &[
        // No object at all.
        ("", NOT_AN_OBJECT),
        (" \n\t ", NOT_AN_OBJECT),
        ("null", NOT_AN_OBJECT),
        ("true", NOT_AN_OBJECT),
        ("0", NOT_AN_OBJECT),
        ("\"a.example.com\"", NOT_AN_OBJECT),
        ("[]", NOT_AN_OBJECT),
        (r#"["a.example.com"]"#, NOT_AN_OBJECT),
        (r#"[{"domain_name": "a.example.com"}]"#, NOT_AN_OBJECT),
        ("<domain_name>a.example.com</domain_name>", NOT_AN_OBJECT),
        ("domain_name: a.example.com", NOT_AN_OBJECT),
        ("\u{feff}{\"domain_name\": \"a.example.com\"}", NOT_AN_OBJECT),
        ("\u{0}{\"domain_name\": \"a.example.com\"}", NOT_AN_OBJECT),
        ("// a comment\n{\"domain_name\": \"a.example.com\"}", NOT_AN_OBJECT),
        // Broken off.
        ("{", MALFORMED),
        (r#"{""#, MALFORMED),
        (r#"{"domain_name""#, MALFORMED),
        (r#"{"domain_name":"#, MALFORMED),
        (r#"{"domain_name":"a.example.com"#, MALFORMED),
        (r#"{"domain_name":"a.example.com""#, MALFORMED),
        (r#"{"domain_name":"a.example.com","#, MALFORMED),
        (r#"{"domain_name":"a.example.com\"#, MALFORMED),
        (r#"{"domain_name":"a.example.com\u00"#, MALFORMED),
        // Nearly JSON.
        (r#"{"domain_name":"a.example.com",}"#, MALFORMED),
        (r#"{domain_name:"a.example.com"}"#, MALFORMED),
        (r#"{'domain_name':'a.example.com'}"#, MALFORMED),
        (r#"{"domain_name" "a.example.com"}"#, MALFORMED),
        (r#"{"domain_name":"a.example.com"}}"#, MALFORMED),
        (r#"{"domain_name":"a.example.com"}null"#, MALFORMED),
        (r#"{"domain_name":"a.example.com"}{"domain_name":"b.example.com"}"#, MALFORMED),
        ("{\"domain_name\":\"a.example.com\"}\u{0}", MALFORMED),
        ("{\"domain_name\":\"a\nb.example.com\"}", MALFORMED),
        ("{\"domain_name\":\"a\u{0}b.example.com\"}", MALFORMED),
        (r#"{"domain_name":"\x61.example.com"}"#, MALFORMED),
        (r#"{"domain_name":"\ud800.example.com"}"#, MALFORMED),
        (r#"{"domain_name":"\udc00\ud800.example.com"}"#, MALFORMED),
        (r#"{"domain_name":"a.example.com","x":NaN}"#, MALFORMED),
        (r#"{"domain_name":"a.example.com","x":01}"#, MALFORMED),
        (r#"{"domain_name":"a.example.com","x":1e999}"#, MALFORMED),
        (r#"{"domain_name":"a.example.com","x":nul}"#, MALFORMED),
        // Of the wrong type, missing, or there twice.
        ("{}", WRONG_FIELD),
        (r#"{"Domain_Name":"a.example.com"}"#, WRONG_FIELD),
        (r#"{"domain":"a.example.com"}"#, WRONG_FIELD),
        (r#"{"domain_name ":"a.example.com"}"#, WRONG_FIELD),
        (r#"{"x":{"domain_name":"a.example.com"}}"#, WRONG_FIELD),
        (r#"{"domain_name":null}"#, WRONG_FIELD),
        (r#"{"domain_name":false}"#, WRONG_FIELD),
        (r#"{"domain_name":1}"#, WRONG_FIELD),
        (r#"{"domain_name":-1.5e3}"#, WRONG_FIELD),
        (r#"{"domain_name":[]}"#, WRONG_FIELD),
        (r#"{"domain_name":["a.example.com"]}"#, WRONG_FIELD),
        (r#"{"domain_name":{}}"#, WRONG_FIELD),
        (r#"{"domain_name":{"name":"a.example.com"}}"#, WRONG_FIELD),
        (r#"{"domain_name":"a.example.com","domain_name":"a.example.com"}"#, WRONG_FIELD),
        (r#"{"domain_name":"a.example.com","domain\u005fname":"b.example.com"}"#, WRONG_FIELD),
        (r#"{"domain_name":"a.example.com","x":1,"x":1}"#, WRONG_FIELD),
        (r#"{"domain_name":"a.example.com","x":1,"\u0078":2}"#, WRONG_FIELD),
        (r#"{"domain_name":"a.example.com","x":{"y":1,"y":2}}"#, WRONG_FIELD),
        (r#"{"domain_name":"a.example.com","x":[[{"y":1,"y":2}]]}"#, WRONG_FIELD),
        (r#"{"domain_name":"a.example.com","":1,"":2}"#, WRONG_FIELD),
    ];
    let mut bodies: Vec<Bad> = texts.iter().map(|(body, because)| bad(post(body), 400, because)).collect();
    bodies.extend([
        bad(post("[".repeat(60_000)), 400, NOT_AN_OBJECT),
        bad(post("[".repeat(100_000)), 413, "larger than 64 KiB"),
        bad(post("{\"domain_name\":".repeat(4_000)), 400, MALFORMED),
        bad(post(deep("[", "]", 30_000)), 400, MALFORMED),
        bad(post(deep("[", "]", 200)), 400, MALFORMED),
        bad(post(deep("{\"y\":", "}", 200)), 400, MALFORMED),
        bad(post(b"{\"domain_name\":\"\xff.example.com\"}"), 400, MALFORMED),
        bad(post(b"{\"domain_name\":\"\xc0\xaf.example.com\"}"), 400, MALFORMED),
        bad(post(b"{\"domain_name\":\"\xed\xa0\x80.example.com\"}"), 400, MALFORMED),
        bad(post(b"{\"domain_name\":\"a.example.com\",\"\xff\":1}"), 400, MALFORMED),
        bad(post(b"\xff\xfe{\0\"\0"), 400, NOT_AN_OBJECT),
        bad(post([0x1f, 0x8b, 8, 0]), 400, NOT_AN_OBJECT),
    ]);
    for content_type in [
        "",
        "Content-Type:\r\n",
        "Content-Type: text/plain\r\n",
        "Content-Type: text/json\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/jsonp\r\n",
        "Content-Type: application/json+x\r\n",
        "Content-Type: application/problem+json\r\n",
        "Content-Type: json\r\n",
        "Content-Type: \"application/json\"\r\n",
        "Content-Type: ; application/json\r\n",
        "Content-Type: text/plain, application/json\r\n",
        "Content-Type: application/json\u{e9}\r\n",
        "Accept: application/json\r\n",
    ] {
        bodies.push(bad(with_headers(content_type), 400, "Content-Type"));
    }
    let chunked = |chunks: &[u8]| {
        let head = "POST /domains HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        [head.as_bytes(), chunks].concat()
    };
    bodies.extend([
        bad(chunked(b"zz\r\n{}\r\n0\r\n\r\n"), 400, "could not be read"),
        bad(chunked(b"2\r\n{}xx0\r\n\r\n"), 400, "could not be read"),
        bad(chunked(b"fffffffffffffffff\r\n{}"), 400, "could not be read"),
        bad(chunked(b"0\r\n\r\n"), 400, NOT_AN_OBJECT),
    ]);
    bodies
}

const EMPTY_LABEL: &str = "empty label";
const IP: &str = "IP address";
const LETTERS: &str = "letters, digits and hyphens";
const NUMERIC: &str = "numeric label";
const SUFFIX: &str = "public suffix";
const TOO_LONG: &str = "at most 237 octets";
const UNICODE: &str = "internationalised";
const WILDCARD: &str = "wildcard";

fn names() -> Vec<Bad> {
    let refused: &[(&str, &str)] = &[
        ("", "empty"),
        (".", "empty"),
        ("..", EMPTY_LABEL),
        ("...", EMPTY_LABEL),
        ("a..example.com", EMPTY_LABEL),
        (".a.example.com", EMPTY_LABEL),
        ("a.example.com..", EMPTY_LABEL),
        ("a。。example.com", UNICODE),
        ("192.0.2.1", IP),
        ("192.0.2.1.", IP),
        ("0.0.0.0", IP),
        ("::", IP),
        ("::1", IP),
        ("2001:db8::1", IP),
        ("::ffff:192.0.2.1", IP),
        ("[::1]", IP),
        ("[::1]:443", IP),
        ("[a.example.com]", IP),
        ("fe80::1%eth0", LETTERS),
        ("192.0.2.256", NUMERIC),
        ("192.0.2", NUMERIC),
        ("192.0.2.1.5", NUMERIC),
        ("0300.0250.01", NUMERIC),
        ("a.example.0", NUMERIC),
        ("１９２.0.2.1", NUMERIC),
        ("*", WILDCARD),
        ("*.", WILDCARD),
        ("*.com", WILDCARD),
        ("*.example.com", WILDCARD),
        ("*.*.example.com", WILDCARD),
        ("a.*.example.com", WILDCARD),
        ("a.example.*", WILDCARD),
        ("*a.example.com", LETTERS),
        ("**.example.com", LETTERS),
        ("＊.example.com", UNICODE),
        ("com", "two labels"),
        ("com.", "two labels"),
        ("localhost", "two labels"),
        ("a", "two labels"),
        ("münchen", "two labels"),
        ("co.uk", SUFFIX),
        ("CO.UK.", SUFFIX),
        ("com.au", SUFFIX),
        ("公司.cn", SUFFIX),
        ("xn--55qx5d.cn", SUFFIX),
        // A wildcard rule of the list: every name below it is a suffix.
        ("anything.ck", SUFFIX),
        ("-a.example.com", LETTERS),
        ("a-.example.com", LETTERS),
        ("-.example.com", LETTERS),
        ("a.-example.com", LETTERS),
        ("a.example.com-", LETTERS),
        ("-bücher.example.com", UNICODE),
        ("a_b.example.com", LETTERS),
        ("_acme-challenge.example.com", LETTERS),
        ("_.example.com", LETTERS),
        ("ü_b.example.com", UNICODE),
        ("a b.example.com", LETTERS),
        (" a.example.com", LETTERS),
        ("a.example.com ", LETTERS),
        ("a.example.com. ", LETTERS),
        ("a\t.example.com", LETTERS),
        ("a\u{a0}b.example.com", UNICODE),
        ("a\u{3000}b.example.com", UNICODE),
        ("a\u{0}.example.com", LETTERS),
        ("\u{0}", LETTERS),
        ("a.example.com\u{0}", LETTERS),
        ("ü\u{0}.example.com", UNICODE),
        ("a\n.example.com", LETTERS),
        ("a.example.com\r\nX-Injected: 1", LETTERS),
        ("a\u{7f}.example.com", LETTERS),
        ("a\u{85}.example.com", UNICODE),
        ("a\u{1b}[31m.example.com", LETTERS),
        ("https://a.example.com", LETTERS),
        ("a.example.com/", LETTERS),
        ("a.example.com:443", LETTERS),
        ("a.example.com?x=1", LETTERS),
        ("a.example.com#x", LETTERS),
        ("me@a.example.com", LETTERS),
        ("a%2eexample.com", LETTERS),
        ("a\\.example.com", LETTERS),
        ("'; DROP TABLE domains; --.example.com", LETTERS),
        ("${jndi:ldap://a.example.com}", LETTERS),
        ("../../etc/passwd", EMPTY_LABEL),
        // What UTS 46 refuses: symbols, marks without a base, marks that hide, directions mixed, joiners out of place.
        ("a\u{2488}.example.com", UNICODE),
        ("\u{301}a.example.com", UNICODE),
        ("a\u{202e}b.example.com", UNICODE),
        ("אa.example.com", UNICODE),
        ("1א.example.com", UNICODE),
        ("a\u{200d}b.example.com", UNICODE),
        ("a\u{200c}b.example.com", UNICODE),
        ("a\u{fffd}b.example.com", UNICODE),
        ("a\u{e000}b.example.com", UNICODE),
        ("a\u{378}b.example.com", UNICODE),
        ("a\u{2028}b.example.com", UNICODE),
        ("a\u{fdd0}b.example.com", UNICODE),
        ("a／b.example.com", UNICODE),
        ("a：443.example.com", UNICODE),
        // A-labels that are none: nothing behind the prefix, no punycode, ASCII in disguise, and what they hold not in normal form.
        ("xn--", UNICODE),
        ("xn--.example.com", UNICODE),
        ("xn---.example.com", UNICODE),
        ("XN--.example.com", UNICODE),
        ("xn--a.example.com", UNICODE),
        ("xn--zzzzzzzzz.example.com", UNICODE),
        ("xn--example-.example.com", UNICODE),
        ("xn--bücher-kva.example.com", UNICODE),
        ("xn--b_cher-kva.example.com", UNICODE),
        ("xn--b-5da.example.com", UNICODE),
        ("xn--bx-8tb.example.com\u{0}", UNICODE),
        ("xn--x-wbb.example.com", UNICODE),
        ("xn--ab-m1t.example.com", UNICODE),
        ("xn--b-yq0i.example.com", UNICODE),
        ("xn--a-zhc.example.com", UNICODE),
        ("xn----eha.example.com", UNICODE),
        ("xn----dha.example.com", UNICODE),
        ("xn--xn---epa.example.com", UNICODE),
        ("a.xn--99999999999999999999.com", UNICODE),
        ("ab--cd.example.com", UNICODE),
        ("AB--CD.example.com", UNICODE),
        ("example.test", ".test"),
        ("test.", "two labels"),
        ("SHOP.TEST", ".test"),
        ("shop.ｔｅｓｔ", ".test"),
        ("shop.test.", ".test"),
        ("printer.local", ".local"),
        ("api.internal", ".internal"),
        ("shop.invalid", ".invalid"),
        ("a.localhost", ".localhost"),
        ("a.b.example", ".example"),
        ("abc.onion", ".onion"),
        ("home.arpa", ".home.arpa"),
        ("nas.home.arpa", ".home.arpa"),
    ];
    let mut names: Vec<Bad> = refused.iter().map(|(text, because)| bad(name(text), 400, because)).collect();
    let of_octets = |length: usize| format!("{}.com", &"abcdefg.".repeat(length / 8 + 1)[..length - 4]);
    let (octets_238, octets_254) = (of_octets(238), of_octets(254));
    assert_eq!((octets_238.len(), octets_254.len()), (238, 254));
    names.extend([
        bad(name(&format!("{}.com", "a".repeat(64))), 400, "63 octets"),
        bad(name(&format!("a.{}", "b".repeat(64))), 400, "63 octets"),
        // 58 letters, whose A-label has 64 octets.
        bad(name(&format!("{}.example.com", "ü".repeat(58))), 400, UNICODE),
        bad(name(&octets_238), 400, TOO_LONG),
        bad(name(&format!("{octets_238}.")), 400, TOO_LONG),
        bad(name(&octets_254), 400, TOO_LONG),
        // 331 octets of A-labels.
        bad(name(&format!("{}example.com", "世.".repeat(40))), 400, UNICODE),
        bad(name(&"a.".repeat(500)), 400, TOO_LONG),
        bad(name(&"x".repeat(60_000)), 400, TOO_LONG),
        bad(name(&"ü".repeat(30_000)), 400, TOO_LONG),
    ]);
    names
}

/// Whose path or query is wrong, or whose `known` id is not written as it was given out.
fn targets(known: &str) -> Vec<Bad> {
    let get = |target: &str, status, because| bad(request(&format!("GET {target}"), "", b""), status, because);
    let mut targets = Vec::new();
    let ids = [
        "0".repeat(32),
        "g".repeat(32),
        known.to_uppercase(),
        known[1..].to_owned(),
        format!("{known}0"),
        format!("0x{known}"),
        format!("{known}%00"),
        format!("%00{known}"),
        format!("{known}%0a"),
        format!("{known}%0d%0aX-Injected:%201"),
        format!("{known}%ff"),
        format!("{known}%20"),
        format!("%20{known}"),
        format!("{known}%2f"),
        format!("..%2f{known}"),
        format!("{known}%3f"),
        format!("{known};x=1"),
        format!("{{{known}}}"),
        "%00".to_owned(),
        "%0a".to_owned(),
        "%ff".to_owned(),
        "%2f".to_owned(),
        "%".to_owned(),
        "%zz".to_owned(),
        "%c0%af".to_owned(),
        "%27%20OR%20%271%27=%271".to_owned(),
        "1".to_owned(),
        "-1".to_owned(),
        "null".to_owned(),
        "..".to_owned(),
        "%F0%9F%94%92".to_owned(),
        "0".repeat(30_000),
        "%30".repeat(10_000),
    ];
    for id in ids {
        for (call, below) in
            [("GET", ""), ("DELETE", ""), ("POST", "/issue-certificate"), ("POST", "/retry"), ("GET", "/certificate")]
        {
            let target = format!("{call} /domains/{id}{below}");
            targets.push(bad(request(&target, "", b""), 404, "domain not found"));
        }
    }
    for path in [
        format!("/domains/{known}/"),
        format!("/domains/{known}//certificate"),
        format!("/domains/{known}/certificate/"),
        format!("/domains/{known}/Certificate"),
        format!("/domains/{known}%2fcertificate/x"),
        format!("//domains/{known}"),
        format!("/domains//{known}"),
        "/domains/".to_owned(),
        "/domains%2f".to_owned(),
        "/domains%00".to_owned(),
        "/%64omains".to_owned(),
        "/../domains".to_owned(),
        "/DOMAINS".to_owned(),
        "/domains/../domains".to_owned(),
        "/docs/".to_owned(),
        "/openapi.json/".to_owned(),
        "/metrics".to_owned(),
        "/%".to_owned(),
        "/x".repeat(15_000),
    ] {
        targets.push(get(&path, 404, "no such route"));
    }
    for strange in ["OPTIONS *", "GET domains", "GET api:80", "CONNECT a.example.com:443", "GET http://api"] {
        targets.push(bad(request(strange, "", b""), 404, "no such route"));
    }
    for method in ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get", "X"] {
        targets.push(bad(request(&format!("{method} /domains"), "", b""), 405, "method not allowed"));
    }
    for query in [
        "limit=",
        "limit=0",
        "limit=-1",
        "limit=201",
        "limit=65536",
        "limit=99999999999999999999",
        "limit=abc",
        "limit=1.5",
        "limit=1e2",
        "limit=0x10",
        "limit=%31%00",
        "limit=+5",
        "limit=%205",
        "limit=5%20",
        "limit=\u{661}",
        "limit=1&limit=1",
        "limit[]=1",
        "Limit=1",
        "status=",
        "status=unknown",
        "status=Active",
        "status=active%00",
        "status=active%0a",
        "status=active,failed",
        "status=active&status=failed",
        "status=deleted",
        "status=%ff",
        "cursor=",
        "cursor=0",
        "cursor=garbage",
        "cursor=000000000000000",
        "cursor=00000000000000000",
        "cursor=000000000000000G",
        "cursor=000000000000000A",
        "cursor=ffffffffffffffff",
        "cursor=8000000000000000",
        "cursor=-000000000000001",
        "cursor=+000000000000001",
        "cursor=%000000000000000",
        "cursor=0000000000000001&cursor=0000000000000001",
        "offset=1",
        "page=2",
        "q=%00",
        "x",
        "=",
        "limit=1;status=active",
        "status=active%26limit=1",
        "limit=1&%00=1",
    ] {
        let query: String =
            query.chars().map(|c| if c.is_ascii() { c.to_string() } else { "%D9%A1".to_owned() }).collect();
        targets.push(get(&format!("/domains?{query}"), 400, "the query may have status"));
    }
    targets.push(get(&format!("/domains?cursor={}", "0".repeat(30_000)), 400, "the query may have status"));
    targets.push(get(&format!("/domains?{}", "x&".repeat(15_000)), 400, "the query may have status"));
    targets
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
