//! Paths, methods, queries and headers.

use super::{Bad, bad, request};

/// Whose path or query is wrong, or whose `known` id is not written as it was given out.
pub(super) fn targets(known: &str) -> Vec<Bad> {
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
