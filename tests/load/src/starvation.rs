//! One order whose record is set, beside 50,000 whose records never will be: does it wait for them?

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use countersign_tests::stack::waiting::pause_until;

use crate::readings::{INTERVAL_SECS, Lane, Span};
use crate::report::{Figure, Goal, Section, Unit};
use crate::rows::{self, ZONE};
use crate::statistics::Runs;

const HOPELESS: i64 = 50_000;
/// Orders of each kind, one after the other.
const ORDERS: usize = 15;
const WARM_UP: Duration = Duration::from_secs(30);
const BESIDE_FOR: Duration = Duration::from_secs(10);
/// From setting the record to the check: one that comes within a second of the last look-up would wait for that second.
const CHECK_AFTER: Duration = Duration::from_millis(1500);
/// Between two looks of the customer at the domain.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const ACTIVE_WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn run() -> Result<Vec<Section>> {
    let lane = Lane::start(|builder| builder.apis(1)).await?;
    // The account at the CA is made with the first.
    order(&lane, "first").await?;
    let alone = orders(&lane, "alone").await?;
    rows::awaiting(&lane.stack, HOPELESS, 5.0, INTERVAL_SECS).await?;
    pause_until(Instant::now() + WARM_UP).await;
    let before = lane.read().await?;
    let beside = orders(&lane, "beside").await?;
    pause_until(before.at + BESIDE_FOR).await;
    let span = Span::between(&before, &lane.read().await?)?;

    let of = |orders: &[Good], seconds: fn(&Good) -> f64| Runs::new(orders.iter().map(seconds).collect());
    let whole = (of(&beside, Good::whole), of(&alone, Good::whole));
    let later = whole.0.median() - whole.1.median();
    // Not to be told from chance: the spread of those alone.
    let chance = whole.1.most() - whole.1.median();
    let mut figures = vec![
        Figure::new("`active` later than alone", Unit::Seconds, later).goal(Goal::at_most(1.0, chance)),
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
            "one API, one worker, default settings; {ORDERS} good orders one after the other, alone and beside: register, verify, issue, \
             set the record, check {CHECK_AFTER:?} later, GET every {LOOK_EVERY:?}; setting records and the pause are not counted"
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

/// As a platform does it: through the API, one call after the other.
async fn order(lane: &Lane, label: &str) -> Result<Good> {
    let (api, name) = (lane.stack.api(), format!("{label}.{}", ZONE.trim_end_matches('.')));
    let began = Instant::now();
    let domain = api.register(&name).await;
    let registered = began.elapsed();
    let token = domain.verification_token.as_deref().unwrap_or_default();
    lane.knot.publish(&format!("_acme-challenge.{name}"), token).await?;
    let began = Instant::now();
    api.verify(&domain.id).await;
    let verified = began.elapsed();
    let began = Instant::now();
    let order = api.issue(&domain.id).await;
    let issue = began.elapsed();
    lane.knot.publish(&order.challenge_domain, &order.expected_txt_value).await?;
    pause_until(Instant::now() + CHECK_AFTER).await;
    let began = Instant::now();
    api.check(&domain.id).await;
    loop {
        match api.fetch(&domain.id).await.status.as_str() {
            "active" => break,
            "failed" => bail!("{name} failed"),
            status => ensure!(began.elapsed() < ACTIVE_WITHIN, "{name} is still {status}"),
        }
        pause_until(Instant::now() + LOOK_EVERY).await;
    }
    let check = began.elapsed().as_secs_f64();
    Ok(Good { verified: (registered + verified).as_secs_f64(), issue: issue.as_secs_f64(), check })
}
