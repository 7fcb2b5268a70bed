//! The API: registering, fetching and issuing at 1, 16 and 128 connections, beside pgbench with the same statements and a route of
//! axum's that answers a constant.

mod hello;

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use countersign_tests::stack::Stack;
use countersign_tests::stack::waiting::poll;
use tempfile::TempDir;

use crate::chart::Chart;
use crate::knot::Knot;
use crate::meter::Meter;
use crate::pgbench;
use crate::production;
use crate::readings::WORKER;
use crate::report::{Figure, Goal, Section, Unit};
use crate::rows;
use crate::statistics::Runs;
use crate::stub_ca::StubCa;
use crate::wrk::{Answered, Load};
use hello::Hello;

const CONNECTIONS: [usize; 3] = [1, 16, 128];
const RUNS: u64 = 5;
const SECONDS: u64 = 3;
const WARM_UP_SECONDS: u64 = 2;
/// Verified domains made for a second of issuing: more than can be issued.
const FRESH_A_SECOND: u64 = 3_000;
/// Numbers for a second of registering: more than can be registered. No rows are made for them.
const NAMES_A_SECOND: u64 = 50_000;
/// Domains that are fetched.
const FETCHED: i64 = 10_000;

/// What they are called, and in the stack.
const METERED: [(&str, &str); 3] = [("the API", "api-1"), ("the worker", WORKER), ("Postgres", "postgres")];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Register,
    Fetch,
    Issue,
}

const CALLS: [Call; 3] = [Call::Register, Call::Fetch, Call::Issue];

impl Call {
    fn name(self) -> &'static str {
        match self {
            Self::Register => "POST /domains",
            Self::Fetch => "GET /domains/{id}",
            Self::Issue => "issue-certificate",
        }
    }

    /// Requests of wrk. `args`: what must differ between runs, then a file.
    fn lua(self) -> &'static str {
        match self {
            Self::Register => {
                "local n, headers = 0, { ['Content-Type'] = 'application/json' }
                 function init(args) first = args[1] end
                 function request()
                     n = n + 1
                     return wrk.format('POST', '/domains', headers, '{\"domain_name\": \"r' .. first .. '-' .. n .. '.bench.test\"}')
                 end"
            }
            Self::Fetch => {
                "local n, ids = 0, {}
                 function init(args) for id in io.lines(args[2]) do ids[#ids + 1] = id end end
                 function request()
                     n = n % #ids + 1
                     return wrk.format('GET', '/domains/' .. ids[n])
                 end"
            }
            Self::Issue => {
                "local n = 0
                 function init(args) n = tonumber(args[1]) end
                 function request()
                     n = n + 1
                     return wrk.format('POST', string.format('/domains/%032x/issue-certificate', n))
                 end"
            }
        }
    }

    /// How pgbench chooses the domain of each transaction: `:n`.
    fn choose(self) -> &'static str {
        match self {
            Self::Fetch => "\\set n random(0, 9999)",
            Self::Register | Self::Issue => "\\set i :i + 1\n\\set n :from + :i * :clients + :client_id",
        }
    }
}

struct Bench {
    stack: Stack,
    ca: StubCa,
    hello: Hello,
    folder: TempDir,
    _knot: Knot,
    /// Numbers of domains up to here are used.
    used: u64,
}

pub(crate) async fn run() -> Result<Vec<Section>> {
    let knot = Knot::start().await?;
    let ca = StubCa::start()?;
    let builder = production::stack()
        .resolver(knot.address())
        .setting("ACME_DIRECTORY", ca.directory())
        .setting("ACME_CA_FILE", ca.root_file().display().to_string())
        // As by default, which the stack does not have for the sake of Pebble.
        .setting("ACME_NEW_ORDER_LIMIT", "4")
        .leftovers_allowed();
    let stack = builder.try_start().await?;
    pgbench::tell_ids_apart(&stack).await?;
    rows::awaiting(&stack, FETCHED, 86_400.0, 10.0).await?;
    let folder = TempDir::with_prefix("countersign-bench-")?;
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT public_id FROM domains ORDER BY random()").fetch_all(stack.pool()).await?;
    fs::write(folder.path().join("ids"), ids.join("\n"))?;
    let mut bench = Bench { stack, ca, hello: Hello::start()?, folder, _knot: knot, used: 1 };

    let mut figures = Vec::new();
    let mut lines = Vec::new();
    for call in CALLS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let script = bench.script(call).await?;
        for connections in CONNECTIONS {
            let pair = bench.measure(call, connections, &script).await?;
            ours.push((connections as f64, pair.rate.median()));
            theirs.push((connections as f64, pair.pgbench.median()));
            figures.extend(pair.figures(call, connections));
        }
        lines.push((call.name().to_owned(), ours));
        lines.push((format!("{}, pgbench", call.name()), theirs));
    }
    Ok(vec![Section {
        name: "api".to_owned(),
        title: "The API: requests/s over connections".to_owned(),
        setting: format!(
            "one API and one worker, default settings where nothing else is said; the CA is a stub; wrk with one thread; {RUNS} runs of {SECONDS} s each, \
             in turn with pgbench (-M prepared, its first second left out, the statements that the log of Postgres has of one request, the \
             worker's for it among them; what the worker's jobs share is there for each)"
        ),
        figures,
        chart: Some(Chart { x: "connections", y: "requests/s", lines }),
    }])
}

/// The same call and its yardsticks, each run several times.
struct Pair {
    rate: Runs,
    p50: Runs,
    p99: Runs,
    pgbench: Runs,
    pgbench_latency: Runs,
    hello: Option<Runs>,
    /// CPU seconds of a request, by process.
    cpu: Vec<(&'static str, Runs)>,
}

impl Pair {
    fn figures(&self, call: Call, connections: usize) -> Vec<Figure> {
        let what = format!("{}, {connections} connections", call.name());
        let rate = Figure::of_runs(what.clone(), Unit::PerSecond, &self.rate).beside("pgbench", self.pgbench.median());
        let mut figures = vec![match call {
            Call::Fetch => rate,
            Call::Register | Call::Issue => rate.goal(Goal::ratio_at_least(0.6, 0.8)),
        }];
        figures.extend(self.hello.as_ref().map(|hello| {
            Figure::of_runs(what, Unit::PerSecond, &self.rate).beside("a constant by axum", hello.median())
        }));
        let latency = self.pgbench_latency.median();
        figures.push(Figure::of_runs("  p50", Unit::Seconds, &self.p50).beside("pgbench, mean", latency));
        figures.push(Figure::of_runs("  p99", Unit::Seconds, &self.p99));
        let cpu = self.cpu.iter();
        figures.extend(
            cpu.map(|(process, each)| Figure::of_runs(format!("  CPU of {process} for one"), Unit::SecondsEach, each)),
        );
        figures
    }
}

impl Bench {
    async fn measure(&mut self, call: Call, connections: usize, script: &str) -> Result<Pair> {
        let mut answered = Vec::new();
        let (mut pgbench, mut hello, mut cpu) = (Vec::new(), Vec::new(), [const { Vec::new() }; 3]);
        self.load(call, connections, WARM_UP_SECONDS).await?;
        for _ in 0..RUNS {
            self.tidy().await?;
            let (one, took) = self.load(call, connections, SECONDS).await?;
            for (each, took) in cpu.iter_mut().zip(took) {
                each.push(took / one.requests as f64);
            }
            answered.push(one);
            self.tidy().await?;
            let theirs = self.bare(call, connections, script).await?;
            pgbench.push(theirs);
            if call == Call::Fetch {
                hello.push(self.hello.load(connections, SECONDS, self.folder.path()).await?.rate());
            }
            eprintln!(
                "{:>18} {connections:>4}  {:>7.0}/s  p50 {:.2} ms  p99 {:.2} ms  pgbench {:>7.0}/s",
                call.name(),
                one.rate(),
                1e3 * one.p50,
                1e3 * one.p99,
                theirs.rate
            );
        }
        let runs = |of: fn(&Answered) -> f64| Runs::new(answered.iter().map(of).collect());
        let cpu = METERED.iter().map(|(process, _)| *process).zip(cpu.map(Runs::new));
        Ok(Pair {
            rate: runs(Answered::rate),
            p50: runs(|one| one.p50),
            p99: runs(|one| one.p99),
            pgbench: Runs::new(pgbench.iter().map(|one| one.rate).collect()),
            pgbench_latency: Runs::new(pgbench.iter().map(|one| one.latency).collect()),
            hello: (!hello.is_empty()).then(|| Runs::new(hello)),
            cpu: cpu.filter(|(process, _)| call == Call::Issue || *process != "the worker").collect(),
        })
    }

    /// One run of wrk, and what it leaves is put away. With the CPU seconds of all requests, in the order of [`METERED`].
    async fn load(&mut self, call: Call, connections: usize, seconds: u64) -> Result<(Answered, [f64; METERED.len()])> {
        let first = self.fresh(call, seconds).await?;
        let ids = self.folder.path().join("ids").display().to_string();
        let arguments = [first.to_string(), ids];
        let load = Load { url: self.stack.api().url(), lua: call.lua(), arguments: &arguments, connections, seconds };
        let (orders, domains) = (self.ca.orders(), self.domains().await?);
        let cpu = || -> Result<Vec<f64>> {
            METERED.iter().map(|(_, name)| Ok(Meter::of_stack(&self.stack, name)?.read()?.cpu.as_secs_f64())).collect()
        };
        let before = cpu()?;
        let answered = load.run(self.folder.path()).await?;
        let after = cpu()?;
        match call {
            Call::Register => ensure!(self.domains().await? >= domains + answered.requests, "domains are missing"),
            Call::Issue => ensure!(self.ca.orders() >= orders + answered.requests, "orders were not placed"),
            Call::Fetch => {}
        }
        self.settle(call).await?;
        Ok((answered, std::array::from_fn(|number| after[number] - before[number])))
    }

    /// One run of pgbench.
    async fn bare(&mut self, call: Call, clients: usize, script: &str) -> Result<pgbench::Run> {
        let first = self.fresh(call, SECONDS + 1).await?;
        // It must not take the jobs that pgbench enqueues.
        self.stack.pause(WORKER);
        let result = pgbench::run(&self.stack, self.folder.path(), script, clients, SECONDS, first).await;
        let put_away = self.put_away().await;
        self.stack.resume(WORKER);
        put_away?;
        result
    }

    /// Numbers of domains for one run, from the one after this on; for issuing there are rows of them.
    async fn fresh(&mut self, call: Call, seconds: u64) -> Result<u64> {
        let a_second = if call == Call::Issue { FRESH_A_SECOND } else { NAMES_A_SECOND };
        let (first, count) = (self.used, a_second * seconds);
        self.used += count + 1;
        if call == Call::Issue {
            rows::verified(&self.stack, first, count).await?;
        }
        Ok(first)
    }

    /// What pgbench shall run for this call: taken from one that is answered now.
    async fn script(&mut self, call: Call) -> Result<String> {
        // Once before, so that nothing is prepared or looked up for the first time.
        for attempt in 0..2 {
            let n = self.fresh(call, 1).await? + 1;
            let api = self.stack.api().clone();
            let id = match call {
                Call::Fetch => fs::read_to_string(self.folder.path().join("ids"))?.lines().next().map(str::to_owned),
                _ => Some(format!("{n:032x}")),
            };
            let (id, name) = (id.context("there is no domain")?, format!("p{n}.bench.test"));
            let request = async {
                let answer = match call {
                    Call::Register => api.try_register(&name).await?,
                    Call::Fetch => api.try_fetch(&id).await?,
                    Call::Issue => api.try_issue(&id).await?,
                };
                ensure!(answer.status / 100 == 2, "{}: {answer:?}", call.name());
                Ok(())
            };
            let captured = pgbench::captured(&self.stack, request).await?;
            self.settle(call).await?;
            if attempt > 0 {
                let chosen = match call {
                    Call::Fetch => "md5('domain' || :n)",
                    _ => "lpad(to_hex(:n::bigint), 32, '0')",
                };
                let directory = self.ca.directory();
                let known = [
                    (id, chosen.to_owned()),
                    (name, "'p' || :n::bigint || '.bench.test'".to_owned()),
                    (format!("v{n}.bench.test"), "'v' || :n::bigint || '.bench.test'".to_owned()),
                    (directory.clone(), pgbench::literal(&directory)),
                ];
                return Ok(pgbench::script(call.choose(), &captured, &known));
            }
        }
        unreachable!("the second attempt returns")
    }

    async fn domains(&self) -> Result<u64> {
        // Not how many there are: that would read them all.
        let last: i64 =
            sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM domains").fetch_one(self.stack.pool()).await?;
        Ok(last.unsigned_abs())
    }

    /// Waits until the worker has nothing to do, and sees to it that it stays so.
    async fn settle(&self, call: Call) -> Result<()> {
        if call == Call::Issue {
            let idle = poll(Duration::from_secs(20), async || {
                let busy = "SELECT EXISTS (SELECT FROM jobs WHERE order_id IS NOT NULL AND (leased_by IS NOT NULL OR lane = 0))";
                (!sqlx::query_scalar::<_, bool>(busy).fetch_one(self.stack.pool()).await.ok()?).then_some(())
            });
            idle.await.context("the worker has still something to do")?;
            self.put_away().await?;
        }
        Ok(())
    }

    /// No order is looked at any more.
    async fn put_away(&self) -> Result<()> {
        let far = "UPDATE jobs SET due_at = now() + interval '1 day', leased_by = NULL, lane = 1
                   WHERE order_id IS NOT NULL AND due_at < now() + interval '1 hour'";
        sqlx::query(far).execute(self.stack.pool()).await?;
        Ok(())
    }

    /// So that no checkpoint comes in the midst of a run, and no run meets the dead rows of those before it.
    async fn tidy(&self) -> Result<()> {
        let tables = "VACUUM (ANALYZE) domains, certificates, orders, authorizations, order_events, jobs";
        for statement in [tables, "CHECKPOINT"] {
            sqlx::raw_sql(statement).execute(self.stack.pool()).await?;
        }
        Ok(())
    }
}
