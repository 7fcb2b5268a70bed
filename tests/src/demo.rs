//! `make demo`: one domain's way to its certificate, told to a person; then, in `unattended`, what needs nobody.

mod unattended;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::api_client::Answer;
use crate::certificate::{self, Description};
use crate::stack::{Stack, environment, waiting};

const DOMAIN: &str = "shop.example.com";

/// How long the certificate may take once its TXT value is published.
const ISSUANCE: Duration = Duration::from_secs(120);

/// Runs it to its end; the stack is gone when this returns.
pub async fn run() -> Result<()> {
    let began = Instant::now();
    let mut story = Story::new();
    story.title("Countersign: from a domain to its certificate");

    let step = story.step("Start Postgres, Pebble as the CA, a DNS server, the API, a worker and our name server");
    let mut builder = Stack::builder().responders(1).setting("POLL_INTERVAL", "1s").setting("POLL_TIMEOUT", "5m");
    for (name, value) in environment::our_settings() {
        builder = builder.setting(&name, value);
    }
    for (name, value) in environment::pebble_settings() {
        builder = builder.pebble(&name, value);
    }
    let stack = builder.try_start().await?;
    story.line("api", stack.api().url());
    story.line("ca", &stack.ca().directory());
    story.line("dns", &stack.plan().dns.address());
    story.line("database", &stack.database_url());
    story.done(step);

    let told = async {
        tell(&stack, &mut story).await?;
        unattended::tell(&stack, &mut story).await
    };
    if let Err(error) = told.await {
        bail!("{error:#}\n\nThe ends of the logs:\n{}", stack.abandon());
    }
    stack.finish().await;
    let step = story.step("Stop everything");
    drop(stack);
    story.done(step);
    story.title(&format!("Done in {}.", readable(began.elapsed())));
    Ok(())
}

async fn tell(stack: &Stack, story: &mut Story) -> Result<()> {
    let api = stack.api();

    let step = story.step(&format!("Register {DOMAIN}"));
    story.request("POST /domains", &format!("{{\"domain_name\": \"{DOMAIN}\"}}"));
    let domain = story.answer(&api.try_register(DOMAIN).await?, 201)?;
    let id = text(&domain, "id")?;
    story.done(step);

    let step = story.step("Prove that the domain is ours: publish the token, have it verified");
    let record = format!("_acme-challenge.{DOMAIN}.");
    publish(stack, story, &record, text(&domain, "verification_token")?).await?;
    story.request(&format!("POST /domains/{id}/verify"), "");
    story.answer(&api.try_verify(id).await?, 200)?;
    story.done(step);

    let step = story.step("Ask for a certificate");
    story.request(&format!("POST /domains/{id}/issue-certificate"), "");
    let order = story.answer(&api.try_issue(id).await?, 202)?;
    story.done(step);

    let step = story.step("Publish the value the CA wants to see, and wait for `active`");
    let mut watch = Watch::default();
    // A worker looks before the record is there, as it does in real life.
    waiting::poll(Duration::from_secs(5), async || watch.look(stack, story, id).await.unwrap_or(true).then_some(()))
        .await;
    publish(stack, story, text(&order, "challenge_domain")?, text(&order, "expected_txt_value")?).await?;
    let active = waiting::poll(ISSUANCE, async || match watch.look(stack, story, id).await {
        Err(error) => Some(Err(error)),
        Ok(_) => match watch.status.as_str() {
            "active" => Some(Ok(())),
            "failed" => Some(Err(anyhow::anyhow!("the domain is `failed`: {}", watch.domain["failure"]))),
            _ => None,
        },
    });
    active.await.with_context(|| format!("the domain is not `active` after {}", readable(ISSUANCE)))??;
    story.done(step);

    let step = story.step("Read about the certificate");
    story.request(&format!("GET /domains/{id}/certificate"), "");
    let answer = story.answer(&api.try_certificate(id).await?, 200)?;
    story.done(step);

    let step = story.step("The certificate, from the table `certificates`");
    let query =
        sqlx::query_scalar("SELECT certificate_pem FROM certificates WHERE public_id = $1").bind(text(&answer, "id")?);
    let chain: String = query.fetch_one(stack.pool()).await.context("reading the table `certificates`")?;
    let description = Description::of_leaf(&chain)?;
    description.to_string().lines().for_each(|line| story.say(line));
    ensure!(description.names == [DOMAIN], "the certificate is for {:?}", description.names);
    if let Some(fingerprint) = answer["fingerprint_sha256"].as_str() {
        ensure!(fingerprint == description.fingerprint_sha256, "the API answered another fingerprint: {fingerprint}");
    }
    let root = std::fs::read_to_string(stack.ca().issued_root_file())?;
    let length = certificate::verify(&chain, &root)?;
    story.say(&format!("chain        {length} certificates, leading to the CA's root: verified"));
    story.done(step);
    Ok(())
}

async fn publish(stack: &Stack, story: &mut Story, name: &str, value: &str) -> Result<()> {
    story.say(&format!("publishing TXT {name} \"{value}\""));
    stack.dns().set_txt(name, value).await
}

/// What `GET /domains/{id}` showed last, so that only news is told.
#[derive(Default)]
struct Watch {
    domain: Value,
    status: String,
    last_check: Value,
}

impl Watch {
    /// Tells what is new; true once a worker has looked at the DNS or the wait is over.
    async fn look(&mut self, stack: &Stack, story: &mut Story, id: &str) -> Result<bool> {
        self.domain = stack.api().try_fetch(id).await?.body;
        let check = &self.domain["last_check"];
        if !check.is_null() && *check != self.last_check {
            let detail = check["detail"].as_str().map(|detail| format!(" ({detail})")).unwrap_or_default();
            story.say(&format!("look-up      {} {}{detail}", check["result"].as_str().unwrap_or("?"), check["values"]));
            self.last_check = check.clone();
        }
        let status = text(&self.domain, "status")?;
        if status != self.status {
            story.say(&format!("status       {status}"));
            status.clone_into(&mut self.status);
        }
        Ok(!self.last_check.is_null() || self.status != "certificate_pending")
    }
}

/// The output: numbered steps with their times, readable in a log, with colours on a terminal only.
struct Story {
    steps: usize,
    coloured: bool,
}

impl Story {
    fn new() -> Self {
        Self { steps: 0, coloured: std::io::stdout().is_terminal() && !environment::forbids_colour() }
    }

    fn title(&self, text: &str) {
        println!("\n{}", self.paint("1", text));
    }

    fn step(&mut self, what: &str) -> Instant {
        self.steps += 1;
        println!("\n{}", self.paint("1;36", &format!("{}. {what}", self.steps)));
        Instant::now()
    }

    fn done(&self, began: Instant) {
        println!("   {}", self.paint("32", &format!("took {}", readable(began.elapsed()))));
    }

    fn line(&self, what: &str, value: &str) {
        self.say(&format!("{what:<12} {value}"));
    }

    fn say(&self, text: &str) {
        println!("   {text}");
    }

    fn request(&self, line: &str, body: &str) {
        println!("   {}", self.paint("1", format!("> {line} {body}").trim_end()));
    }

    /// Shows an answer; fails if it has another status.
    fn answer(&self, answer: &Answer, status: u16) -> Result<Value> {
        println!("   < {}", answer.status);
        format!("{:#}", answer.body).lines().for_each(|line| println!("     {}", self.paint("2", line)));
        ensure!(answer.status == status, "the API answered {} instead of {status}", answer.status);
        Ok(answer.body.clone())
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn text<'a>(answer: &'a Value, field: &str) -> Result<&'a str> {
    answer[field].as_str().with_context(|| format!("the API's answer has no `{field}`: {answer}"))
}

fn readable(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}
