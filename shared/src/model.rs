//! The domain model: states, events, names, schedules, problems.
//!
//! Pure: no I/O, no async, no clock, nothing of ours outside this folder. Time comes in as an argument.

pub mod address;
pub mod certificate;
pub mod certificate_names;
pub mod challenge;
pub mod delegation;
pub mod diagnosis;
pub mod domain;
pub mod entries;
pub mod filter;
pub mod identifier;
pub mod ids;
pub mod order;
pub mod presenter;
pub mod problem;
pub mod schedule;
pub mod scope;
pub mod secret;
pub mod walk;
pub mod webhook;
