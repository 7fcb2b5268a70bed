//! The table of problems, row by row.

use ErrorClass::*;
use RequestKind as R;

use super::*;

fn problem(name: &str) -> Problem {
    Problem { problem_type: format!("{URN}{name}"), detail: String::new(), status: None, subproblems: Vec::new() }
}

#[test]
fn every_problem_type_of_rfc_8555() {
    for (name, status, request, class) in [
        ("accountDoesNotExist", 400, R::NewOrder, FatalForAccount),
        ("accountDoesNotExist", 400, R::Authorization, FatalForAccount),
        ("alreadyRevoked", 400, R::Finalize, FatalForOrder),
        ("badCSR", 400, R::Finalize, FatalForOrder),
        ("badNonce", 400, R::NewOrder, RetryLater),
        ("badNonce", 400, R::NewAccount, RetryLater),
        ("badPublicKey", 400, R::NewAccount, FatalForAccount),
        ("badRevocationReason", 400, R::Order, FatalForOrder),
        ("badSignatureAlgorithm", 400, R::NewAccount, FatalForAccount),
        ("caa", 403, R::NewOrder, FatalForOrder),
        ("caa", 403, R::Finalize, FatalForOrder),
        ("connection", 400, R::Challenge, NewOrderNeeded),
        ("dns", 400, R::Challenge, NewOrderNeeded),
        ("externalAccountRequired", 403, R::NewAccount, FatalForAccount),
        ("incorrectResponse", 403, R::Challenge, NewOrderNeeded),
        ("invalidContact", 400, R::NewAccount, FatalForAccount),
        ("malformed", 400, R::Challenge, LookAgain),
        ("malformed", 400, R::Deactivate, LookAgain),
        ("malformed", 400, R::Order, NewOrderNeeded),
        ("malformed", 404, R::Order, NewOrderNeeded),
        ("malformed", 404, R::Authorization, NewOrderNeeded),
        ("malformed", 404, R::Finalize, NewOrderNeeded),
        ("malformed", 404, R::Challenge, NewOrderNeeded),
        ("malformed", 400, R::NewOrder, FatalForOrder),
        ("malformed", 400, R::Finalize, FatalForOrder),
        ("malformed", 400, R::NewAccount, FatalForAccount),
        ("orderNotReady", 403, R::Finalize, LookAgain),
        ("rateLimited", 429, R::NewOrder, RateLimited),
        ("rateLimited", 503, R::NewOrder, RateLimited),
        ("rateLimited", 429, R::NewAccount, RateLimited),
        ("rejectedIdentifier", 400, R::NewOrder, FatalForOrder),
        ("serverInternal", 500, R::Order, RetryLater),
        ("serverInternal", 400, R::Order, RetryLater),
        ("tls", 400, R::Challenge, NewOrderNeeded),
        ("unauthorized", 401, R::NewOrder, FatalForAccount),
        ("unauthorized", 403, R::NewOrder, FatalForAccount),
        ("unauthorized", 403, R::NewAccount, FatalForAccount),
        ("unauthorized", 403, R::Authorization, NewOrderNeeded),
        ("unauthorized", 403, R::Finalize, NewOrderNeeded),
        ("unsupportedContact", 400, R::NewAccount, FatalForAccount),
        ("unsupportedIdentifier", 400, R::NewOrder, FatalForOrder),
        ("userActionRequired", 403, R::NewOrder, FatalForAccount),
        ("compound", 400, R::NewOrder, FatalForOrder),
        ("ofTheFuture", 400, R::NewOrder, FatalForOrder),
        ("ofTheFuture", 400, R::NewAccount, FatalForAccount),
        ("ofTheFuture", 500, R::NewOrder, RetryLater),
        ("unauthorized", 502, R::NewOrder, RetryLater),
    ] {
        let found = class_of(request, Some(status), Some(&problem(name)));
        assert_eq!(found, class, "{name} {status} on {request}");
    }
}

#[test]
fn answers_without_a_problem_document() {
    for (status, request, class) in [
        (None, R::NewOrder, RetryLater),
        (Some(302), R::Order, RetryLater),
        (Some(400), R::NewOrder, RetryLater),
        (Some(403), R::Finalize, RetryLater),
        (Some(404), R::Directory, RetryLater),
        (Some(404), R::NewOrder, RetryLater),
        (Some(404), R::NewAccount, RetryLater),
        (Some(404), R::Order, NewOrderNeeded),
        (Some(410), R::Authorization, NewOrderNeeded),
        (Some(429), R::NewOrder, RateLimited),
        (Some(500), R::Order, RetryLater),
        (Some(503), R::Directory, RetryLater),
    ] {
        assert_eq!(class_of(request, status, None), class, "{status:?} on {request}");
    }
}

#[test]
fn a_compound_problem_is_as_grave_as_its_worst_part() {
    let part =
        |name: &str| Subproblem { identifier: None, problem_type: format!("{URN}{name}"), detail: String::new() };
    let mut compound = problem("compound");
    compound.subproblems = vec![part("dns"), part("serverInternal")];
    assert_eq!(class_of(R::NewOrder, Some(400), Some(&compound)), NewOrderNeeded);
    compound.subproblems.push(part("caa"));
    assert_eq!(class_of(R::NewOrder, Some(400), Some(&compound)), FatalForOrder);
}

#[test]
fn problems_inside_a_dead_authorization() {
    for (name, class) in [
        ("unauthorized", NewOrderNeeded),
        ("dns", NewOrderNeeded),
        ("connection", NewOrderNeeded),
        ("incorrectResponse", NewOrderNeeded),
        ("tls", NewOrderNeeded),
        ("serverInternal", NewOrderNeeded),
        ("caa", FatalForOrder),
        ("rejectedIdentifier", FatalForOrder),
    ] {
        assert_eq!(class_of_authorization_problem(&problem(name)), class, "{name}");
    }
}

#[test]
fn a_compound_inside_a_dead_authorization_is_as_grave_as_its_worst_part() {
    let compound = |parts: &[&str]| Problem {
        subproblems: parts
            .iter()
            .map(|name| Subproblem { identifier: None, problem_type: format!("{URN}{name}"), detail: String::new() })
            .collect(),
        ..problem("compound")
    };
    for (parts, decides, class) in [
        (&["dns", "caa", "unauthorized"][..], "caa", FatalForOrder),
        (&["rejectedIdentifier", "dns"], "rejectedIdentifier", FatalForOrder),
        (&["dns"], "dns", NewOrderNeeded),
        (&[], "compound", NewOrderNeeded),
    ] {
        let problem = compound(parts);
        assert_eq!((problem.deciding_name(), class_of_authorization_problem(&problem)), (decides, class), "{parts:?}");
    }
    assert_eq!(problem("caa").deciding_name(), "caa");
}

#[test]
fn a_hostile_document_is_cleaned() {
    let detail = format!("a\u{1b}[31m\n{}", "é".repeat(3000));
    let body = serde_json::json!({
        "type": format!("{URN}caa"), "detail": detail, "status": 70000,
        "subproblems": [7, { "type": "x", "identifier": { "type": "dns", "value": "a.example\u{0}" } }],
    });
    let problem = Problem::from_body(body.to_string().as_bytes()).unwrap();
    assert!(problem.detail.starts_with("a [31m é") && problem.detail.len() <= LONGEST_DETAIL);
    assert_eq!((problem.name(), problem.status), ("caa", None));
    assert_eq!(problem.subproblems[1].identifier.as_deref(), Some("a.example "));
    let stored = serde_json::to_string(&problem).unwrap();
    assert_eq!(serde_json::from_str::<Problem>(&stored).unwrap(), problem);

    for nothing in ["<html>Bad gateway</html>", "", "[]", "{}", "null", r#"{"type":1}"#] {
        assert_eq!(Problem::from_body(nothing.as_bytes()), None, "{nothing}");
    }
}

#[test]
fn a_rate_limit_that_names_the_order_s_name_is_that_name_s_own() {
    let is_about = |detail: &str| {
        let problem = Problem { detail: detail.to_owned(), ..problem("rateLimited") };
        problem.is_about(&["a.shop.example.com".to_owned()])
    };
    for own in [
        r#"too many failed authorizations (5) for "a.shop.example.com" in the last 1h0m0s, retry after 2026-01-01 00:00:00 UTC"#,
        r#"too many certificates (50) already issued for "example.com" in the last 168h0m0s"#,
        "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s",
    ] {
        assert!(is_about(own), "{own}");
    }
    for everybodys in [
        "too many new orders (300) from this account in the last 3h0m0s, see https://letsencrypt.org/docs/rate-limits/.",
        r#"too many certificates already issued for "ample.com""#,
        "com. is busy",
        "",
    ] {
        assert!(!is_about(everybodys), "{everybodys}");
    }
    let mut compound = problem("rateLimited");
    compound.subproblems = vec![Subproblem {
        identifier: Some("a.shop.example.com".to_owned()),
        problem_type: format!("{URN}rateLimited"),
        detail: String::new(),
    }];
    assert!(compound.is_about(&["a.shop.example.com".to_owned()]) && !compound.is_about(&["b.example".to_owned()]));
}
