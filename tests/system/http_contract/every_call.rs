//! What holds for every call: routes, methods, tokens, request ids.

use super::*;

#[test]
fn an_id_that_is_no_ones_and_an_unknown_route_are_404() {
    on_stack(async |client| {
        let known = client.in_status("pending").await.id;
        let strange = [
            "0".repeat(32),
            known.to_uppercase(),
            known[..31].to_owned(),
            format!("{known}0"),
            "g".repeat(32),
            "1".to_owned(),
            "..".to_owned(),
            "%2e%2e".to_owned(),
            "%ff".to_owned(),
            "%00".to_owned(),
            format!("{known}%20"),
            format!("%20{known}"),
            "%27%20OR%201=1--".to_owned(),
            "%F0%9F%94%92".to_owned(),
            "x".repeat(5000),
        ];
        let calls = [
            "GET ",
            "DELETE ",
            "POST /verify",
            "POST /issue-certificate",
            "POST /check",
            "POST /retry",
            "GET /certificate",
        ];
        for (id, call) in strange.iter().flat_map(|id| calls.map(|call| (id, call))) {
            let (method, verb) = call.split_once(' ').unwrap();
            let head = format!("{method} /domains/{id}{verb} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n");
            let (status, body) = client.raw(&head);
            assert_eq!((status, body["error"].as_str()), (404, Some("domain not found")), "{head:.60}");
        }
        for path in
            ["/", "/domain", "/domains/", "//domains", "/Domains", "/favicon.ico", "/healthz", "/readyz", "/metrics"]
        {
            let (status, body) = client.raw(&format!("GET {path} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"));
            assert_eq!((status, body["error"].as_str()), (404, Some("no such route")), "{path}");
        }
        for path in
            [format!("/domains/{known}/"), format!("/domains/{known}/verify/now"), format!("/domains/{known}/revoke")]
        {
            assert_eq!(refused(client.ask(Method::POST, &path).await, 404), "no such route", "{path}");
        }
    });
}

/// Path below `/domains`, the methods it has.
const ROUTES: [(&str, &[Method]); 7] = [
    ("", &[Method::GET, Method::POST]),
    ("/{id}", &[Method::GET, Method::DELETE]),
    ("/{id}/verify", &[Method::POST]),
    ("/{id}/issue-certificate", &[Method::POST]),
    ("/{id}/check", &[Method::POST]),
    ("/{id}/retry", &[Method::POST]),
    ("/{id}/certificate", &[Method::GET]),
];

#[test]
fn a_wrong_method_is_405_and_says_what_is_allowed() {
    on_stack(async |client| {
        let unknown = "0".repeat(32);
        for (route, methods) in ROUTES {
            let path = format!("/domains{}", route.replace("{id}", &unknown));
            for wrong in [Method::PUT, Method::PATCH, Method::OPTIONS] {
                for client in [client, &client.guarded(None)] {
                    let answer = client.ask(wrong.clone(), &path).await;
                    let allow = answer
                        .headers
                        .get("allow")
                        .and_then(|allow| allow.to_str().ok())
                        .unwrap_or_default()
                        .to_owned();
                    assert_eq!(answer.status, 405, "{wrong} {path}: {}", answer.body);
                    let allowed: Vec<&str> = allow.split(',').map(str::trim).collect();
                    assert!(
                        methods.iter().all(|method| allowed.contains(&method.as_str())),
                        "{wrong} {path}: {allow:?}"
                    );
                    assert!(!allowed.contains(&wrong.as_str()), "{wrong} {path}: {allow:?}");
                }
            }
        }
    });
}

#[test]
fn with_a_token_set_every_call_needs_it() {
    on_stack(async |client| {
        let stranger = client.guarded(None);
        let known = client.in_status("pending").await.id;
        let credentials = [
            None,
            Some("Bearer wrong".to_owned()),
            Some("Bearer".to_owned()),
            Some("Bearer ".to_owned()),
            Some(TOKEN.to_owned()),
            Some(format!("Basic {TOKEN}")),
            Some(format!("Bearer {TOKEN}x")),
            Some(format!("Bearer {}", &TOKEN[1..])),
            Some(format!("Bearer {}", TOKEN.to_uppercase())),
        ];
        for (route, methods) in ROUTES {
            for (method, id) in methods
                .iter()
                .flat_map(|method| [(method, &known), (method, &"0".repeat(32))].map(|(m, id)| (m.clone(), id.clone())))
            {
                let path = format!("/domains{}", route.replace("{id}", &id));
                for credential in &credentials {
                    // The body is wrong as well: what it says must not matter.
                    let mut request = stranger.api.request(method.clone(), &path).body("{");
                    if let Some(credential) = credential {
                        request = request.header(AUTHORIZATION, credential);
                    }
                    let answer = stranger.answer(request).await;
                    assert_eq!(answer.status, 401, "{method} {path} with {credential:?}: {}", answer.body);
                    assert_eq!(answer.headers["www-authenticate"], "Bearer");
                }
            }
        }
        // Before the token come the route and the method; after it the domain.
        refused(stranger.ask(Method::GET, "/nowhere").await, 404);
        refused(stranger.ask(Method::PUT, "/domains").await, 405);
        refused(client.guarded(Some(TOKEN)).get(&"0".repeat(32)).await, 404);
        client.guarded(Some(TOKEN)).get(&known).await.expect(200);
        let lower_case = stranger.api.request(Method::GET, &format!("/domains/{known}"));
        stranger.answer(lower_case.header(AUTHORIZATION, format!("bearer {TOKEN}"))).await.expect(200);
        // Nothing above had an effect.
        assert_eq!(client.get(&known).await.expect(200)["status"], "pending");
    });
}

#[test]
fn a_sane_request_id_is_kept_on_every_answer_and_any_other_is_replaced() {
    on_stack(async |client| {
        let known = client.in_status("pending").await;
        let register = |name: &str| client.api.request(Method::POST, "/domains").json(&json!({"domain_name": name}));
        let get = |path: &str| client.api.request(Method::GET, path);
        let guarded = client.guarded(None);
        let requests = [
            (201, register(&client.name())),
            (200, get(&format!("/domains/{}", known.id))),
            (400, register("")),
            (401, guarded.api.request(Method::GET, "/domains/x")),
            (404, get("/nowhere")),
            (404, get("/domains/x")),
            (405, client.api.request(Method::PUT, "/domains")),
            (413, register(&"x".repeat(70_000))),
            (500, register(&known.domain_name)),
        ];
        for (number, (status, request)) in requests.into_iter().enumerate() {
            let id = format!("Test_{number}.of-{status}-{}", known.id);
            let (replica, client) = if status == 401 { ("api-2", &guarded) } else { ("api-1", client) };
            let answer = client.answer(request.header("X-Request-Id", &id)).await;
            assert_eq!((answer.status, answer.headers["x-request-id"].to_str().unwrap()), (status, id.as_str()));
            let logged = async || client.stack.log(replica).lines().any(|line| line.contains(&id)).then_some(());
            client.stack.wait_until(&format!("{id} is in the log of {replica}"), SOON, logged).await;
        }
        client.answer(get("/domains/x").header("X-Request-Id", "x".repeat(128))).await;
        for insane in ["", "a b", "a/b", "<script>", "ü", "a,b", "a\tb", &"x".repeat(129)] {
            let inbound = HeaderValue::from_bytes(insane.as_bytes()).unwrap();
            let answer = client.answer(get("/domains/x").header("X-Request-Id", inbound)).await;
            let made = answer.headers["x-request-id"].to_str().unwrap();
            assert!(is_hex(made, 32), "{insane:?} became {made:?}");
        }
    });
}

#[test]
fn the_request_id_of_an_issuance_is_on_its_job_and_in_the_workers_log() {
    on_stack(async |client| {
        let domain = client.in_status("verified").await;
        let id = format!("issue-{}", domain.id);
        let path = format!("/domains/{}/issue-certificate", domain.id);
        let order =
            client.answer(client.api.request(Method::POST, &path).header("X-Request-Id", &id)).await.expect(202);
        let traced: String = sqlx::query_scalar(
            "SELECT j.trace_context ->> 'request_id' FROM jobs j JOIN orders o ON o.id = j.order_id WHERE o.public_id = $1",
        )
        .bind(order["order_id"].as_str().unwrap())
        .fetch_one(client.stack.pool())
        .await
        .unwrap();
        assert_eq!(traced, id);
        for process in ["api-1", "worker-1"] {
            let logged = async || client.stack.log(process).contains(&id).then_some(());
            client.stack.wait_until(&format!("{id} is in the log of {process}"), SOON, logged).await;
        }
    });
}
