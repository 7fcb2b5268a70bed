//! `countersignctl acme-account show|replace`: the account keeps its URL and gets a fresh key, while workers go on.

use std::process::Command;

use countersign_shared::model::problem::ProblemCode;
use countersign_tests::acme_front::{Fault, Kind, Moment};
use countersign_tests::stack::Stack;
use serde_json::Value;

use crate::facts::SOON;
use crate::failures::{a_retry_leads_to_a_certificate, fails};
use crate::sealed::{self, Said, key};

/// The workers' settings, as the tool needs them.
struct Tool<'a> {
    stack: &'a Stack,
    ring: &'a str,
    directory: String,
}

impl<'a> Tool<'a> {
    async fn new(stack: &'a Stack, ring: &'a str) -> Self {
        let directory = "SELECT directory FROM acme_accounts";
        Self { stack, ring, directory: sqlx::query_scalar(directory).fetch_one(stack.pool()).await.unwrap() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = sealed::command(&self.stack.database_url(), self.ring, args);
        command.env("ACME_DIRECTORY", &self.directory).env("ACME_CA_FILE", self.stack.ca().https_root_file());
        command
    }

    async fn run(&self, args: &[&str]) -> Said {
        sealed::said(self.command(args)).await
    }

    async fn show(&self) -> Value {
        self.run(&["acme-account", "show", "--json"]).await.ended(0).json()["accounts"][0].clone()
    }

    /// Starts it, waits until its keyChange is held, and kills it there.
    async fn replace_killed_at(&self, moment: Moment) {
        let mut killed = self.command(&["acme-account", "replace"]).spawn().unwrap();
        let front = self.stack.front();
        let held = async || (front.held(Kind::Other, moment) > 0).then_some(());
        self.stack.wait_until("keyChange is held", SOON, held).await;
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
}

#[tokio::test]
async fn the_account_gets_another_key_under_its_url_and_workers_go_on() {
    let ring = key("k1");
    let stack = Stack::builder().workers(2).setting("ENCRYPTION_KEYS", &ring).start().await;
    stack.active_domain("before.example.com").await;
    let tool = Tool::new(&stack, &ring).await;
    let before = tool.show().await;
    assert_eq!((before["status"].as_str(), before["is_being_replaced"].as_bool()), (Some("valid"), Some(false)));

    // An order whose value is made with the old key would be refused by the CA.
    let (waits, order) = stack.pending_domain("waits.example.com").await;
    let refused = tool.run(&["acme-account", "replace"]).await.ended(4);
    assert!(refused.err.contains("1 open orders") && refused.err.contains("--break-open-orders"), "{}", refused.err);
    assert_eq!(tool.show().await, before);
    stack.publish_value(&order).await;
    stack.becomes_active(&waits.id).await;

    let replaced = tool.run(&["acme-account", "replace"]).await.ended(0);
    assert!(replaced.out.contains(before["kid"].as_str().unwrap()), "{}", replaced.out);
    let after = tool.show().await;
    assert_eq!((&after["kid"], &after["status"]), (&before["kid"], &before["status"]));
    assert_ne!(after["thumbprint"], before["thumbprint"]);
    assert_eq!(after["is_being_replaced"], false);
    for number in 1..=4 {
        stack.active_domain(&format!("after-{number}.example.com")).await;
    }
    // One that starts now, too.
    for worker in ["worker-1", "worker-2"] {
        stack.kill(worker);
        stack.restart(worker).await;
    }
    stack.active_domain("restarted.example.com").await;
    assert_eq!(stack.ca().accounts().unwrap(), 1, "another account was made");
    let again = tool.run(&["acme-account", "replace"]).await.ended(0);
    assert!(again.out.contains("has a new key"));
    assert_ne!(tool.show().await["thumbprint"], after["thumbprint"]);
    stack.active_domain("twice.example.com").await;
    stack.finish().await;
}

#[tokio::test]
async fn an_order_whose_value_the_old_key_made_is_refused_by_the_ca_and_can_be_retried() {
    let stack = Stack::builder().start().await;
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    let tool = Tool::new(&stack, "").await;
    tool.run(&["acme-account", "replace", "--break-open-orders"]).await.ended(0);
    stack.publish_value(&order).await;
    fails(&stack, &domain, ProblemCode::ChallengeRefused).await;
    let is_same = a_retry_leads_to_a_certificate(&stack, &domain, &order).await;
    assert!(!is_same, "the value of the old key was told again");
    stack.finish().await;
}

#[tokio::test]
async fn a_replacement_that_was_killed_or_not_heard_of_is_finished_by_the_next() {
    let ring = key("k1");
    let stack = Stack::builder().acme_front().setting("ENCRYPTION_KEYS", &ring).start().await;
    stack.active_domain("before.example.com").await;
    let (tool, front) = (Tool::new(&stack, &ring).await, stack.front());
    let first = tool.run(&["acme-account", "show", "--offline", "--json"]).await.ended(0).json()["accounts"][0].clone();

    // Killed before the CA has heard of it: nothing has changed but what is stored.
    front.hold(Kind::Other);
    tool.replace_killed_at(Moment::Before).await;
    front.lose_held();
    front.release();
    let shown = tool.run(&["acme-account", "show", "--offline", "--json"]).await.ended(0).json()["accounts"][0].clone();
    assert_eq!((&shown["thumbprint"], &shown["is_being_replaced"]), (&first["thumbprint"], &true.into()));
    stack.active_domain("not-heard.example.com").await;

    // Killed when the CA has done it: workers find the next key, before and after a start.
    front.hold_answers(Kind::Other);
    tool.replace_killed_at(Moment::After).await;
    front.release();
    stack.active_domain("done-at-the-ca.example.com").await;
    stack.kill("worker-1");
    stack.restart("worker-1").await;
    stack.active_domain("started-between.example.com").await;
    tool.run(&["acme-account", "replace"]).await.ended(0);
    let second = tool.show().await;
    assert_eq!((&second["kid"], &second["is_being_replaced"]), (&first["kid"], &false.into()));
    assert_ne!(second["thumbprint"], first["thumbprint"]);
    stack.active_domain("finished.example.com").await;

    // The answer is lost, nobody is killed.
    front.next(1, Kind::Other, Fault::lose_answer());
    tool.run(&["acme-account", "replace"]).await.ended(0);
    assert_ne!(tool.show().await["thumbprint"], second["thumbprint"]);
    stack.active_domain("unheard-answer.example.com").await;

    // Twice while the worker says nothing: neither its key nor the stored one is the account's.
    tool.run(&["acme-account", "replace"]).await.ended(0);
    front.hold_answers(Kind::Other);
    tool.replace_killed_at(Moment::After).await;
    front.release();
    stack.active_domain("twice-meanwhile.example.com").await;
    tool.run(&["acme-account", "replace"]).await.ended(0);
    stack.active_domain("finished-again.example.com").await;
    assert_eq!(stack.ca().accounts().unwrap(), 1, "another account was made");
    stack.finish().await;
}
