//! Bodies that are no object, no JSON, or not what was asked for.

use super::{Bad, bad, post, with_headers};

const NOT_AN_OBJECT: &str = "must be a JSON object";
const MALFORMED: &str = "malformed JSON, at line";
const WRONG_FIELD: &str = "a field is missing, doubled or of the wrong type, at line";

pub(super) fn bodies() -> Vec<Bad> {
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
