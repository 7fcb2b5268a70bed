//! One order at a time: how long after its record is there does the customer see `active`? Beside uacme and lego, which get their
//! certificates from the same CA, by turns.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use countersign_tests::stack::Stack;
use countersign_tests::stack::waiting::{self, pause_until};

use crate::chart::Chart;
use crate::other_clients::{Client, OtherClient, Took};
use crate::production;
use crate::report::{Figure, Goal, Section, Unit};
use crate::rows::Algorithm;
use crate::statistics::Runs;

const WARM_UP: usize = 2;
const ROUNDS: usize = 20;
/// Between two questions of the customer who waits for `active`.
const ASK_EVERY: Duration = Duration::from_millis(5);
const WITHIN: Duration = Duration::from_secs(30);
/// A check call makes a worker look now, but not twice within a second.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1100);

pub(crate) async fn run() -> Result<Vec<Section>> {
    let stack = stack().await?;
    let lego = OtherClient::register(Client::Lego, &stack).await?;
    let uacme = OtherClient::register(Client::Uacme, &stack).await?;
    let mut sections = Vec::new();
    for (algorithm, aim) in [(Algorithm::Ecdsa, 0.1), (Algorithm::Rsa, 0.2)] {
        let mut rounds = Vec::new();
        for number in 0..WARM_UP + ROUNDS {
            let name = |client: &str| format!("{client}-{number}-{}.bench.test", algorithm.name().to_lowercase());
            let round = Round {
                ours: ours(&stack, &name("ours"), algorithm).await?,
                uacme: uacme.certificate(&stack, &name("uacme"), algorithm).await?,
                lego: lego.certificate(&stack, &name("lego"), algorithm).await?,
            };
            if number >= WARM_UP {
                rounds.push(round);
            }
        }
        sections.push(section(algorithm, aim, &rounds));
    }
    stack.finish().await;
    Ok(sections)
}

/// The CA rejects no nonce and re-uses no authorization: all clients shall do the same work every time.
async fn stack() -> Result<Stack> {
    let builder = production::stack().pebble("PEBBLE_WFE_NONCEREJECT", "0").pebble("PEBBLE_AUTHZREUSE", "0");
    builder.try_start().await
}

struct Round {
    ours: Ours,
    uacme: Took,
    lego: Took,
}

struct Ours {
    /// As the customer sees it: the issue call, and then from the published record to `active`.
    took: Took,
    /// From the look-up that saw the record to the stored certificate.
    seen: Duration,
}

/// As the platform of a customer does it: an issue call, the record, a check call, and questions until the domain is `active`.
async fn ours(stack: &Stack, name: &str, algorithm: Algorithm) -> Result<Ours> {
    let domain = stack.verified_domain(name).await;
    let owner = format!("_acme-challenge.{name}");
    stack.dns().clear_txt(&owner).await?;
    let began = Instant::now();
    let order = stack.api().issue(&domain.id).await;
    let called = began.elapsed();
    if algorithm == Algorithm::Ecdsa {
        // What /v2 lets its callers choose. Its key is made after the record was seen.
        let chosen = sqlx::query(
            "UPDATE certificates SET algorithm = $2 WHERE domain_id = (SELECT id FROM domains WHERE name = $1)",
        );
        chosen.bind(name).bind(algorithm.stored()).execute(stack.pool()).await?;
    }
    // The worker has looked, found nothing, and waits for the next look.
    let waits = waiting::poll(WITHIN, async || {
        let answer = stack.api().try_fetch(&domain.id).await.ok()?;
        (!answer.body["last_check"].is_null()).then_some(())
    });
    waits.await.context("no look-up in vain")?;
    pause_until(Instant::now() + BETWEEN_LOOKS).await;
    stack.publish_value(&order).await;
    let published_at = Instant::now();
    stack.api().check(&domain.id).await;
    loop {
        let asked_at = Instant::now();
        let answer = stack.api().try_fetch(&domain.id).await?;
        match answer.body["status"].as_str() {
            Some("active") => break,
            Some("certificate_pending") if published_at.elapsed() < WITHIN => {}
            status => bail!("{name} is {status:?} after {:?}", published_at.elapsed()),
        }
        pause_until(asked_at + ASK_EVERY).await;
    }
    let published = published_at.elapsed();
    stack.dns().clear_txt(&owner).await?;
    let seen: f64 = sqlx::query_scalar(
        "SELECT extract(epoch FROM event.at - orders.seen_at)::float8 FROM orders JOIN domains ON domains.id = domain_id
         JOIN order_events event ON event.order_id = orders.id AND event.event = 'issued' WHERE domains.name = $1",
    )
    .bind(name)
    .fetch_one(stack.pool())
    .await?;
    Ok(Ours { took: Took { whole: called + published, published }, seen: Duration::from_secs_f64(seen) })
}

fn section(algorithm: Algorithm, aim: f64, rounds: &[Round]) -> Section {
    let runs =
        |of: &dyn Fn(&Round) -> Duration| Runs::new(rounds.iter().map(|round| of(round).as_secs_f64()).collect());
    let published = runs(&|round| round.ours.took.published);
    let whole = runs(&|round| round.ours.took.whole);
    let [uacme, lego] = [runs(&|round| round.uacme.published), runs(&|round| round.lego.published)];
    let figures = vec![
        Figure::of_runs(
            "from the record's sight to the stored certificate",
            Unit::Seconds,
            &runs(&|round| round.ours.seen),
        )
        .goal(Goal::aims_at_most(aim)),
        Figure::of_runs("from the published record to `active`", Unit::Seconds, &published)
            .beside("uacme", uacme.median())
            .goal(Goal::ratio_must_be_at_most(1.0)),
        Figure::of_runs("the same", Unit::Seconds, &published)
            .beside("lego", lego.median())
            .goal(Goal::ratio_must_be_at_most(0.2)),
        Figure::of_runs("uacme, from its published record", Unit::Seconds, &uacme),
        Figure::of_runs("lego, from its published record", Unit::Seconds, &lego),
        Figure::of_runs("the whole call", Unit::Seconds, &whole)
            .beside("uacme", runs(&|round| round.uacme.whole).median()),
        Figure::of_runs("the same", Unit::Seconds, &whole).beside("lego", runs(&|round| round.lego.whole).median()),
    ];
    let line = |name: &str, of: &dyn Fn(&Round) -> Duration| {
        let points = rounds.iter().enumerate().map(|(number, round)| ((number + 1) as f64, of(round).as_secs_f64()));
        (name.to_owned(), points.collect())
    };
    Section {
        name: format!("latency-{}", algorithm.name().to_lowercase()),
        title: format!("One {} certificate, from the published record", algorithm.name()),
        setting: format!(
            "{ROUNDS} rounds by turns after {WARM_UP}; one API, one worker, default settings, the zones' own servers not asked; the \
             customer publishes the record {BETWEEN_LOOKS:?} after a look-up in vain, calls check, and asks every {ASK_EVERY:?}; \
             uacme and lego have accounts, lego waits for no propagation; all have their records in the same server and end with \
             the certificate in hand; the CA validates at once, rejects no nonce and re-uses no authorization"
        ),
        figures,
        chart: Some(Chart {
            x: "round",
            y: "seconds from the published record",
            lines: vec![
                line("Countersign", &|round| round.ours.took.published),
                line("uacme", &|round| round.uacme.published),
                line("lego", &|round| round.lego.published),
            ],
        }),
    }
}
