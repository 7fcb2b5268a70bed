//! Puts the worker together: claim loop, renewals, apalis worker, drain.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use apalis::prelude::{Data, ParallelizeExt as _, WorkerBuilder};
use countersign_shared::config::Switch;
use countersign_shared::doctor::Doctor;
use countersign_shared::sealed::KeyRing;
use countersign_shared::store::Pool;
use countersign_shared::store::jobs::{JobKind, Lane, Worker};
use countersign_shared::store::notifications::{self, Listener};
use countersign_shared::telemetry::{metrics, spans};
use futures::FutureExt as _;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::advance::Advance;
use crate::gauges;
use crate::jobs::{self, deliver, purge, renew_due, sweep, try_presenter};
use crate::places::Places;
use crate::queue::{JobsBackend, Lease, Leaser, Leases, Slots, Waits};
use crate::settings::Settings;
use crate::steps::Tools;

/// After the grace, for giving back what could not be finished: not for ever, the database may be away.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(3);

/// Runs jobs until `stop`, then lets the steps under way finish within `SHUTDOWN_GRACE` and gives the rest back.
pub async fn run(
    settings: &Settings,
    pool: Pool,
    listener: Listener,
    tools: Tools,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let worker = settings.name();
    let abandon = CancellationToken::new();
    let advance = Arc::new(Advance {
        tools,
        worker: worker.clone(),
        retain_for: settings.retain_for,
        stopping: stop.clone(),
        abandon: abandon.clone(),
    });
    let (waits, waits_writer) = Waits::new(pool.clone());
    let leases = Leases::new(pool.clone(), settings.lease_for, waits);
    let (notify, notified) = broadcast::channel(64);
    let (claimed, to_run) = mpsc::unbounded_channel();
    let leaser = Leaser {
        pool: pool.clone(),
        directory: advance.tools.acme.directory().into(),
        worker: Worker { name: worker.clone(), process: rand::random() },
        leases: Arc::clone(&leases),
        slots: Slots::new(settings.worker_slots.into()),
        notified,
        claimed,
    };

    let mut tasks = JoinSet::new();
    tasks.spawn(gauges::measure(pool.clone(), stop.clone()));
    tasks.spawn(listener.forward(notifications::JOBS, notify, stop.clone()));
    tasks.spawn(leaser.run(stop.clone()));
    // These go on while the last steps finish.
    tasks.spawn(leases.renew(abandon.clone()));
    tasks.spawn(waits_writer.run(abandon.clone()));
    tasks.spawn(abandon_after(settings.shutdown_grace, stop.clone(), abandon.clone()));

    #[expect(
        clippy::disallowed_methods,
        reason = "apalis awaits the task it spawns, and its panic is settled in run_job"
    )]
    let apalis_worker = WorkerBuilder::new(worker.as_str())
        .backend(JobsBackend::new(to_run))
        .data(advance)
        .parallelize(tokio::spawn)
        .build(run_job);
    let stopped = {
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            Ok::<(), std::io::Error>(())
        }
    };
    let overdue = async {
        abandon.cancelled().await;
        tokio::time::sleep(GIVE_BACK_WITHIN).await;
    };
    let (mut drained, mut overdue) = (pin!(apalis_worker.run_until(stopped)), pin!(overdue));
    loop {
        tokio::select! {
            ended = &mut drained => {
                ended?;
                if !stop.is_cancelled() {
                    bail!("the worker ended by itself");
                }
                break;
            }
            () = &mut overdue => {
                tracing::warn!("not everything could be given back: leases run out by themselves");
                return Ok(());
            }
            // A worker that no longer claims or renews must not look alive.
            Some(task) = tasks.join_next(), if !stop.is_cancelled() => {
                if !stop.is_cancelled() {
                    bail!("a task of the worker ended by itself: {task:?}");
                }
            }
        }
    }
    abandon.cancel();
    tokio::select! {
        () = overdue => tracing::warn!("not everything could be given back: leases run out by themselves"),
        _ = tasks.join_all() => {}
    }
    Ok(())
}

async fn abandon_after(grace: Duration, stop: CancellationToken, abandon: CancellationToken) {
    stop.cancelled().await;
    if abandon.run_until_cancelled(tokio::time::sleep(grace)).await.is_some() {
        tracing::warn!("SHUTDOWN_GRACE is over: giving back the steps still under way");
        abandon.cancel();
    }
}

/// One claimed job, from its span to its outcome.
async fn run_job(mut lease: Lease, advance: Data<Arc<Advance>>) -> Result<(), Infallible> {
    let span = tracing::info_span!(
        "job",
        job.id = lease.job.fence.id,
        job.attempt = lease.job.attempts,
        order.id = tracing::field::Empty,
        domain.name = tracing::field::Empty,
        webhook.id = tracing::field::Empty,
        event.name = tracing::field::Empty,
        request.id = lease.job.request_id,
    );
    let claimed = spans::Claimed {
        kind: lease.job.kind.into(),
        id: lease.job.fence.id,
        attempts: lease.job.attempts,
        request_id: lease.job.request_id.as_deref(),
        traceparent: lease.job.traceparent.as_deref(),
    };
    let read = lease.read.take();
    let work = async {
        if let Some(lost_by) = &lease.job.lost_by {
            metrics::lease_lost();
            tracing::warn!(lost_by, "taken over from a worker that was lost");
        }
        // In boxes: what wraps a future moves it around, with the room of all that it may ever await.
        let run = async {
            match lease.job.kind {
                JobKind::PollChallenge { order_id } => Box::pin(advance.run(&lease, order_id, read)).await,
                JobKind::DeliverEvent { delivery_id } => Box::pin(deliver::run(&advance, &lease, delivery_id)).await,
                JobKind::Sweep | JobKind::Purge | JobKind::RenewDue
                    if lease.job.attempts >= advance.tools.max_attempts =>
                {
                    Box::pin(jobs::park(&lease)).await;
                }
                JobKind::Sweep => Box::pin(sweep::run(&advance, &lease)).await,
                JobKind::Purge => Box::pin(purge::run(&advance, &lease)).await,
                JobKind::RenewDue => Box::pin(renew_due::run(&advance, &lease)).await,
                JobKind::TryPresenter { proposal_id } => {
                    Box::pin(try_presenter::run(&advance, &lease, proposal_id)).await
                }
            }
        };
        if AssertUnwindSafe(run).catch_unwind().await.is_err() {
            Box::pin(advance.settle_panic(&lease)).await;
        }
    };
    spans::run(&claimed, work).instrument(span).await;
    Ok(())
}

impl Tools {
    /// The facades, set up from the settings. No network yet.
    pub fn new(settings: &Settings, pool: Pool, ring: KeyRing) -> anyhow::Result<Self> {
        Ok(Self {
            acme: crate::acme::Acme::new(settings.acme.settings()?, pool.clone(), ring.clone())?,
            lookup: settings.dns.lookup()?,
            keys: crate::keys::KeyMaker::new(),
            webhooks: crate::webhooks::Webhooks::new(
                settings.webhooks.may.webhook_allow_private,
                settings.webhooks.webhook_ca_file.as_deref(),
            )?,
            // Half of the lane: no account holds up all others.
            places: Places::new(Slots::most(settings.worker_slots.into(), Lane::Deliveries) / 2),
            presenters: crate::presenters::Presenters::new(
                pool.clone(),
                ring.clone(),
                settings.test_dns_management_url.as_ref(),
                settings.webhooks.presenters()?,
            )?,
            challenge_zone: settings.delegation.challenge_zone.clone(),
            poll_interval: settings.poll_interval,
            poll_timeout: settings.poll_timeout,
            confirm_grace: settings.confirm_grace,
            max_attempts: settings.max_attempts,
            check_again: settings.dns.dns_authoritative_check == Switch::On,
            doctor: Doctor {
                authoritative: settings.dns.authoritative()?,
                challenge_zone: settings.delegation.challenge_zone.clone(),
                caa_identities: settings.caa.caa_identities.clone(),
            },
            pool,
            ring,
        })
    }
}
