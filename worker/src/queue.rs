//! The queue as apalis sees it: a [`Backend`] over `store::jobs`. See ARCHITECTURE.md, the life of a job.
//!
//! [`Leaser`] claims due rows, never more than there are free slots; [`Leases`] renews those that are being run, apart
//! from the runs; a [`Lease`] is what a run holds, and the only way to write its outcome. apalis is named here and in
//! `runtime.rs` only.
//!
//! [`Backend`]: apalis::prelude::Backend

mod backend;
mod lease;
mod leaser;
mod slots;
mod waits;

pub use backend::JobsBackend;
pub use lease::{Hold, Lease, Leases, Read};
pub use leaser::Leaser;
pub use slots::Slots;
pub use waits::Waits;
