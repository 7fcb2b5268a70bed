//! What the API and the workers both need, and nothing else: the model (pure), the store (all SQL), DNS look-ups,
//! sealed secrets, configuration, logging, life cycle, how listeners serve, and what the operators' listener always answers.
//!
//! It must not know HTTP requests of customers, ACME or apalis: those belong to `api` and `worker`.

pub mod config;
pub mod dns;
pub mod doctor;
pub mod lifecycle;
pub mod model;
pub mod operator;
pub mod ops;
pub mod sealed;
pub mod serve;
pub mod store;
pub mod telemetry;
