//! The scheduled jobs: one fixed row each in the queue, which is how "once in the fleet" works.

pub mod sweep;
