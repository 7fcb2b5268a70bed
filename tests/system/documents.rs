//! What the API says about itself: `/openapi.json` is true of what is running, and `/docs` is a page that loads nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::Result;
use countersign_tests::api_client::{Answer, ApiClient};
use countersign_tests::checkout;
use countersign_tests::stack::Stack;
use reqwest::Method;
use serde_json::{Value, json};

use crate::answers::{TOKEN, check, fields, refused};
use crate::facts::{SOON, all};

const METHODS: [Method; 6] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// Not in the description, because they hold or show it.
const PAGES: [&str; 2] = ["/docs", "/openapi.json"];

fn committed() -> String {
    fs::read_to_string(checkout::root().unwrap().join("api/openapi.json")).unwrap()
}

/// Every `$ref` below.
fn references(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str);
            own.into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

/// The methods of each path of `/domains`, as upper-case names. `/v2` has tests of its own.
fn described(description: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let paths = description["paths"].as_object().unwrap().iter().filter(|(path, _)| !path.starts_with("/v2/"));
    paths.map(|(path, calls)| (path.clone(), fields(calls).into_iter().map(str::to_uppercase).collect())).collect()
}

/// The paths in the API's table of routes.
fn routed() -> BTreeSet<String> {
    let source = fs::read_to_string(checkout::root().unwrap().join("api/src/routes.rs")).unwrap();
    let routes = source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
    routes.filter(|path| !PAGES.contains(&path.as_str())).collect()
}

#[tokio::test]
async fn the_description_is_the_committed_one_whole_and_open_to_everybody() {
    let stack = Stack::builder().workers(0).setting("AUTH_TOKEN", TOKEN).start().await;
    let stranger = stack.api().with_token(None);
    let answer = stranger.request(Method::GET, "/openapi.json").send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    assert!(answer.text().await.unwrap() == committed(), "another description than the committed one");

    let description: Value = serde_json::from_str(&committed()).unwrap();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1."));
    let references = references(&description);
    assert!(references.len() > 50);
    for reference in references {
        let place = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads elsewhere"));
        assert!(description.pointer(place).is_some(), "{reference} leads nowhere");
    }
    for (name, schema) in description["components"]["schemas"].as_object().unwrap() {
        jsonschema::draft202012::meta::validate(schema).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    // What is described is there and asks for the token; what is not described is not there.
    let calls = described(&description);
    assert_eq!(calls.keys().cloned().collect::<BTreeSet<_>>(), routed());
    for (path, methods) in &calls {
        let path = path.replace("{id}", &"0".repeat(32));
        for method in METHODS {
            let answer = call(&stranger, method.clone(), &path).await.unwrap();
            let expected = if methods.contains(method.as_str()) { 401 } else { 405 };
            let allow = answer.headers.get("allow").map(|allow| allow.to_str().unwrap().to_owned()).unwrap_or_default();
            refused(answer, expected);
            if expected == 405 {
                // HEAD is GET without the body.
                let allowed: BTreeSet<String> =
                    allow.split(',').filter(|method| *method != "HEAD").map(ToOwned::to_owned).collect();
                assert_eq!(&allowed, methods, "{path}");
            }
        }
    }
    for page in PAGES {
        for method in METHODS {
            let answer = call(&stranger, method.clone(), page).await.unwrap();
            assert_eq!(answer.status, if method == Method::GET { 200 } else { 405 }, "{method} {page}");
        }
    }
}

/// The description with what it takes to hold answers against it, and the calls that were seen.
struct Description {
    whole: Value,
    seen: BTreeSet<String>,
}

impl Description {
    /// Holds an answer against what is described of the call, and returns its body.
    #[track_caller]
    fn agrees(&mut self, method: &str, path: &str, status: u16, answer: Result<Answer>) -> Value {
        let Answer { headers, body, .. } =
            answer.inspect(|answer| assert_eq!(answer.status, status, "{}", answer.body)).unwrap();
        check(status, &headers, &body);
        let response = &self.whole["paths"][path][method]["responses"][status.to_string()];
        assert!(response.is_object(), "{status} is not described for {method} {path}: {body}");
        self.seen.insert(format!("{method} {path} {status}"));
        let schema = &response["content"]["application/json"]["schema"];
        assert_eq!(schema.is_object(), !body.is_null(), "{method} {path} {status}: {body}");
        if schema.is_object() {
            self.is_valid(schema, &body);
            self.is_described(schema, &body);
        }
        body
    }

    #[track_caller]
    fn is_valid(&self, schema: &Value, body: &Value) {
        let mut schema = schema.clone();
        schema["components"] = self.whole["components"].clone();
        let validator =
            jsonschema::draft202012::options().offline().should_validate_formats(true).build(&schema).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(body).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{body}:\n{}", errors.join("\n"));
    }

    /// A schema says nothing against further fields; we do.
    #[track_caller]
    fn is_described(&self, schema: &Value, body: &Value) {
        let schema = match schema["$ref"].as_str() {
            Some(reference) => self.whole.pointer(&reference[1..]).unwrap(),
            None => schema,
        };
        // One of something and null.
        if let Some(schema) = schema["oneOf"].get(0).filter(|_| !body.is_null()) {
            return self.is_described(schema, body);
        }
        for (name, value) in body.as_object().into_iter().flatten() {
            let field = &schema["properties"][name];
            assert!(field.is_object(), "{name} is not described: {body}");
            self.is_described(field, value);
        }
        body.as_array().into_iter().flatten().for_each(|item| self.is_described(&schema["items"], item));
    }
}

async fn call(api: &ApiClient, method: Method, path: &str) -> Result<Answer> {
    api.send(api.request(method, path)).await
}

#[tokio::test]
async fn real_answers_are_as_described() {
    let stack = Stack::builder()
        .apis(2)
        .setting("POLL_TIMEOUT", "10m")
        .setting_of("api-2", "AUTH_TOKEN", TOKEN)
        .setting_of("api-2", "PLACE_WAIT", "100ms")
        .start()
        .await;
    let (api, guarded) = (stack.api(), stack.api_replica(2).with_token(Some(TOKEN)));
    let mut description = Description { whole: serde_json::from_str(&committed()).unwrap(), seen: BTreeSet::new() };
    let (list, one) = ("/domains", "/domains/{id}");
    let [verify, issue, check, retry, certificate] =
        ["verify", "issue-certificate", "check", "retry", "certificate"].map(|verb| format!("{one}/{verb}"));

    // A domain on its way to a certificate.
    let name = "shop.example.com";
    let owner = format!("_acme-challenge.{name}.");
    let registered = description.agrees("post", list, 201, api.try_register(name).await);
    let id = registered["id"].as_str().unwrap().to_owned();
    let shown = description.agrees("get", one, 200, api.try_fetch(&id).await);
    assert_eq!(shown["status"], "pending");
    description.agrees("post", &verify, 400, api.try_verify(&id).await);
    let diagnosis = format!("{one}/diagnosis");
    let found = call(api, Method::GET, &format!("/domains/{id}/diagnosis")).await;
    description.agrees("get", &diagnosis, 200, found);
    stack.dns().set_servfail(&owner).await.unwrap();
    description.agrees("post", &verify, 424, api.try_verify(&id).await);
    stack.dns().clear_servfail(&owner).await.unwrap();
    stack.dns().set_txt(&owner, registered["verification_token"].as_str().unwrap()).await.unwrap();
    description.agrees("post", &verify, 200, api.try_verify(&id).await);
    // No worker answers while it is stopped.
    stack.pause("worker-1");
    description.agrees("post", &issue, 500, guarded.try_issue(&id).await);
    stack.resume("worker-1");
    let order = description.agrees("post", &issue, 202, api.try_issue(&id).await);
    let shown = description.agrees("get", one, 200, api.try_fetch(&id).await);
    assert_eq!(shown["status"], "certificate_pending");
    description.agrees("post", &issue, 400, api.try_issue(&id).await);
    description.agrees("post", &check, 202, api.try_check(&id).await);
    let looked = async || {
        let body = description.agrees("get", one, 200, api.try_fetch(&id).await);
        (!body["last_check"].is_null()).then_some(())
    };
    stack.wait_until("a look-up is shown", SOON, looked).await;

    // It fails, is tried again, and succeeds.
    let over =
        "UPDATE orders SET deadline_at = now() - interval '1 second', revision = revision + 1 WHERE public_id = $1";
    sqlx::query(over).bind(order["order_id"].as_str().unwrap()).execute(stack.pool()).await.unwrap();
    stack.becomes(&id, "failed", SOON).await;
    let retryable = async || {
        let body = description.agrees("get", one, 200, api.try_fetch(&id).await);
        (body["failure"]["retryable"] == true).then_some(())
    };
    stack.wait_until("a retry is allowed", SOON, retryable).await;
    description.agrees("get", list, 200, api.try_list("").await);
    let order = description.agrees("post", &retry, 202, api.try_retry(&id).await);
    description.agrees("post", &retry, 400, api.try_retry(&id).await);
    description.agrees("get", list, 200, api.try_list("status=certificate_pending").await);
    description.agrees("get", &certificate, 404, api.try_certificate(&id).await);
    let value = order["expected_txt_value"].as_str().unwrap();
    stack.dns().set_txt(&owner, value).await.unwrap();
    stack.becomes_active(&id).await;
    let shown = description.agrees("get", one, 200, api.try_fetch(&id).await);
    assert_eq!(shown["status"], "active");
    description.agrees("get", &certificate, 200, api.try_certificate(&id).await);
    description.agrees("post", &check, 400, api.try_check(&id).await);
    api.register("second.example.com").await;
    let first_page = description.agrees("get", list, 200, api.try_list("limit=1").await);
    assert!(first_page["next_cursor"].is_string());
    description.agrees("get", list, 200, api.try_list("").await);

    // What else a call may answer.
    description.agrees("get", list, 400, api.try_list("limit=0").await);
    description.agrees("post", list, 500, api.try_register(name).await);
    description.agrees("post", list, 400, api.try_register("").await);
    description.agrees("post", list, 413, api.try_register(&"x".repeat(70_000)).await);
    let calls: Vec<(Method, String)> = described(&description.whole)
        .into_iter()
        .flat_map(|(path, methods)| methods.into_iter().map(move |method| (method.parse().unwrap(), path.clone())))
        .collect();
    let stranger = guarded.with_token(None);
    let unknown = "0".repeat(32);
    for (method, path) in &calls {
        let verb = method.as_str().to_lowercase();
        let concrete = path.replace("{id}", &unknown);
        description.agrees(&verb, path, 401, call(&stranger, method.clone(), &concrete).await);
        if path.contains("{id}") {
            description.agrees(&verb, path, 404, call(&guarded, method.clone(), &concrete).await);
        }
    }
    // Calls that take a key meet one whose first request, without a body, still runs.
    for (method, path) in &calls {
        if description.whole["paths"][path]["post"]["responses"]["409"].is_null() || method != Method::POST {
            continue;
        }
        let concrete = path.replace("{id}", &unknown);
        let query = "INSERT INTO idempotency_keys (caller, path, key, request_sha256, runs_until)
                     VALUES ('domains', encode(sha256(convert_to($1, 'UTF8')), 'hex'), 'key', sha256(''), now() + interval '1 hour')";
        sqlx::query(query).bind(&concrete).execute(stack.pool()).await.unwrap();
        let keyed = || guarded.request(Method::POST, &concrete).header("idempotency-key", "key");
        description.agrees("post", path, 409, guarded.send(keyed()).await);
        description.agrees("post", path, 422, guarded.send(keyed().json(&json!({}))).await);
    }
    description.agrees("delete", one, 204, api.try_delete(&id).await);

    stack.finish().await;
    stack.kill("postgres");
    let answers = all(calls.iter().map(|(method, path)| {
        let request = api.request(method.clone(), &path.replace("{id}", &unknown)).json(&json!({"domain_name": name}));
        let api = api.clone();
        async move { api.send(request).await }
    }));
    for ((method, path), answer) in calls.iter().zip(answers.await) {
        description.agrees(&method.as_str().to_lowercase(), path, 503, answer);
    }

    // Nothing is described that was not seen, but for 500s that need a database that refuses statements.
    for (method, path) in &calls {
        let method = method.as_str().to_lowercase();
        for status in fields(&description.whole["paths"][path][&method]["responses"]) {
            let seen = description.seen.contains(&format!("{method} {path} {status}"));
            assert!(seen || status == "500", "{method} {path} never answered {status}");
        }
    }
}

#[tokio::test]
async fn the_page_for_people_names_every_call_and_loads_nothing() {
    let stack = Stack::builder().workers(0).setting("AUTH_TOKEN", TOKEN).start().await;
    let stranger = stack.api().with_token(None);
    let answer = call(&stranger, Method::GET, "/docs").await.unwrap();
    let header = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
    assert_eq!((answer.status, header("content-type").as_str()), (200, "text/html; charset=utf-8"));
    let policy = header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!policy.contains("http") && !policy.contains('*') && !policy.contains("script"), "{policy}");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(header(name), value, "{name}");
    }
    assert!(!header("x-request-id").is_empty());

    let html = answer.body.as_str().unwrap().to_lowercase();
    assert!(html.starts_with("<!doctype html>"));
    for loads in [
        "http:",
        "https:",
        "src=",
        "srcset",
        "<script",
        "<link",
        "<iframe",
        "<object",
        "<embed",
        "<form",
        "<base",
        "url(",
        "@import",
        "javascript:",
        "onload",
        "onerror",
    ] {
        assert!(!html.contains(loads), "{loads}");
    }
    // Its links lead to the description or to a place on the page itself.
    for link in html.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let place = link.strip_prefix('#');
        assert!(place.map_or(link == "/openapi.json", |id| html.contains(&format!("id=\"{id}\""))), "{link}");
    }
    let description: Value = serde_json::from_str(&committed()).unwrap();
    for (path, methods) in described(&description) {
        for method in methods {
            let call = format!("{}</span> {path}</code>", method.to_lowercase());
            assert!(html.contains(&call), "{call}");
        }
    }
}
