//! What every answer of the API must be, and requests byte by byte, as no proper client would send them.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use countersign_tests::api_client::Answer;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

/// What no caller should ever read: SQL, names of our tables, paths, and the words of libraries.
const INNARDS: &[&str] = &[
    "insert into",
    "select ",
    "duplicate key",
    "violates",
    "constraint",
    "relation",
    "_key",
    "sqlx",
    "postgres",
    "/home",
    "/work",
    "/tmp",
    "/usr",
    "src/",
    ".rs",
    "serde",
    "hickory",
    "hyper",
    "axum",
    "tokio",
    "panicked",
    "thread",
    "os error",
    "expected value at",
    "expected `",
    "invalid type",
    "missing field",
    "duplicate field",
    "trailing characters",
    "eof while",
    "-----begin",
    TOKEN,
];

/// The `AUTH_TOKEN` of APIs that have one.
pub(crate) const TOKEN: &str = "correct-horse-battery-staple";

/// On every answer. Pages for people have a content security policy of their own.
pub(crate) const SECURITY_HEADERS: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
];

/// It has an id and the security headers, its body is JSON and shows nothing of our insides, and an error is the one field `error`.
#[track_caller]
pub(crate) fn check(status: u16, headers: &HeaderMap, body: &Value) {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let id = header("x-request-id");
    assert!(is_sane(id), "{status} {body} has the request id {id:?}");
    for (name, value) in SECURITY_HEADERS {
        assert_eq!(header(name), value, "{name} of {status} {body}");
    }
    if status == 204 {
        assert!(body.is_null(), "{body}");
        return;
    }
    assert!(body.is_object(), "{status} {body}");
    assert_eq!(header(CONTENT_TYPE.as_str()), "application/json", "{status} {body}");
    let text = body.to_string().to_lowercase();
    let shown: Vec<&&str> = INNARDS.iter().filter(|word| text.contains(**word)).collect();
    assert!(shown.is_empty(), "{status} {body} shows {shown:?}");
    if status >= 400 {
        assert_eq!(fields(body), ["error"], "{status}");
        assert!(body["error"].as_str().is_some_and(|text| text.len() > 5), "{status} {body}");
    }
    if status == 503 {
        assert!(header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{headers:?}");
    }
}

fn is_sane(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// The names of a JSON object's fields, sorted.
#[track_caller]
pub(crate) fn fields(object: &Value) -> Vec<&str> {
    let fields: BTreeSet<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    fields.into_iter().collect()
}

/// The text of an error answer, after a look at its status and at what all answers have in common.
#[track_caller]
pub(crate) fn refused(answer: Answer, status: u16) -> String {
    check(answer.status, &answer.headers, &answer.body);
    answer.expect(status)["error"].as_str().unwrap().to_owned()
}

/// One connection to an API.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) fn open(url: &str) -> Self {
        let stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
        // More than the API may take for anything.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(BufReader::new(stream))
    }

    /// For a client whose bytes nobody takes.
    pub(crate) fn give_up_sending_after(&self, within: Duration) {
        self.0.get_ref().set_write_timeout(Some(within)).unwrap();
    }

    /// The answer may come, and the connection end, before everything is sent.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.get_mut().write_all(bytes.as_ref());
    }

    /// The next answer; none when the connection ends instead.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let status = self.line()?.split(' ').nth(1)?.parse().unwrap();
        let mut headers = HeaderMap::new();
        while let Some((name, value)) = self.line()?.split_once(": ") {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let length = headers.get("content-length").map_or("0", |length| length.to_str().unwrap());
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).ok()?;
        let text = String::from_utf8(body).unwrap();
        let body = match text.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        };
        Some(Answer { status, headers, body })
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok().filter(|&length| length > 0)?;
        Some(line.trim_end().to_owned())
    }
}

/// The answer to one request on a connection of its own; none when the connection ends instead.
pub(crate) fn exchange(url: &str, request: impl AsRef<[u8]>) -> Option<Answer> {
    let mut connection = Connection::open(url);
    connection.send(request);
    connection.answer()
}
