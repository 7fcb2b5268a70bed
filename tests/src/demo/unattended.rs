//! The part of the demo in which nobody sets a TXT record: a delegated domain, its renewal, and a wildcard by `/v2`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use super::{ISSUANCE, Story, readable, text};
use crate::api_client::ApiClient;
use crate::certificate::Description;
use crate::stack::accounts::{self, DEFAULT};
use crate::stack::{Stack, waiting};

const DELEGATED: &str = "blog.example.com";
const WILDCARD: &str = "example.net";

pub(super) async fn tell(stack: &Stack, story: &mut Story) -> Result<()> {
    let id = delegated(stack, story).await?;
    renewed(stack, story, &id).await?;
    wildcard(stack, story).await
}

/// Returns the domain's id.
async fn delegated(stack: &Stack, story: &mut Story) -> Result<String> {
    let api = stack.api();
    let step = story.step(&format!("{DELEGATED}: one CNAME, and no TXT record ever"));
    story.request("POST /domains", &format!("{{\"domain_name\": \"{DELEGATED}\"}}"));
    let domain = api.try_register(DELEGATED).await?.expect(201);
    let id = text(&domain, "id")?;
    let (owner, target) = (text(&domain["delegation"], "record_name")?, text(&domain["delegation"], "cname_target")?);
    story.say(&format!("publishing CNAME {owner} {target}"));
    stack.dns().set_cname(owner, target).await?;
    story.request(&format!("POST /domains/{id}/verify"), "");
    ensure!(api.try_verify(id).await?.expect(200)["status"] == "verified", "the token was not seen through the CNAME");
    let asked = Instant::now();
    story.request(&format!("POST /domains/{id}/issue-certificate"), "");
    let order = api.try_issue(id).await?.expect(202);
    story.say(text(&order, "instructions")?);
    becomes(stack, id, |domain| domain["status"] == "active").await?;
    story.say(&format!("active {} after the call", readable(asked.elapsed())));
    story.done(step);
    Ok(id.to_owned())
}

async fn renewed(stack: &Stack, story: &mut Story, id: &str) -> Result<()> {
    let step = story.step("It renews by itself: its time is moved to now, in the database");
    // Planned by the first run of the job, which looks every minute.
    wake(stack).await?;
    let planned = becomes(stack, id, |domain| domain["certificate"]["renews_at"].is_string()).await?;
    let (renews_at, not_after) =
        (text(&planned["certificate"], "renews_at")?, text(&planned["certificate"], "not_after")?);
    story.say(&format!("serial       {}, planned for {renews_at}, good until {not_after}", serial(&planned)));
    let due = sqlx::query(
        "UPDATE certificates SET renew_at = now(), ari_check_due = now() + interval '1 day' WHERE renew_at IS NOT NULL",
    );
    due.execute(stack.pool()).await.context("moving the time of the renewal")?;
    wake(stack).await?;
    let renewed = becomes(stack, id, |domain| serial(domain) != serial(&planned)).await?;
    ensure!(renewed["status"] == "active", "the domain is {} after its renewal", renewed["status"]);
    story.say(&format!("serial       {}, and the domain was active all the time", serial(&renewed)));
    story.done(step);
    Ok(())
}

async fn wildcard(stack: &Stack, story: &mut Story) -> Result<()> {
    let step = story.step(&format!("A certificate for *.{WILDCARD} and {WILDCARD}, by /v2"));
    let token = accounts::ctl(stack.plan(), &["tokens", "create", "1", "--name", "make demo"])?;
    let api = stack.api().with_token(Some(token.trim()));
    let domains = format!("/v2/{}/domains", DEFAULT.id);
    let registered = call(&api, Method::POST, &domains, Some(json!({ "name": WILDCARD })), 201).await?;
    story.request(&format!("POST {domains}"), &format!("{{\"name\": \"{WILDCARD}\"}}"));
    let (owner, target) = (format!("_acme-challenge.{WILDCARD}."), text(&registered, "delegation_target")?);
    story.say(&format!("publishing CNAME {owner} {target}"));
    stack.dns().set_cname(&owner, target).await?;

    let certificates = format!("{domains}/{WILDCARD}/certificates");
    let input = json!({ "name": "*", "alternate_names": [WILDCARD] });
    story.request(&format!("POST {certificates}/letsencrypt"), &input.to_string());
    let ordered = call(&api, Method::POST, &format!("{certificates}/letsencrypt"), Some(input), 201).await?;
    let certificate = ordered["id"].as_i64().context("an order has an id")?;
    let issue = format!("{certificates}/letsencrypt/{certificate}/issue");
    story.request(&format!("POST {issue}"), "");
    call(&api, Method::POST, &issue, None, 202).await?;
    let issued = waiting::poll(ISSUANCE, async || {
        match call(&api, Method::GET, &format!("{certificates}/{certificate}"), None, 200).await {
            Ok(shown) if shown["state"] == "issued" => Some(Ok(())),
            Ok(shown) if shown["state"] == "failed" => Some(Err(anyhow::anyhow!("{}", shown["failure_reason"]))),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }
    });
    issued.await.with_context(|| format!("no certificate after {}", readable(ISSUANCE)))??;
    let bundle = call(&api, Method::GET, &format!("{certificates}/{certificate}/download"), None, 200).await?;
    let description = Description::of_leaf(text(&bundle, "server")?)?;
    description.to_string().lines().for_each(|line| story.say(line));
    let mut names = description.names;
    names.sort();
    ensure!(names == [format!("*.{WILDCARD}"), WILDCARD.to_owned()], "the certificate is for {names:?}");
    story.done(step);
    Ok(())
}

/// The `data` of an answer of `/v2`.
async fn call(api: &ApiClient, method: Method, path: &str, body: Option<Value>, status: u16) -> Result<Value> {
    let request = api.request(method, path);
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let answer = api.send(request).await?;
    ensure!(answer.status == status, "{path} answered {}: {}", answer.status, answer.body);
    Ok(answer.body["data"].clone())
}

async fn becomes(stack: &Stack, id: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    let look = async || match stack.api().try_fetch(id).await {
        Ok(answer) if answer.body["status"] == "failed" => Some(Err(anyhow::anyhow!("{}", answer.body["failure"]))),
        Ok(answer) => is_so(&answer.body).then_some(Ok(answer.body)),
        Err(error) => Some(Err(error)),
    };
    waiting::poll(ISSUANCE, look).await.with_context(|| format!("waited {} in vain", readable(ISSUANCE)))?
}

/// The job that renews runs every minute otherwise.
async fn wake(stack: &Stack) -> Result<()> {
    let woken = async || {
        let query = sqlx::query("UPDATE jobs SET due_at = now() WHERE kind = 'renew-due' AND leased_by IS NULL");
        match query.execute(stack.pool()).await {
            Ok(done) => (done.rows_affected() > 0).then_some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    };
    let woken = waiting::poll(Duration::from_secs(10), woken).await.context("the job `renew-due` cannot be woken")?;
    // Whoever is listening looks at once, the others within a second.
    woken?;
    sqlx::query("SELECT pg_notify('countersign_jobs', '')").execute(stack.pool()).await?;
    Ok(())
}

fn serial(domain: &Value) -> &str {
    domain["certificate"]["serial_number"].as_str().unwrap_or_default()
}
