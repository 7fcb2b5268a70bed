//! `countersign-dns`: the authoritative name server of the zone that customers delegate their challenges to.
//!
//! It answers from Postgres what orders need: `packet` reads a question and writes the answer, `records` knows the values,
//! `zone` what never changes, `sockets` who is answered at all.

pub mod packet;
mod records;
mod settings;
mod sockets;
pub mod zone;

use std::sync::Arc;

use anyhow::{Context as _, bail};
use countersign_shared::config::ConfigError;
use countersign_shared::store::{Pool, notifications};
use countersign_shared::{lifecycle, ops};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use records::Records;
pub use settings::Settings;
use sockets::Responder;
use zone::Zone;

/// Answers until `stop`, then finishes the answers under way within `SHUTDOWN_GRACE`.
///
/// From the start it answers what needs no database; once that was reached and its schema found to be ours, it has `started`.
pub async fn run(
    settings: &Settings,
    pool: Pool,
    started: ops::Started,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let apex = settings.delegation.challenge_zone.as_ref().ok_or(ConfigError::Missing("CHALLENGE_ZONE"))?;
    let zone = Zone::new(apex, &settings.dns_name_servers, settings.dns_contact.as_deref(), &settings.dns_addresses)?;
    let listener = settings.database.listener()?;
    let (udp, tcp) = (settings.dns_addr.bind_udp().await?, settings.dns_addr.bind().await?);

    let records = Records::new(pool.clone());
    let responder = Arc::new(Responder::new(zone, Arc::clone(&records)));
    let mut tasks = JoinSet::new();
    let udp = Arc::new(udp);
    for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
        tasks.spawn(Arc::clone(&responder).serve_udp(Arc::clone(&udp), stop.clone()));
    }
    tasks.spawn(Arc::clone(&responder).serve_tcp(tcp, stop.clone()));
    if lifecycle::await_schema(&pool, &stop).await? {
        let (notify, notified) = broadcast::channel(1024);
        tasks.spawn(listener.forward(notifications::CHALLENGES, notify, stop.clone()));
        tasks.spawn(Arc::clone(&records).listen(notified, stop.clone()));
        tasks.spawn(Arc::clone(&records).watch_database(stop.clone()));
        tracing::info!(zone = %apex, address = %settings.dns_addr, version = env!("CARGO_PKG_VERSION"), "ready");
        started.set();
    }

    while let Some(ended) = tasks.join_next().await {
        ended.context("a task of the name server panicked")?;
        // A name server of which a part has ended must not look alive.
        if !stop.is_cancelled() {
            bail!("a task of the name server ended by itself");
        }
    }
    if tokio::time::timeout(settings.shutdown_grace, responder.finish()).await.is_err() {
        tracing::warn!("SHUTDOWN_GRACE is over: leaving questions unanswered");
    }
    Ok(())
}
