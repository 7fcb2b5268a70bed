//! Requests that a machine thinks of, against both surfaces: no 5xx that is not documented, no answer that is not described.
//!
//! The machine is schemathesis, of PyPI, in a folder of its own below `target`.

use std::path::PathBuf;
use std::process::{Command, Output};

use countersign_tests::stack::accounts::{ALL_SCOPES, DEFAULT};
use countersign_tests::stack::{Stack, environment};
use countersign_tests::{aloud, checkout};
use reqwest::Method;
use serde_json::{Value, json};

use crate::facts::SOON;

const VERSION: &str = "schemathesis==4.32.5";
/// For each surface, in seconds.
const TIME: &str = "30";

/// The program, installed if need be; or why there is none.
fn schemathesis() -> Result<PathBuf, String> {
    let folder = checkout::root().unwrap().join("target/schemathesis");
    let program = folder.join("bin/schemathesis");
    let run = |command: &mut Command| match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("{command:?}: {error}")),
    };
    if !program.is_file() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", VERSION]))?;
    }
    Ok(program)
}

async fn fuzz(program: PathBuf, stack: &Stack, token: &str, paths: &str, checks: &str) -> Output {
    let mut command = Command::new(program);
    // It leaves a folder where it runs.
    command.current_dir(checkout::root().unwrap().join("target/schemathesis"));
    command.arg("run").arg(format!("{}/openapi.json", stack.api().url()));
    command.args(["--max-time", TIME, "--include-path-regex", paths, "--checks", checks]);
    command.args(["--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--warnings", "off", "--no-color"]);
    command.args(["--generation-database", "none", "--header", &format!("Authorization: Bearer {token}")]);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// A certificate that can be shown, downloaded and renewed: number 1, of domain 1 of the default account.
async fn issue_one(stack: &Stack, token: &str) {
    let domain = stack.api().register("shop.example.com").await;
    let api = stack.api().with_token(Some(token));
    let certificates = "/v2/1/domains/shop.example.com/certificates";
    let order = api.request(Method::POST, &format!("{certificates}/letsencrypt")).json(&json!({"name": "api"}));
    assert_eq!(api.send(order).await.unwrap().expect(201)["data"]["id"], 1, "of domain {}", domain.id);
    let issue = api.request(Method::POST, &format!("{certificates}/letsencrypt/1/issue"));
    api.send(issue).await.unwrap().expect(202);
    let issued = async || {
        let shown = api.send(api.request(Method::GET, &format!("{certificates}/1"))).await.unwrap().expect(200);
        (shown["data"]["state"] == "issued").then_some(())
    };
    stack.wait_until("the certificate is issued", SOON, issued).await;
}

/// What the API has answered with a 5xx: method, route and status.
fn server_errors(stack: &Stack) -> Vec<(String, String, u64)> {
    let log = stack.log("api-1");
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    lines
        .filter(|line| line["message"] == "answered" && line["status"].as_u64() >= Some(500))
        .map(|line| (text(&line["method"]), text(&line["route"]), line["status"].as_u64().unwrap_or_default()))
        .collect()
}

#[tokio::test]
#[ignore = "needs schemathesis, and a minute: make fuzz-api, make test-all"]
async fn no_request_of_a_machine_gets_an_answer_that_is_not_described() {
    let program = match schemathesis() {
        Ok(program) => program,
        Err(why) => {
            let is_demanded = environment::is_ci();
            assert!(!is_demanded, "schemathesis cannot be had: {why}");
            return aloud::say(&format!("skipped: schemathesis cannot be had (package python3-venv): {why}"));
        }
    };
    let stack =
        Stack::builder().setting("RATE_LIMIT", "0").setting("POLL_TIMEOUT", "10m").leftovers_allowed().start().await;
    let token = stack.token(DEFAULT, ALL_SCOPES).secret;
    stack.set_presenter(DEFAULT, "test-dns");
    issue_one(&stack, &token).await;

    let described = "status_code_conformance,content_type_conformance,response_schema_conformance";
    let (of_v2, of_domains) = (format!("{described},not_a_server_error"), described);
    for (paths, checks) in [("^/v2/", of_v2.as_str()), ("^/domains", of_domains)] {
        let output = fuzz(program.clone(), &stack, &token, paths, checks).await;
        let said = String::from_utf8_lossy(&output.stdout);
        println!("{said}");
        assert!(output.status.success(), "{paths}: {said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("passed") || said.contains("No issues"), "{said}");
    }
    // A name that is taken, as documented; an order that was not placed in time.
    let documented = |(method, route, status): &(String, String, u64)| {
        let may_be_late = ["/domains/{id}/issue-certificate", "/domains/{id}/retry"].contains(&route.as_str());
        *status == 500 && method == "POST" && (route == "/domains" || may_be_late)
    };
    let other: Vec<_> = server_errors(&stack).into_iter().filter(|error| !documented(error)).collect();
    assert!(other.is_empty(), "{other:?}");
    assert!(!stack.log("api-1").contains("panicked"), "something panicked");
}
