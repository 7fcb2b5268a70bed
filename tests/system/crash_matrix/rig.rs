//! The stack on which the cells run: it brings several orders to the place, holds them there, ends the worker that has them, and waits
//! until another has taken over.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use countersign_shared::model::problem::ProblemCode;
use countersign_tests::acme_front::{Fault, Kind};
use countersign_tests::api_client::{Domain, Order};
use countersign_tests::stack::Stack;

use super::cells::{At, Cell, Way};
use super::gate::Gate;
use super::settled;
use crate::facts::{SOON, all, all_become_active, events, pending_domains, verified_domains};
use crate::failures::{CA_SAYS, fails, fronted};

/// In one cell; the worker that ends has at least one of them.
const ORDERS: usize = 3;
const WORKERS: [&str; 2] = ["worker-1", "worker-2"];
/// SHUTDOWN_GRACE and the release after it; three times that on a busy machine.
const STOPS_WITHIN: Duration = Duration::from_secs(3 * (2 + 3));

pub(super) struct Rig {
    stack: Stack,
    gate: Gate,
    /// That the CA should know.
    accounts: usize,
    /// That there should be, at the CA and here.
    certificates: usize,
}

/// A job under the lease of the worker that has it.
#[derive(Clone, Debug, sqlx::FromRow)]
struct Leased {
    id: i64,
    lease: i64,
    leased_by: String,
}

impl Rig {
    pub(super) async fn start() -> Self {
        let stack = fronted().workers(2).setting("LEASE_FOR", "2s").setting("SHUTDOWN_GRACE", "2s");
        let stack = stack.setting("PLACE_WAIT", "25s").setting("POLL_TIMEOUT", "5m").start().await;
        let gate = Gate::new(&stack.database_url()).await;
        // So that there is an account: only the cells that are about it make another one.
        stack.active_domain("first.example.com").await;
        Self { stack, gate, accounts: 1, certificates: 1 }
    }

    pub(super) fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Returns the seconds until another worker had all that the ended one had.
    pub(super) async fn run(&mut self, number: usize, cell: Cell) -> f64 {
        if cell.at.needs_fresh_workers() {
            self.restart_workers(cell.at.needs_fresh_account()).await;
        }
        let names: Vec<String> = (1..=ORDERS).map(|order| format!("cell-{number}-{order}.example.com")).collect();
        let domains = verified_domains(&self.stack, &names).await;
        self.hold(cell.at).await;
        let (domains, takeover) = if cell.at.is_while_placing() {
            let (domains, takeover) = tokio::join!(self.issue(domains), self.crash(cell));
            self.publish(&domains).await;
            (domains, takeover)
        } else {
            let domains = self.issue(domains).await;
            self.publish(&domains).await;
            let takeover = self.crash(cell).await;
            (domains, takeover)
        };
        all_become_active(&self.stack, &domains).await;
        self.certificates += ORDERS;
        settled::each_order_has_one_certificate(&self.stack, &domains).await;
        assert_eq!(self.stack.ca().certificates_issued().unwrap(), self.certificates, "{cell}: certificates at the CA");
        assert_eq!(self.stack.ca().accounts().unwrap(), self.accounts, "{cell}: accounts at the CA");
        self.gate.remove().await;
        takeover
    }

    /// As [`Self::run`], where the CA has declared the authorizations dead: only the customer can go on, and is told why, once.
    pub(super) async fn run_dead(&self, number: usize, cell: Cell) {
        let names: Vec<String> = (1..=ORDERS).map(|order| format!("dead-{number}-{order}.example.com")).collect();
        let domains = pending_domains(&self.stack, &names).await;
        self.stack.front().always(Kind::Order, Fault::invalid_order());
        let dead = Fault::invalid_authorization("unauthorized", CA_SAYS);
        self.stack.front().always(Kind::Authorization, dead);
        self.hold(cell.at).await;
        self.publish(&domains).await;
        self.crash(cell).await;
        for (domain, order) in &domains {
            let (_, acme) = fails(&self.stack, domain, ProblemCode::ChallengeRefused).await;
            assert_eq!(acme["detail"], CA_SAYS, "{cell}");
            let story = events(&self.stack, &order.order_id).await;
            let ends = ["issued", "gave_up", "cancelled"];
            let ends: Vec<&String> = story.iter().filter(|event| ends.contains(&event.as_str())).collect();
            assert_eq!(ends, ["gave_up"], "{cell}: {story:?}");
        }
        self.stack.front().heal();
        self.gate.remove().await;
        let orders = self.stack.front().orders();
        let sent = orders.values().filter(|order| order.names.iter().any(|name| names.contains(name)));
        assert_eq!(sent.map(|order| order.csrs_sha256.len()).sum::<usize>(), 0, "{cell}: a CSR for a dead order");
        assert_eq!(self.stack.ca().certificates_issued().unwrap(), self.certificates, "{cell}: certificates at the CA");
    }

    async fn restart_workers(&mut self, with_new_account: bool) {
        self.stack.finish().await;
        WORKERS.iter().for_each(|worker| self.stack.kill(worker));
        if with_new_account {
            sqlx::query("DELETE FROM acme_accounts").execute(self.stack.pool()).await.unwrap();
            self.accounts += 1;
        }
        for worker in WORKERS {
            self.stack.restart(worker).await;
        }
    }

    /// All at once.
    async fn issue(&self, domains: Vec<Domain>) -> Vec<(Domain, Order)> {
        let calls = domains.into_iter().map(|domain| {
            let api = self.stack.api().clone();
            async move {
                let order = api.issue(&domain.id).await;
                (domain, order)
            }
        });
        all(calls.collect::<Vec<_>>()).await
    }

    async fn publish(&self, domains: &[(Domain, Order)]) {
        for (_, order) in domains {
            self.stack.publish_value(order).await;
        }
    }

    async fn hold(&self, at: At) {
        match at {
            At::Request(kind, moment) => self.stack.front().hold_at(kind, moment),
            At::Commit(event, moment) => self.gate.close(event, moment).await,
        }
    }

    async fn let_go(&self, at: At) {
        match at {
            At::Request(..) => self.stack.front().release(),
            At::Commit(..) => self.gate.open().await,
        }
    }

    /// How many orders, or workers, are held.
    async fn held(&self, at: At) -> usize {
        match at {
            At::Request(kind, moment) => self.stack.front().held(kind, moment),
            At::Commit(..) => self.gate.waiting().await,
        }
    }

    /// The jobs of the cell, first of all one that is held, once all of them are where they shall be.
    ///
    /// In the middle of COMMIT one is enough: its job's row is locked, so that its worker can renew no lease, and whoever comes late
    /// finds its own ended.
    async fn held_jobs(&self, at: At) -> Vec<Leased> {
        const LEASED: &str = "SELECT id, lease, leased_by FROM jobs
                              WHERE kind = 'poll-challenge' AND leased_by IS NOT NULL ORDER BY id";
        const FREE: &str = "SELECT j.id FROM orders o JOIN jobs j ON j.order_id = o.id FOR UPDATE OF o SKIP LOCKED";
        let all_held = async || {
            let mut jobs: Vec<Leased> = sqlx::query_as(LEASED).fetch_all(self.stack.pool()).await.unwrap();
            let held = self.held(at).await;
            if at.is_in_commit() {
                let free: Vec<i64> = sqlx::query_scalar(FREE).fetch_all(self.stack.pool()).await.unwrap();
                jobs.sort_by_key(|job| free.contains(&job.id));
                let in_commit = jobs.iter().filter(|job| !free.contains(&job.id)).count();
                return (held > 0 && in_commit == held).then_some(jobs);
            }
            let workers: BTreeSet<&String> = jobs.iter().map(|job| &job.leased_by).collect();
            let expected = if at.is_once_per_worker() { workers.len() } else { ORDERS };
            (jobs.len() == ORDERS && held == expected).then_some(jobs)
        };
        self.stack.wait_until("the orders of the cell are held", SOON, all_held).await
    }

    async fn crash(&self, cell: Cell) -> f64 {
        let jobs = self.held_jobs(cell.at).await;
        let ended = jobs[0].leased_by.clone();
        let its_jobs: Vec<Leased> = jobs.into_iter().filter(|job| job.leased_by == ended).collect();
        let refused = self.refused_outcomes(&ended);
        let began = Instant::now();
        match cell.way {
            Way::Kill => self.stack.kill(&ended),
            Way::Terminate => {
                let status = self.stack.terminate(&ended, STOPS_WITHIN).await;
                assert!(status.success(), "{cell}: {status}");
            }
            Way::Pause => self.stack.pause(&ended),
        }
        // A row in the middle of COMMIT is nobody's to claim. In all other cells the one that takes over comes to the same place before
        // anything goes on, and what is left of the ended one goes on beside it.
        if cell.at.is_in_commit() {
            self.let_go(cell.at).await;
            self.taken_over(&its_jobs).await;
        } else {
            self.taken_over(&its_jobs).await;
            self.let_go(cell.at).await;
        }
        let takeover = began.elapsed();
        if cell.way == Way::Pause {
            let answered = async || (self.held(cell.at).await == 0).then_some(());
            self.stack.wait_until("the CA has answered the paused worker", SOON, answered).await;
            self.stack.resume(&ended);
            let all_refused = async || (self.refused_outcomes(&ended) >= refused + its_jobs.len()).then_some(());
            self.stack.wait_until("the outcomes of the paused worker are refused", SOON, all_refused).await;
        } else {
            self.stack.restart(&ended).await;
        }
        takeover.as_secs_f64()
    }

    async fn taken_over(&self, jobs: &[Leased]) {
        let query =
            "SELECT count(*) FROM jobs JOIN unnest($1::bigint[], $2::bigint[]) AS was (id, lease) USING (id, lease)";
        let (ids, leases): (Vec<i64>, Vec<i64>) = jobs.iter().map(|job| (job.id, job.lease)).unzip();
        let left = async || {
            let left = sqlx::query_scalar::<_, i64>(query).bind(&ids).bind(&leases).fetch_one(self.stack.pool()).await;
            (left.unwrap() == 0).then_some(())
        };
        self.stack.wait_until(&format!("others have taken over {jobs:?}"), SOON, left).await;
    }

    fn refused_outcomes(&self, worker: &str) -> usize {
        self.stack.log(worker).matches("lease lost").count()
    }
}
