//! The system tests: our real binaries with Postgres, Pebble and DNS, a module per topic.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod ca_faults;
mod chains;
mod chaos;
mod concurrency;
mod crash_matrix;
mod deadlines;
mod doctor;
mod facts;
mod failures;
mod issuance;
mod lanes;
mod observability;
mod outages;
mod patience;
mod pool;
mod pooler;
mod presenters;
mod renewals;
mod responder;
mod restarts;
mod restore;
mod retry;
mod reuse;
mod rolling;
mod scheduled;
mod secrets;
mod telemetry;
mod upgrades;
mod webhooks;

mod acme_account;
mod answers;
mod api_fuzz;
mod bad_inputs;
mod databases;
mod documents;
mod http_contract;
mod limits;
mod list;
mod operator;
mod queue;
mod schema;
mod sealed;
mod v2;
