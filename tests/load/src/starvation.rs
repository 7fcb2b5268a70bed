//! One order whose record is set, beside 50,000 whose records never will be: does it wait for them?

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use countersign_tests::api_client::Order;
use countersign_tests::stack::waiting::{self, pause_until};

use crate::readings::{INTERVAL_SECS, Lane, Span};
use crate::report::{Figure, Goal, Section, Unit};
use crate::rows::{self, ZONE};
use crate::statistics::Runs;

const HOPELESS: i64 = 50_000;
/// Orders of each kind, one after the other.
const ORDERS: usize = 15;
/// Of those that no check wakes: each waits for its turn, 10 s at most.
const UNWOKEN: usize = 7;
/// With the default of 32 a worker has not enough for so many, and all of them are late.
const SLOTS: &str = "512";
const WARM_UP: Duration = Duration::from_secs(30);
const BESIDE_FOR: Duration = Duration::from_secs(10);
/// From setting the record to the check: one that comes within a second of the last look-up would wait for that second.
const CHECK_AFTER: Duration = Duration::from_millis(1500);
/// Between two looks of the customer at the domain.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const ACTIVE_WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn run() -> Result<Vec<Section>> {
    let lane = Lane::start(|builder| builder.apis(1).setting("WORKER_SLOTS", SLOTS)).await?;
    // The account at the CA is made with the first.
    order(&lane, "first").await?;
    let alone = orders(&lane, "alone").await?;
    let unwoken_alone = unwoken(&lane, "unwoken-alone").await?;
    rows::awaiting(&lane.stack, HOPELESS, 5.0, INTERVAL_SECS).await?;
    pause_until(Instant::now() + WARM_UP).await;
    let before = lane.read().await?;
    let beside = orders(&lane, "beside").await?;
    let unwoken_beside = unwoken(&lane, "unwoken-beside").await?;
    pause_until(before.at + BESIDE_FOR).await;
    let span = Span::between(&before, &lane.read().await?)?;

    let of = |orders: &[Good], seconds: fn(&Good) -> f64| Runs::new(orders.iter().map(seconds).collect());
    let whole = (of(&beside, Good::whole), of(&alone, Good::whole));
    let later = whole.0.median() - whole.1.median();
    // Not to be told from chance: the spread of those alone.
    let chance = |alone: &Runs| alone.most() - alone.median();
    let later_unwoken = unwoken_beside.median() - unwoken_alone.median();
    let mut figures = vec![
        Figure::new("in its turn: `active` later than alone", Unit::Seconds, later_unwoken)
            .goal(Goal::at_most(1.0, chance(&unwoken_alone).min(1.0))),
        Figure::of_runs("from due to `active`", Unit::Seconds, &unwoken_beside).beside("alone", unwoken_alone.median()),
        Figure::new("woken by a check: `active` later than alone", Unit::Seconds, later)
            .goal(Goal::at_most(1.0, chance(&whole.1).min(1.0))),
        Figure::of_runs("from registering to `active`", Unit::Seconds, &whole.0).beside("alone", whole.1.median()),
    ];
    type Part = (&'static str, fn(&Good) -> f64);
    let parts: [Part; 3] = [
        ("registering and verifying", |good| good.verified),
        ("issue-certificate", |good| good.issue),
        ("from check to `active`", |good| good.check),
    ];
    for (what, seconds) in parts {
        let (beside, alone) = (of(&beside, seconds), of(&alone, seconds));
        figures.push(Figure::of_runs(what, Unit::Seconds, &beside).beside("alone", alone.median()));
    }
    figures.push(
        Figure::new("look-ups of the hopeless meanwhile", Unit::PerSecond, span.cycles / span.seconds)
            .beside("asked for", HOPELESS as f64 / INTERVAL_SECS),
    );
    figures.push(Figure::new("their lag, p99", Unit::Seconds, span.lag_p99));
    Ok(vec![Section {
        name: "starvation".to_owned(),
        title: format!("One good order beside {HOPELESS} hopeless ones"),
        setting: format!(
            "one API, one worker, WORKER_SLOTS={SLOTS}; {ORDERS} good orders one after the other, alone and beside: register, verify, issue, \
             set the record, check {CHECK_AFTER:?} later, GET every {LOOK_EVERY:?}; setting records and the pause are not counted. A check \
             moves its order to the lane of those that somebody waits for: {UNWOKEN} more are not checked, and are seen by the look \
             that is due"
        ),
        figures,
        chart: None,
    }])
}

/// What one customer waited for, in seconds.
struct Good {
    verified: f64,
    issue: f64,
    check: f64,
}

impl Good {
    fn whole(&self) -> f64 {
        self.verified + self.issue + self.check
    }
}

async fn orders(lane: &Lane, which: &str) -> Result<Vec<Good>> {
    let mut orders = Vec::new();
    for number in 0..ORDERS {
        orders.push(order(lane, &format!("{which}-{number}")).await?);
    }
    Ok(orders)
}

/// Seconds from when the look is due that finds the record until `active`, of orders that stay among the hopeless.
async fn unwoken(lane: &Lane, which: &str) -> Result<Runs> {
    let mut seconds = Vec::new();
    for number in 0..UNWOKEN {
        let name = format!("{which}-{number}.{}", ZONE.trim_end_matches('.'));
        let Placed { id, order, .. } = place(lane, &name).await?;
        // Not the first look, which somebody waits for; and it must not be under way when the record is set.
        let next_look = async || {
            let query = "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM jobs JOIN orders ON orders.id = order_id
                JOIN domains ON domains.id = domain_id
                WHERE name = $1 AND lane = 1 AND leased_by IS NULL AND due_at > clock_timestamp() + interval '1 second'";
            sqlx::query_scalar::<_, f64>(query).bind(&name).fetch_optional(lane.stack.pool()).await.ok()?
        };
        let due_in = waiting::poll(ACTIVE_WITHIN, next_look).await.with_context(|| format!("{name} is not waiting"))?;
        let due = Instant::now() + Duration::from_secs_f64(due_in);
        lane.knot.publish(&order.challenge_domain, &order.expected_txt_value).await?;
        ensure!(Instant::now() < due, "the record of {name} came late");
        pause_until(due).await;
        seconds.push(active_after(lane, &id, due).await?);
    }
    Ok(Runs::new(seconds))
}

/// As a platform does it: through the API, one call after the other.
async fn order(lane: &Lane, label: &str) -> Result<Good> {
    let name = format!("{label}.{}", ZONE.trim_end_matches('.'));
    let Placed { id, order, verified, issue } = place(lane, &name).await?;
    lane.knot.publish(&order.challenge_domain, &order.expected_txt_value).await?;
    pause_until(Instant::now() + CHECK_AFTER).await;
    let began = Instant::now();
    lane.stack.api().check(&id).await;
    Ok(Good { verified, issue, check: active_after(lane, &id, began).await? })
}

/// A verified domain with an order at the CA, and the seconds that the calls took.
struct Placed {
    id: String,
    order: Order,
    verified: f64,
    issue: f64,
}

async fn place(lane: &Lane, name: &str) -> Result<Placed> {
    let api = lane.stack.api();
    let began = Instant::now();
    let domain = api.register(name).await;
    let registered = began.elapsed();
    let token = domain.verification_token.as_deref().unwrap_or_default();
    lane.knot.publish(&format!("_acme-challenge.{name}"), token).await?;
    let began = Instant::now();
    api.verify(&domain.id).await;
    let verified = (registered + began.elapsed()).as_secs_f64();
    let began = Instant::now();
    let order = api.issue(&domain.id).await;
    Ok(Placed { id: domain.id, order, verified, issue: began.elapsed().as_secs_f64() })
}

/// Seconds from `began` until the domain is `active`.
async fn active_after(lane: &Lane, id: &str, began: Instant) -> Result<f64> {
    loop {
        match lane.stack.api().fetch(id).await.status.as_str() {
            "active" => return Ok(began.elapsed().as_secs_f64()),
            "failed" => bail!("{id} failed"),
            status => ensure!(began.elapsed() < ACTIVE_WITHIN, "{id} is still {status}"),
        }
        pause_until(Instant::now() + LOOK_EVERY).await;
    }
}
