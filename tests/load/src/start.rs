//! How long each program takes from being started to being of use.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_tests::checkout;
use countersign_tests::stack::Stack;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::production;
use crate::report::{Figure, Goal, Section, Unit};
use crate::statistics::Runs;

const STARTS: usize = 10;
const SERVERS: [(&str, &str); 3] =
    [("countersign-api", "api-1"), ("countersign-worker", "worker-1"), ("countersign-dns", "dns-1")];
/// Between two questions whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(1);
const READY_WITHIN: Duration = Duration::from_secs(30);

pub(crate) async fn run() -> Result<Vec<Section>> {
    let stack = production::stack().responders(1).try_start().await?;
    let mut figures = Vec::new();
    for (program, replica) in SERVERS {
        let mut times = Vec::new();
        for _ in 0..=STARTS {
            stack.kill(replica);
            times.push(seconds_to_ready(&stack, replica).await?);
        }
        figures.push(figure(format!("{program} until /readyz says 200"), times));
    }
    for arguments in [&["--help"][..], &["orders", "list"]] {
        let times = (0..=STARTS).map(|_| seconds_to_end(&stack, arguments)).collect::<Result<_>>()?;
        figures.push(figure(format!("countersignctl {} until it ends", arguments.join(" ")), times));
    }
    Ok(vec![Section {
        name: "start".to_owned(),
        title: "Start of each program".to_owned(),
        setting: format!(
            "{STARTS} starts after one that does not count, so that the program is in the page cache; the others and Postgres are \
             running; asked every {ASK_EVERY:?}"
        ),
        figures,
        chart: None,
    }])
}

fn figure(what: String, mut times: Vec<f64>) -> Figure {
    times.remove(0);
    Figure::of_runs(what, Unit::Seconds, &Runs::new(times)).goal(Goal::at_most(1.0, 0.2))
}

async fn seconds_to_ready(stack: &Stack, replica: &str) -> Result<f64> {
    let url = stack.admin_url(replica);
    let address = url.strip_prefix("http://").context("an address")?;
    let began = Instant::now();
    stack.launch(replica)?;
    let mut asking = tokio::time::interval(ASK_EVERY);
    asking.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !is_ready(address).await {
        ensure!(began.elapsed() < READY_WITHIN, "{replica} is not ready after {READY_WITHIN:?}");
        asking.tick().await;
    }
    Ok(began.elapsed().as_secs_f64())
}

/// One connection for each question: nothing listens there at first.
async fn is_ready(address: &str) -> bool {
    let asked = async {
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    asked.await.is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}

fn seconds_to_end(stack: &Stack, arguments: &[&str]) -> Result<f64> {
    let mut command = Command::new(checkout::binary("countersignctl")?);
    command.args(arguments).env("DATABASE_URL", stack.database_url()).stdout(Stdio::null());
    let began = Instant::now();
    let status = command.status()?;
    ensure!(status.success(), "countersignctl {arguments:?}: {status}");
    Ok(began.elapsed().as_secs_f64())
}
