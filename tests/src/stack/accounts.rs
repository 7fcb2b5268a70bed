//! Accounts and tokens of `/v2`, made as an operator makes them: by `countersignctl`.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Stack;
use super::plan::Plan;
use crate::checkout;

/// An account that a test has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub id: i64,
}

/// The account whose domains `/domains` shows.
pub const DEFAULT: Account = Account { id: 1 };

/// A token as it was shown, with the id by which it is revoked.
#[derive(Clone, Debug)]
pub struct Token {
    pub id: i64,
    pub secret: String,
}

/// All that a token may do.
pub const ALL_SCOPES: &str = "certificates:read,certificates:write,certificates:key,domains:*,webhooks:*";

/// Runs `countersignctl` on a stack's database; what it said.
pub fn ctl(plan: &Plan, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(checkout::binary("countersignctl")?);
    let output = command.args(arguments).env("DATABASE_URL", plan.database_url()).output()?;
    ensure!(output.status.success(), "countersignctl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

impl Stack {
    /// `presenter`: `manual` or `test-dns`.
    pub fn account(&self, name: &str, presenter: &str) -> Account {
        let said = self.ctl_json(&["accounts", "create", name, "--presenter", presenter, "--json"]);
        Account { id: said["id"].as_i64().expect("an account has an id") }
    }

    /// `scopes` separated by commas.
    pub fn token(&self, account: Account, scopes: &str) -> Token {
        self.token_with(account, &["--scopes", scopes])
    }

    /// With other arguments of `tokens create`.
    pub fn token_with(&self, account: Account, arguments: &[&str]) -> Token {
        let id = account.id.to_string();
        let said = self.ctl_json(&[&["tokens", "create", &id, "--json"], arguments].concat());
        let secret = said["token"].as_str().expect("a token is shown").to_owned();
        Token { id: said["id"].as_i64().expect("a token has an id"), secret }
    }

    pub fn revoke(&self, token: &Token) {
        self.ctl(&["tokens", "revoke", &token.id.to_string()]);
    }

    /// Who publishes the TXT records of what the account orders from now on.
    pub fn set_presenter(&self, account: Account, presenter: &str) {
        self.ctl(&["accounts", "presenter", &account.id.to_string(), presenter]);
    }

    fn ctl(&self, arguments: &[&str]) -> String {
        ctl(self.plan(), arguments).unwrap_or_else(|error| self.fail(&format!("{error:#}")))
    }

    fn ctl_json(&self, arguments: &[&str]) -> Value {
        let said = self.ctl(arguments);
        let parsed = serde_json::from_str(&said).with_context(|| said.clone());
        parsed.unwrap_or_else(|error| self.fail(&format!("{error:#}")))
    }
}
