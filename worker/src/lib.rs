//! The workers of Countersign: they lease jobs from Postgres, watch DNS, and finish ACME issuance.
//!
//! [`responder`] is a program of its own: the name server of delegated challenges.
//!
//! Start reading at [`steps`] (what is done), then [`advance`] (how it is committed) and [`queue`] (how it is claimed).

pub mod acme;
pub mod advance;
pub mod ctl;
mod gauges;
pub mod jobs;
pub mod keys;
mod outward;
pub mod places;
pub mod presenters;
pub mod queue;
pub mod responder;
pub mod runtime;
pub mod settings;
pub mod steps;
pub mod webhooks;
