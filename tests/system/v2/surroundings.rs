//! What surrounds the calls: routes and methods that are none, limits, a database that is away. Always in the words of this
//! surface, with its headers.

use std::collections::BTreeMap;

use countersign_tests::checkout;
use countersign_tests::receiver::Receiver;
use countersign_tests::stack::Stack;
use countersign_tests::stack::accounts::ALL_SCOPES;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Caller, check, message};
use crate::answers::fields;
use crate::facts::{SOON, all};
use crate::webhooks::hooked;

const METHODS: [Method; 6] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// What the calls name below an account.
pub(super) struct Named {
    pub(super) account: i64,
    pub(super) domain: String,
    pub(super) certificate: i64,
    /// Of the certificate.
    pub(super) renewal: i64,
    pub(super) webhook: i64,
}

impl Named {
    /// All of it exists: an issued certificate, a renewal that nobody has issued, and a webhook to this URL.
    pub(super) async fn made(caller: &Caller<'_>, domain: &str, webhook: &str) -> Self {
        caller.domain(domain).await;
        let certificate = caller.requested(domain, json!({"name": "api"})).await;
        caller.issued(domain, certificate).await;
        let renewals = format!("domains/{domain}/certificates/letsencrypt/{certificate}/renewals");
        let renewal = caller.post(&renewals, &json!({})).await.expect(201);
        let webhook = caller.post("webhooks", &json!({ "url": webhook })).await.expect(201);
        let id = |answer: &Value| answer["data"]["id"].as_i64().unwrap();
        let (renewal, webhook) = (id(&renewal), id(&webhook));
        Self { account: caller.account.id, domain: domain.to_owned(), certificate, renewal, webhook }
    }

    /// Every call: its methods and its path.
    pub(super) fn calls(&self) -> Vec<(Vec<Method>, String)> {
        CALLS
            .iter()
            .map(|(methods, path)| {
                let path = path
                    .replace("{account}", &self.account.to_string())
                    .replace("{domain}", &self.domain)
                    .replace("{certificate}", &self.certificate.to_string())
                    .replace("{renewal}", &self.renewal.to_string())
                    .replace("{webhook}", &self.webhook.to_string());
                (methods.to_vec(), path)
            })
            .collect()
    }
}

/// As the description has them.
const CALLS: [(&[Method], &str); 18] = [
    (&[Method::GET], "/v2/whoami"),
    (&[Method::GET], "/v2/accounts"),
    (&[Method::GET, Method::POST], "/v2/{account}/domains"),
    (&[Method::DELETE, Method::GET], "/v2/{account}/domains/{domain}"),
    (&[Method::GET], "/v2/{account}/domains/{domain}/diagnosis"),
    (&[Method::DELETE, Method::GET, Method::PUT], "/v2/{account}/presenter"),
    (&[Method::DELETE, Method::GET, Method::PUT], "/v2/{account}/domains/{domain}/presenter"),
    (&[Method::GET], "/v2/{account}/domains/{domain}/certificates"),
    (&[Method::GET], "/v2/{account}/domains/{domain}/certificates/{certificate}"),
    (&[Method::GET], "/v2/{account}/domains/{domain}/certificates/{certificate}/download"),
    (&[Method::GET], "/v2/{account}/domains/{domain}/certificates/{certificate}/private_key"),
    (&[Method::GET], "/v2/{account}/domains/{domain}/certificates/{certificate}/challenges"),
    (&[Method::POST], "/v2/{account}/domains/{domain}/certificates/letsencrypt"),
    (&[Method::POST], "/v2/{account}/domains/{domain}/certificates/letsencrypt/{certificate}/issue"),
    (&[Method::POST], "/v2/{account}/domains/{domain}/certificates/letsencrypt/{certificate}/renewals"),
    (&[Method::POST], "/v2/{account}/domains/{domain}/certificates/letsencrypt/{certificate}/renewals/{renewal}/issue"),
    (&[Method::GET, Method::POST], "/v2/{account}/webhooks"),
    (&[Method::DELETE, Method::GET], "/v2/{account}/webhooks/{webhook}"),
];

#[test]
fn the_calls_are_those_of_the_description() {
    let text = std::fs::read_to_string(checkout::root().unwrap().join("api/openapi.json")).unwrap();
    let description: Value = serde_json::from_str(&text).unwrap();
    let described: BTreeMap<String, Vec<String>> = description["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(path, _)| path.starts_with("/v2/"))
        .map(|(path, calls)| (path.clone(), fields(calls).into_iter().map(str::to_uppercase).collect()))
        .collect();
    let known = CALLS.map(|(methods, path)| (path.to_owned(), methods.iter().map(ToString::to_string).collect()));
    assert_eq!(BTreeMap::from(known), described);
}

#[tokio::test]
async fn what_is_no_call_is_404_and_a_wrong_method_405_with_what_is_allowed() {
    let receiver = Receiver::start().unwrap();
    let stack = hooked(&receiver).start().await;
    let caller = Caller::new(&stack, "shop", "test-dns");
    let domain = "shop.example.com";
    let named = Named::made(&caller, domain, &receiver.url("/")).await;
    let (id, renewal, webhook) = (named.certificate, named.renewal, named.webhook);
    for (methods, path) in named.calls() {
        for method in METHODS.into_iter().filter(|method| !methods.contains(method)) {
            let answer = caller.ask(method.clone(), &path).await;
            // A certificate of this name, or a call of another method: both is true of it.
            if path.ends_with("/letsencrypt") && method == Method::GET {
                assert!([404, 405].contains(&answer.status), "{path}");
                continue;
            }
            assert_eq!(answer.status, 405, "{method} {path}: {}", answer.body);
            let allowed = answer.headers["allow"].to_str().unwrap().split(',').map(str::trim);
            let mut allowed: Vec<Method> =
                allowed.filter(|one| *one != "HEAD").map(|one| one.parse().unwrap()).collect();
            allowed.sort_by_key(ToString::to_string);
            assert_eq!(allowed, methods, "{path}");
        }
    }
    let account = caller.account.id;
    let certificates = format!("/v2/{account}/domains/{domain}/certificates");
    for path in [
        "/v2/".to_owned(),
        "/v2/nothing".to_owned(),
        format!("/v2/{account}"),
        format!("/v2/{account}/"),
        format!("/v2/{account}/zones"),
        format!("/v2/{account}/domains/"),
        format!("/v2/{account}/domains/%ff"),
        format!("/v2/{account}/domains/%ff/certificates"),
        format!("/v2/%ff/domains/{domain}"),
        format!("/v2/+{account}/domains"),
        "/v2/x/domains".to_owned(),
        "/v2/99999999999999999999/domains".to_owned(),
        format!("{certificates}/"),
        format!("{certificates}/%ff"),
        format!("{certificates}/x"),
        format!("{certificates}/+{id}"),
        format!("{certificates}/-1"),
        format!("{certificates}/0"),
        format!("{certificates}/99999999999999999999"),
        format!("{certificates}/{id}/nothing"),
        format!("{certificates}/{id}/download/x"),
        format!("{certificates}/letsencrypt/{id}"),
        "/v2/%ff/webhooks".to_owned(),
        format!("/v2/{account}/webhooks/"),
        format!("/v2/{account}/webhooks/%ff"),
        format!("/v2/{account}/webhooks/+{webhook}"),
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let answer = caller.ask(method.clone(), &path).await;
            assert!(answer.status == 404 || (answer.status == 405 && method != Method::GET), "{method} {path}");
            // Before anything else, who it is.
            assert_eq!(message(caller.with_token(None).ask(method, &path).await, 401), "Authentication failed");
        }
    }
    for call in [
        "%ff/issue".to_owned(),
        "%ff/renewals".to_owned(),
        format!("+{id}/renewals"),
        format!("{id}/renewals/%ff/issue"),
        format!("{id}/renewals/+{renewal}/issue"),
        format!("{id}/renewals/0/issue"),
        format!("{id}/renewals/99999999999999999999/issue"),
    ] {
        message(caller.ask(Method::POST, &format!("{certificates}/letsencrypt/{call}")).await, 404);
    }
    // The root itself, and what the client would make of a base URL with a slash.
    for path in ["/v2", "//v2/whoami"] {
        let answer = caller.api.send(caller.api.request(Method::GET, path)).await.unwrap();
        assert!([401, 404].contains(&answer.status) && answer.body.is_object(), "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn an_issued_name_of_an_upstream_kind_is_no_certificate() {
    let stack = Stack::builder().workers(0).start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    caller.domain("shop.example.com").await;
    caller.domain("other.example.com").await;
    let id = caller.order("shop.example.com", json!({})).await;
    // Of another domain of the same account.
    for call in ["", "/download", "/private_key", "/challenges"] {
        let answer = caller.get(&format!("domains/other.example.com/certificates/{id}{call}")).await;
        assert_eq!(message(answer, 404), format!("Certificate `{id}` not found"));
    }
    assert_eq!(message(caller.issue("other.example.com", id).await, 404), format!("Certificate `{id}` not found"));
    assert_eq!(caller.certificate("shop.example.com", id).await["state"], "new");
}

#[tokio::test]
async fn without_the_database_every_call_is_503_and_says_so_in_json() {
    let stack = Stack::builder().workers(0).start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    caller.domain("shop.example.com").await;
    let id = caller.order("shop.example.com", json!({})).await;
    stack.kill("postgres");
    let named = Named {
        account: caller.account.id,
        domain: "shop.example.com".to_owned(),
        certificate: id,
        renewal: 1,
        webhook: 1,
    };
    let calls =
        named.calls().into_iter().flat_map(|(methods, path)| methods.into_iter().map(move |m| (m, path.clone())));
    let answers =
        all(
            calls.map(|(method, path)| {
                let api = caller.api.clone();
                async move {
                    (path.clone(), api.send(api.request(method, &path).json(&json!({"name": "a"}))).await.unwrap())
                }
            }),
        );
    for (path, answer) in answers.await {
        check(answer.status, &answer.headers, &answer.body);
        assert_eq!((answer.status, fields(&answer.body)), (503, vec!["message"]), "{path}");
    }
}

#[tokio::test]
async fn an_api_that_is_full_says_so_with_every_header() {
    let stack =
        Stack::builder().workers(0).setting("MAX_REQUESTS", "1").setting("PLACE_WAIT", "5s").leftovers_allowed();
    let stack = stack.start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    let domain = stack.verified_domain("shop.example.com").await;
    // It waits for a worker, and holds the one place of both surfaces.
    // Unless a question whether it is full has that place when it comes.
    let held = stack.wait_until("the issuance has the place", SOON, async || {
        let answer = stack.api().try_issue(&domain.id).await.unwrap();
        (answer.status != 503).then_some(answer)
    });
    let full = async || {
        let answer = caller.ask(Method::GET, "/v2/whoami").await;
        (answer.status == 503).then_some(answer)
    };
    let (_, answer) = tokio::join!(held, stack.wait_until("the API is full", SOON, full));
    assert!(answer.body["message"].as_str().unwrap().contains("too many"), "{}", answer.body);
    caller.ask(Method::GET, "/v2/whoami").await.expect(200);
}

#[tokio::test]
async fn a_request_id_is_kept_and_every_token_is_asked_for_first() {
    let stack = Stack::builder().workers(0).start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    let request = caller.api.request(Method::GET, "/v2/whoami").header("x-request-id", "trace-1");
    assert_eq!(caller.send(request).await.headers["x-request-id"], "trace-1");
    let token = stack.token(caller.account, ALL_SCOPES).secret;
    let anybody = caller.api.with_token(None);
    for (header, status) in [
        (format!("Bearer {token}"), 200),
        (format!("bearer {token}"), 200),
        (token.clone(), 401),
        (format!("Basic {token}"), 401),
        (format!("Bearer{token}"), 401),
        (format!("Bearer  {token}"), 401),
        ("Bearer".to_owned(), 401),
        ("Bearer ".to_owned(), 401),
        (format!("Bearer {}", token.to_uppercase()), 401),
        (format!("Bearer {token}x"), 401),
        (String::new(), 401),
    ] {
        let request = anybody.request(Method::GET, "/v2/whoami").header("authorization", &header);
        assert_eq!(caller.send(request).await.status, status, "{header}");
    }
    let whoami = caller.ask(Method::GET, "/v2/whoami").await.expect(200);
    assert_eq!(fields(&whoami["data"]), ["account", "user"]);
    assert_eq!((&whoami["data"]["user"], &whoami["data"]["account"]["id"]), (&Value::Null, &json!(caller.account.id)));
    let accounts = caller.ask(Method::GET, "/v2/accounts").await.expect(200);
    assert_eq!((fields(&accounts), &accounts["data"]), (vec!["data"], &json!([whoami["data"]["account"]])));
}
