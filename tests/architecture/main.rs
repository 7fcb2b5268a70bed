//! The rules of the house (ARCHITECTURE.md), as tests. A broken rule is shown as `file:line: the line — the reason`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod crates;
mod dependencies;
mod deploy;
mod failure_codes;
mod layout;
mod observability;
mod schema;
mod security;
mod settings;
mod source;
