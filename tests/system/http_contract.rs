//! The documented `/domains` calls, word for word: statuses, fields, error bodies, headers.
//!
//! One stack for all of these tests. `api-1` is as documented; `api-2` needs a token, refuses special-use names, and hardly waits
//! for workers.
//! Every answer that passes through [`Client::answer`] is checked for what all answers have in common.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use countersign_tests::api_client::{Answer, ApiClient, Domain, Order};
use countersign_tests::certificate::Description;
use countersign_tests::stack::Stack;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use crate::answers::{TOKEN, check, exchange, fields, refused};

const SOON: Duration = Duration::from_secs(10);

/// Runs a test on the stack that all of these tests share; it ends with this process.
fn on_stack(test: impl AsyncFnOnce(&Client)) {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let start = async || {
        Stack::builder()
            .apis(2)
            .setting("POLL_TIMEOUT", "10m")
            .setting_of("api-2", "AUTH_TOKEN", TOKEN)
            .setting_of("api-2", "ALLOW_SPECIAL_USE_NAMES", "false")
            .setting_of("api-2", "PLACE_WAIT", "100ms")
            .start()
            .await
    };
    let stack = RUNTIME.block_on(STACK.get_or_init(start));
    let run = || RUNTIME.block_on(test(&Client { stack, api: stack.api().clone() }));
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        eprintln!("{}", stack.abandon());
        resume_unwind(panic);
    }
}

struct Client {
    stack: &'static Stack,
    api: ApiClient,
}

impl Client {
    /// Asks `api-2` instead.
    fn guarded(&self, token: Option<&str>) -> Self {
        Self { stack: self.stack, api: self.stack.api_replica(2).with_token(token) }
    }

    /// A name that no other test uses.
    fn name(&self) -> String {
        static USED: AtomicU32 = AtomicU32::new(0);
        format!("shop-{}.example.com", USED.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends it and checks what every answer must be: it has an id, its body is JSON, and it shows nothing of our insides.
    async fn answer(&self, request: RequestBuilder) -> Answer {
        let answer = self.api.send(request).await.unwrap();
        check(answer.status, &answer.headers, &answer.body);
        answer
    }

    async fn ask(&self, method: Method, path: &str) -> Answer {
        self.answer(self.api.request(method, path)).await
    }

    async fn post(&self, id: &str, verb: &str) -> Answer {
        self.ask(Method::POST, &format!("/domains/{id}/{verb}")).await
    }

    async fn get(&self, id: &str) -> Answer {
        self.ask(Method::GET, &format!("/domains/{id}")).await
    }

    /// `POST /domains` with this body.
    async fn register(&self, content_type: Option<&str>, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.api.request(Method::POST, "/domains").body(body);
        self.answer(match content_type {
            Some(content_type) => request.header(CONTENT_TYPE, content_type),
            None => request,
        })
        .await
    }

    async fn register_name(&self, name: &str) -> Answer {
        self.register(Some("application/json"), json!({"domain_name": name}).to_string()).await
    }

    /// A request that no proper client would send, as its bytes.
    fn raw(&self, request: &str) -> (u16, Value) {
        let answer = exchange(self.api.url(), request).unwrap_or_else(|| panic!("no answer to {request:.80}"));
        check(answer.status, &answer.headers, &answer.body);
        (answer.status, answer.body)
    }

    async fn pending(&self) -> (Domain, Order) {
        self.stack.pending_domain(&self.name()).await
    }

    /// A domain whose time for the record is over.
    async fn failed(&self) -> Domain {
        let (domain, order) = self.pending().await;
        // Whoever changes an order grows its revision; otherwise a step under way would write the old deadline again.
        let over =
            "UPDATE orders SET deadline_at = now() - interval '1 second', revision = revision + 1 WHERE public_id = $1";
        sqlx::query(over).bind(&order.order_id).execute(self.stack.pool()).await.unwrap();
        self.stack.becomes(&domain.id, "failed", SOON).await
    }

    /// Waits until a failed domain may be retried; what `GET` shows of it then.
    async fn retryable(&self, id: &str) -> Value {
        let cleaned_up = async || {
            let seen = self.get(id).await.expect(200);
            (seen["failure"]["retryable"] == true).then_some(seen)
        };
        self.stack.wait_until("the failed order is cleaned up", SOON, cleaned_up).await
    }

    async fn in_status(&self, status: &str) -> Domain {
        match status {
            "pending" => self.api.register(&self.name()).await,
            "verified" => self.stack.verified_domain(&self.name()).await,
            "certificate_pending" => self.pending().await.0,
            "active" => self.stack.active_domain(&self.name()).await,
            "failed" => self.failed().await,
            other => panic!("{other} is no status"),
        }
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}

/// RFC 3339, UTC, whole seconds, `Z`.
#[track_caller]
fn at(time: &Value) -> OffsetDateTime {
    let text = time.as_str().unwrap_or_else(|| panic!("{time} is no time"));
    assert!(text.len() == 20 && text.ends_with('Z'), "{text}");
    OffsetDateTime::parse(text, &Rfc3339).unwrap()
}

fn owner(name: &str) -> String {
    format!("_acme-challenge.{name}.")
}

#[test]
fn registering_answers_201_with_the_token_and_what_to_do() {
    on_stack(async |client| {
        let name = client.name();
        let body = client.register_name(&name).await.expect(201);
        assert_eq!(fields(&body), ["domain_name", "id", "instructions", "status", "verification_token"]);
        let text = |field: &str| body[field].as_str().unwrap();
        assert!(is_hex(text("id"), 32) && is_hex(text("verification_token"), 64), "{body}");
        assert_eq!((text("domain_name"), text("status")), (name.as_str(), "pending"));
        let instructions = text("instructions");
        assert!(instructions.contains(&owner(&name)) && instructions.contains(text("verification_token")), "{body}");

        let other = client.register_name(&client.name()).await.expect(201);
        assert!(other["id"] != body["id"] && other["verification_token"] != body["verification_token"]);

        let seen = client.get(text("id")).await.expect(200);
        assert_eq!(fields(&seen), ["created_at", "domain_name", "id", "instructions", "status", "updated_at"]);
        assert_eq!(at(&seen["created_at"]), at(&seen["updated_at"]));
    });
}

#[test]
fn a_name_is_echoed_as_supplied_and_asked_for_as_normalised() {
    on_stack(async |client| {
        let name = client.name();
        for (supplied, normalised) in [
            (format!("bücher.{name}"), format!("xn--bcher-kva.{name}")),
            (format!("dot.{name}."), format!("dot.{name}")),
            (format!("UPPER.{}", name.to_uppercase()), format!("upper.{name}")),
            (format!("xn--mnchen-3ya.{name}"), format!("xn--mnchen-3ya.{name}")),
        ] {
            let body = client.register_name(&supplied).await.expect(201);
            assert_eq!(body["domain_name"], supplied);
            assert!(body["instructions"].as_str().unwrap().contains(&owner(&normalised)), "{body}");
            let seen = client.get(body["id"].as_str().unwrap()).await.expect(200);
            assert_eq!(seen["domain_name"], supplied);
        }
    });
}

#[test]
fn a_name_that_is_registered_already_is_500_in_every_spelling() {
    on_stack(async |client| {
        let name = client.name();
        client.register_name(&name).await.expect(201);
        client.register_name(&format!("bücher.{name}")).await.expect(201);
        for again in [
            name.clone(),
            format!("{}.", name.to_uppercase()),
            format!("BÜCHER.{name}"),
            format!("xn--bcher-kva.{name}."),
        ] {
            let error = refused(client.register_name(&again).await, 500);
            assert!(error.contains("already registered"), "{again}: {error}");
        }
    });
}

#[test]
fn a_body_that_is_no_registration_is_400() {
    on_stack(async |client| {
        let (name, json) = (client.name(), Some("application/json"));
        let valid = json!({"domain_name": name}).to_string();
        let bad = [
            "",
            "{",
            "null",
            "42",
            "\"example.com\"",
            "[]",
            "{}",
            "domain_name=example.com",
            r#"{"domain_name": null}"#,
            r#"{"domain_name": 1}"#,
            r#"{"domain_name": ["a.example.com"]}"#,
            r#"{"domain_name": {"name": "a.example.com"}}"#,
            r#"{"domain_name": true}"#,
            r#"{"domain_name": ""}"#,
            r#"{"Domain_Name": "a.example.com"}"#,
            r#"{"domain_name": "a.example.com",}"#,
            r#"{'domain_name': 'a.example.com'}"#,
            r#"{"domain_name": "a.example.com", "domain_name": "b.example.com"}"#,
            r#"{"domain_name": "a.example.com"} {}"#,
            r#"{"domain_name": "a.example.com"}x"#,
            r#"{"domain_name": "\ud800.example.com"}"#,
            r#"{"domain_name": "a.example.com"#,
        ];
        for body in bad {
            let answer = client.register(json, body).await;
            assert_eq!(answer.status, 400, "{body}: {}", answer.body);
        }
        assert_eq!(client.register(json, "[".repeat(60_000)).await.status, 400);
        assert_eq!(client.register(json, b"{\"domain_name\": \"\xff.example.com\"}".to_vec()).await.status, 400);

        for content_type in
            [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonp"), Some("")]
        {
            let error = refused(client.register(content_type, valid.clone()).await, 400);
            assert!(error.contains("Content-Type"), "{content_type:?}: {error}");
        }
        let more = json!({"domain_name": name, "id": 7, "status": "active"}).to_string();
        let body = client.register(Some("Application/JSON; charset=utf-8"), more).await.expect(201);
        assert_eq!(body["status"], "pending", "unknown fields are ignored");
    });
}

#[test]
fn a_json_array_is_no_registration() {
    on_stack(async |client| {
        let body = json!([client.name()]).to_string();
        refused(client.register(Some("application/json"), body).await, 400);
    });
}

#[test]
fn a_name_that_no_public_ca_certifies_is_400_with_the_reason() {
    on_stack(async |client| {
        let public = client.guarded(Some(TOKEN));
        let (long_label, long_name) =
            (format!("{}.com", "a".repeat(64)), format!("{}example.com", "abcdef.".repeat(33)));
        let refusals = [
            (".", "empty"),
            ("192.0.2.1", "IP address"),
            ("192.0.2.1.", "IP address"),
            ("2001:db8::1", "IP address"),
            ("[2001:db8::1]", "IP address"),
            ("*.example.com", "wildcard"),
            ("*", "wildcard"),
            ("a.*.example.com", "wildcard"),
            ("a..example.com", "empty label"),
            (".example.com", "empty label"),
            ("example.com..", "empty label"),
            (&long_label, "63"),
            (&long_name, "237"),
            ("-a.example.com", "hyphen"),
            ("a-.example.com", "hyphen"),
            ("a_b.example.com", "letters"),
            ("a b.example.com", "letters"),
            (" example.com", "letters"),
            ("example.com ", "letters"),
            ("a\u{0}b.example.com", "letters"),
            ("a\r\n.example.com", "letters"),
            ("https://example.com", "letters"),
            ("example.com/path", "letters"),
            ("example.com:443", "letters"),
            ("me@example.com", "letters"),
            ("ab--cd.example.com", "internationalised"),
            ("xn--zzzzzzzzz.example.com", "internationalised"),
            ("a\u{202e}b.example.com", "internationalised"),
            ("localhost", "two labels"),
            ("com", "two labels"),
            ("example.123", "numeric"),
            ("co.uk", "public suffix"),
            ("shop.test", ".test"),
            ("printer.local", ".local"),
            ("api.internal", ".internal"),
            ("shop.invalid", ".invalid"),
            ("a.localhost", ".localhost"),
            ("a.example", ".example"),
            ("abc.onion", ".onion"),
            ("nas.home.arpa", ".home.arpa"),
        ];
        for (name, reason) in refusals {
            let error = refused(public.register_name(name).await, 400);
            assert!(error.starts_with("domain_name ") && error.contains(reason), "{name:?}: {error}");
        }
        let name = client.name();
        client.register_name(&name.replace(".com", ".test")).await.expect(201);
        let fill = 237 - name.len() - 1;
        let longest = format!("{}{name}", "a.".repeat(fill.div_ceil(2)));
        let longest = &longest[longest.len() - 237..].replacen('.', "a", usize::from(fill % 2 == 0));
        assert_eq!(longest.len(), 237);
        public.register_name(longest).await.expect(201);
    });
}

#[test]
fn a_body_may_have_64_kib_and_no_more() {
    on_stack(async |client| {
        let valid = json!({"domain_name": client.name()}).to_string();
        let padded = |length: usize| format!("{valid}{}", " ".repeat(length - valid.len()));
        let json = Some("application/json");
        assert!(refused(client.register(json, padded(65_537)).await, 413).contains("64 KiB"));
        refused(client.register(json, "x".repeat(300_000)).await, 413);
        let head = "POST /domains HTTP/1.1\r\nHost: api\r\nConnection: close\r\nContent-Type: application/json\r\n";
        let chunk = padded(65_537);
        let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{chunk}\r\n0\r\n\r\n", chunk.len());
        assert_eq!(client.raw(&chunked).0, 413);
        client.register(json, padded(65_536)).await.expect(201);
    });
}

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

#[test]
fn verifying_sees_the_token_or_says_what_it_saw_instead() {
    on_stack(async |client| {
        let name = client.name();
        let registered = client.register_name(&name).await.expect(201);
        let (id, token) = (registered["id"].as_str().unwrap(), registered["verification_token"].as_str().unwrap());
        let dns = client.stack.dns();

        let error = refused(client.post(id, "verify").await, 400);
        assert!(error.contains("no TXT record") && error.contains(&owner(&name)) && error.contains(token), "{error}");
        dns.set_txt(&owner(&name), "a value of somebody else's").await.unwrap();
        dns.set_txt(&owner(&name), &token.to_uppercase()).await.unwrap();
        let error = refused(client.post(id, "verify").await, 400);
        assert!(error.contains("a value of somebody else's"), "{error}");
        dns.set_servfail(&owner(&name)).await.unwrap();
        let error = refused(client.post(id, "verify").await, 424);
        assert!(error.contains(&owner(&name)) && error.contains("SERVFAIL"), "{error}");
        dns.clear_servfail(&owner(&name)).await.unwrap();
        let unchanged = client.get(id).await.expect(200);
        assert_eq!(fields(&unchanged), ["created_at", "domain_name", "id", "instructions", "status", "updated_at"]);
        assert_eq!(unchanged["status"], "pending");

        dns.set_txt(&owner(&name), token).await.unwrap();
        let verified = client.post(id, "verify").await.expect(200);
        assert_eq!(fields(&verified), ["created_at", "domain_name", "id", "status", "updated_at", "verified_at"]);
        assert_eq!((&verified["status"], &verified["id"]), (&json!("verified"), &json!(id)));
        assert!(at(&verified["verified_at"]) >= at(&verified["created_at"]));
        assert_eq!(client.get(id).await.expect(200), verified);
    });
}

#[test]
fn verifying_follows_a_cname_and_asks_nothing_once_verified() {
    on_stack(async |client| {
        let (name, target) = (client.name(), client.name());
        let registered = client.register_name(&name).await.expect(201);
        let id = registered["id"].as_str().unwrap();
        let dns = client.stack.dns();
        dns.set_cname(&owner(&name), &owner(&target)).await.unwrap();
        dns.set_txt(&owner(&target), registered["verification_token"].as_str().unwrap()).await.unwrap();
        let verified = client.post(id, "verify").await.expect(200);

        let asked = dns.questions_about(&owner(&name)).await.unwrap();
        assert!(asked > 0);
        dns.clear_cname(&owner(&name)).await.unwrap();
        assert_eq!(client.post(id, "verify").await.expect(200), verified);
        assert_eq!(dns.questions_about(&owner(&name)).await.unwrap(), asked, "a verified domain was looked up");
    });
}

#[test]
fn issuing_answers_202_with_the_value_and_get_shows_what_is_awaited() {
    on_stack(async |client| {
        let domain = client.in_status("verified").await;
        let body = client.post(&domain.id, "issue-certificate").await.expect(202);
        assert_eq!(fields(&body), ["challenge_domain", "expected_txt_value", "instructions", "order_id", "status"]);
        let text = |field: &str| body[field].as_str().unwrap();
        assert!(is_hex(text("order_id"), 32), "{body}");
        assert_eq!(
            (text("status"), text("challenge_domain")),
            ("certificate_pending", owner(&domain.domain_name).as_str())
        );
        let value = text("expected_txt_value");
        assert!(value.len() == 43 && value.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)), "{body}");
        assert!(
            text("instructions").contains(value) && text("instructions").contains(text("challenge_domain")),
            "{body}"
        );

        let looked = async || {
            let seen = client.get(&domain.id).await.expect(200);
            (seen["last_check"]["result"] == "other_value").then_some(seen)
        };
        let seen = client.stack.wait_until("a look-up saw the old token", SOON, looked).await;
        let expected = [
            "challenge_domain",
            "created_at",
            "deadline_at",
            "domain_name",
            "expected_txt_value",
            "id",
            "instructions",
            "last_check",
            "next_check_at",
            "order_id",
            "status",
            "updated_at",
            "verified_at",
        ];
        assert_eq!(fields(&seen), expected);
        for same in ["order_id", "status", "challenge_domain", "expected_txt_value"] {
            assert_eq!(seen[same], body[same], "{same}");
        }
        assert_eq!(at(&seen["deadline_at"]) - at(&seen["updated_at"]), time::Duration::minutes(10));
        at(&seen["next_check_at"]);
        let check = &seen["last_check"];
        assert_eq!(fields(check), ["at", "detail", "result", "values"]);
        at(&check["at"]);
        assert_eq!(check["values"].as_array().unwrap().len(), 1, "the ownership token is still there: {check}");

        let promised = client.post(&domain.id, "check").await.expect(202);
        assert_eq!(fields(&promised), ["next_check_at", "status"]);
        assert_eq!(promised["status"], "certificate_pending");
        at(&promised["next_check_at"]);
    });
}

#[test]
fn a_body_of_an_issuance_is_ignored_whatever_it_is() {
    on_stack(async |client| {
        let bodies = [
            (None, "garbage".to_owned()),
            (Some("application/json"), "{".to_owned()),
            (Some("text/plain"), "x".repeat(100_000)),
        ];
        for (content_type, body) in bodies {
            let domain = client.in_status("verified").await;
            let mut request =
                client.api.request(Method::POST, &format!("/domains/{}/issue-certificate", domain.id)).body(body);
            if let Some(content_type) = content_type {
                request = request.header(CONTENT_TYPE, content_type);
            }
            client.answer(request).await.expect(202);
        }
    });
}

#[test]
fn an_order_that_nobody_places_is_500_and_the_call_can_be_repeated() {
    on_stack(async |client| {
        let domain = client.in_status("verified").await;
        // The job of this one request is not due while its caller waits.
        let hide = "CREATE FUNCTION hide() RETURNS trigger LANGUAGE plpgsql AS
                        $$ BEGIN NEW.due_at := now() + interval '1 hour'; RETURN NEW; END $$;
                    CREATE TRIGGER hide BEFORE INSERT ON jobs FOR EACH ROW
                        WHEN (NEW.trace_context ->> 'request_id' = 'hidden-from-workers') EXECUTE FUNCTION hide()";
        sqlx::raw_sql(hide).execute(client.stack.pool()).await.unwrap();
        let impatient = client.guarded(Some(TOKEN));
        let issue = impatient.api.request(Method::POST, &format!("/domains/{}/issue-certificate", domain.id));
        let answer = impatient.answer(issue.header("X-Request-Id", "hidden-from-workers")).await;
        assert_eq!(refused(answer, 500), "the order could not be placed: no worker took it");
        assert_eq!(client.get(&domain.id).await.expect(200)["status"], "verified");
        client.post(&domain.id, "issue-certificate").await.expect(202);
    });
}

#[test]
fn each_status_allows_its_calls_and_a_refusal_names_it() {
    on_stack(async |client| {
        // Status of the domain; what issue, check, retry and certificate answer then.
        for (status, issue, check, retry, certificate) in [
            ("pending", 400, 400, 400, 404),
            ("certificate_pending", 400, 202, 400, 404),
            ("active", 400, 400, 400, 200),
            ("failed", 400, 400, 202, 404),
            ("verified", 202, 400, 400, 404),
        ] {
            let domain = client.in_status(status).await;
            let path = format!("/domains/{}/certificate", domain.id);
            assert_eq!(client.ask(Method::GET, &path).await.status, certificate, "certificate of {status}");
            assert_eq!(client.post(&domain.id, "check").await.status, check, "check of {status}");
            // The one that is allowed comes last.
            let mut calls = [("retry", retry), ("issue-certificate", issue)];
            calls.sort_by_key(|(_, expected)| *expected != 400);
            for (call, expected) in calls {
                if (status, call) == ("failed", "retry") {
                    client.retryable(&domain.id).await;
                }
                let answer = client.post(&domain.id, call).await;
                assert_eq!(answer.status, expected, "{call} from {status}: {}", answer.body);
                if expected == 400 {
                    assert!(answer.error().unwrap().ends_with(&format!("status is {status}")), "{}", answer.body);
                    assert_eq!(client.get(&domain.id).await.expect(200)["status"], status);
                }
            }
        }
        let (domain, _) = client.pending().await;
        let error = refused(client.post(&domain.id, "verify").await, 400);
        assert!(error.contains("certificate_pending"), "{error}");
    });
}

#[test]
fn a_failed_domain_says_why_and_can_be_verified_again() {
    on_stack(async |client| {
        let domain = client.in_status("failed").await;
        let seen = client.retryable(&domain.id).await;
        let expected = ["created_at", "domain_name", "failure", "id", "status", "updated_at", "verified_at"];
        assert_eq!(fields(&seen), expected);
        let failure = &seen["failure"];
        assert_eq!(fields(failure), ["at", "code", "detail", "retryable"]);
        assert_eq!(failure["code"], "record_not_seen");
        assert!(failure["detail"].as_str().unwrap().contains(&owner(&domain.domain_name)), "{failure}");
        assert!(at(&failure["at"]) >= at(&seen["verified_at"]));

        // The ownership token is still in DNS.
        let verified = client.post(&domain.id, "verify").await.expect(200);
        assert_eq!(fields(&verified), ["created_at", "domain_name", "id", "status", "updated_at", "verified_at"]);
        client.post(&domain.id, "issue-certificate").await.expect(202);
    });
}

#[test]
fn a_certificate_is_described_and_never_shown() {
    on_stack(async |client| {
        let domain = client.in_status("active").await;
        let path = format!("/domains/{}/certificate", domain.id);
        let shown = client.ask(Method::GET, &path).await.expect(200);
        let expected = [
            "created_at",
            "domain_id",
            "expires_at",
            "fingerprint_sha256",
            "id",
            "issued_at",
            "issuer",
            "not_after",
            "not_before",
            "serial_number",
        ];
        assert_eq!(fields(&shown), expected);
        assert!(is_hex(shown["id"].as_str().unwrap(), 32) && shown["id"] != domain.id.as_str());
        assert_eq!(shown["domain_id"], domain.id);
        assert_eq!(at(&shown["expires_at"]) - at(&shown["issued_at"]), time::Duration::days(90));
        assert!(at(&shown["created_at"]) >= at(&shown["issued_at"]), "{shown}");

        let pem: String = sqlx::query_scalar("SELECT certificate_pem FROM certificates WHERE public_id = $1")
            .bind(shown["id"].as_str().unwrap())
            .fetch_one(client.stack.pool())
            .await
            .unwrap();
        let leaf = Description::of_leaf(&pem).unwrap();
        assert_eq!(shown["fingerprint_sha256"], leaf.fingerprint_sha256);
        assert_eq!(
            shown["serial_number"].as_str().unwrap().trim_start_matches('0'),
            leaf.serial_number.trim_start_matches('0')
        );
        assert_eq!((&shown["not_before"], &shown["not_after"]), (&json!(leaf.not_before), &json!(leaf.not_after)));
        assert!(leaf.issuer.contains(shown["issuer"].as_str().unwrap()), "{} {shown}", leaf.issuer);

        let seen = client.get(&domain.id).await.expect(200);
        let expected = ["certificate", "created_at", "domain_name", "id", "status", "updated_at", "verified_at"];
        assert_eq!(fields(&seen), expected);
        let note = json!({"serial_number": shown["serial_number"], "not_after": shown["not_after"]});
        assert_eq!(seen["certificate"], note);

        // Verified again, it waits for the next issuance; the certificate stays.
        let verified = client.post(&domain.id, "verify").await.expect(200);
        assert_eq!((&verified["status"], &verified["certificate"]), (&json!("verified"), &note));
        refused(client.ask(Method::GET, &path).await, 404);
    });
}

#[test]
fn a_deleted_domain_is_unknown_everywhere_and_its_name_is_free() {
    on_stack(async |client| {
        for status in ["pending", "verified", "certificate_pending", "active", "failed"] {
            let domain = client.in_status(status).await;
            let path = format!("/domains/{}", domain.id);
            client.ask(Method::DELETE, &path).await.expect(204);
            for (method, verb) in [
                (Method::GET, ""),
                (Method::DELETE, ""),
                (Method::GET, "/certificate"),
                (Method::POST, "/verify"),
                (Method::POST, "/issue-certificate"),
                (Method::POST, "/check"),
                (Method::POST, "/retry"),
            ] {
                let error = refused(client.ask(method.clone(), &format!("{path}{verb}")).await, 404);
                assert_eq!(error, "domain not found", "{method} {verb} after {status}");
            }
            let again = client.register_name(&domain.domain_name).await.expect(201);
            assert_ne!(again["id"], domain.id);
            assert_eq!(client.get(again["id"].as_str().unwrap()).await.expect(200)["status"], "pending");
        }
    });
}
