//! Secrets at rest: sealed in every column, refused with a wrong ring, sealed and rotated while everything runs.

mod at_rest;
mod rotating;

use std::process::{Command, Stdio};

use countersign_shared::sealed;
use countersign_tests::checkout;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

/// A fresh entry of `ENCRYPTION_KEYS`.
pub(crate) fn key(id: &str) -> String {
    sealed::generate_entry(id).unwrap().expose().to_owned()
}

/// What `countersignctl` came to.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{} {}", self.out, self.err);
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {} {}", self.out, self.err))
    }
}

pub(crate) fn command(url: &str, ring: &str, args: &[&str]) -> Command {
    let mut command = Command::new(checkout::binary("countersignctl").unwrap());
    command.args(args).env_clear().env("DATABASE_URL", url).env("ENCRYPTION_KEYS", ring).stdin(Stdio::null());
    command
}

async fn ctl(url: &str, ring: &str, args: &[&str]) -> Said {
    said(command(url, ring, args)).await
}

pub(crate) async fn said(mut command: Command) -> Said {
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

async fn sql(conn: &mut PgConnection, text: &str) -> u64 {
    sqlx::query(AssertSqlSafe(text.to_owned())).execute(conn).await.unwrap().rows_affected()
}

/// Plain values of all columns, and those that each of these keys has sealed.
async fn held(url: &str, keys: &[&str]) -> (i64, Vec<i64>) {
    let status = ctl(url, "", &["keys", "status", "--json"]).await.ended(0).json();
    let plain = status["columns"].as_array().unwrap().iter().map(|column| column["plain"].as_i64().unwrap()).sum();
    let of_key = |id: &&str| {
        let line = status["keys"].as_array().unwrap().iter().find(|line| line["id"] == *id);
        line.map_or(0, |line| line["rows"].as_i64().unwrap())
    };
    (plain, keys.iter().map(of_key).collect())
}
