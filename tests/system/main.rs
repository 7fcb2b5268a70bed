//! The system tests: our real binaries with Postgres, Pebble and DNS, a module per topic.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod concurrency;
mod deadlines;
mod facts;
mod issuance;
mod lanes;
mod restarts;
mod reuse;
mod secrets;

mod acme_account;
mod databases;
mod http_contract;
mod queue;
mod schema;
