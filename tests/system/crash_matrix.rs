//! The crash matrix: every request to the CA and every commit of a step, held before and after it takes effect, while the worker that does
//! it is killed, told to stop, or paused longer than its lease. Whatever the cell, each order ends with one certificate.
//!
//! One stack serves many cells, several orders each. `cells` says what a cell is, `rig` holds and kills, `settled` is what must be true
//! after every cell. `others` are cells off the way to a certificate. The whole matrix runs on `make test-all`; some cells of every sort
//! run always.

mod cells;
mod gate;
mod others;
mod rig;
mod settled;

use std::time::Instant;

use cells::{At, Cell, EVENTS, Way};
use countersign_tests::acme_front::{Kind, Moment};
use countersign_tests::aloud;
use rig::Rig;

/// One after the other on one stack; a line of the table for each.
async fn run(cells: Vec<Cell>) {
    let mut rig = Rig::start().await;
    let (began, count) = (Instant::now(), cells.len());
    for (number, cell) in cells.into_iter().enumerate() {
        let at = Instant::now();
        let takeover = rig.run(number, cell).await;
        let cell = cell.to_string();
        let took = at.elapsed().as_secs_f64();
        aloud::say(&format!("| {cell:<44} | {takeover:>4.1} s | {took:>4.1} s |"));
    }
    settled::ca_and_we_have_the_same(rig.stack()).await;
    aloud::say(&format!("{count} cells in {:.0} s", began.elapsed().as_secs_f64()));
}

fn every_request(way: Way) -> Vec<Cell> {
    let moments = [Moment::Before, Moment::After];
    let at = Kind::OF_ONE_CERTIFICATE.into_iter().flat_map(|kind| moments.map(|moment| At::Request(kind, moment)));
    at.map(|at| Cell { at, way }).collect()
}

#[tokio::test]
async fn a_handful_of_cells_of_every_sort() {
    let request = |kind, moment, way| Cell { at: At::Request(kind, moment), way };
    let commit = |event, moment| Cell { at: At::Commit(event, moment), way: Way::Kill };
    run(vec![
        request(Kind::NewOrder, Moment::After, Way::Kill),
        request(Kind::Challenge, Moment::After, Way::Terminate),
        request(Kind::Finalize, Moment::Before, Way::Pause),
        request(Kind::Finalize, Moment::After, Way::Kill),
        commit("prepared", Moment::Before),
        commit("issued", Moment::After),
    ])
    .await;
}

#[tokio::test]
#[ignore = "the full matrix: make test-all"]
async fn killed_during_every_request() {
    run(every_request(Way::Kill)).await;
}

#[tokio::test]
#[ignore = "the full matrix: make test-all"]
async fn told_to_stop_during_every_request() {
    run(every_request(Way::Terminate)).await;
}

#[tokio::test]
#[ignore = "the full matrix: make test-all"]
async fn paused_longer_than_the_lease_during_every_request() {
    run(every_request(Way::Pause)).await;
}

#[tokio::test]
#[ignore = "the full matrix: make test-all"]
async fn killed_during_every_commit() {
    let moments = [Moment::Before, Moment::After];
    let commits = EVENTS.into_iter().filter(|event| *event != "presented");
    let at = commits.flat_map(|event| moments.map(|moment| At::Commit(event, moment)));
    run(at.map(|at| Cell { at, way: Way::Kill }).collect()).await;
}

#[tokio::test]
#[ignore = "the full matrix: make test-all"]
async fn where_the_ca_has_declared_an_authorization_dead() {
    let request = |kind, way| Cell { at: At::Request(kind, Moment::After), way };
    let commit = |moment| Cell { at: At::Commit("gave_up", moment), way: Way::Kill };
    let cells = [
        request(Kind::Order, Way::Kill),
        request(Kind::Authorization, Way::Pause),
        commit(Moment::Before),
        commit(Moment::After),
    ];
    let rig = Rig::start().await;
    for (number, cell) in cells.into_iter().enumerate() {
        rig.run_dead(number, cell).await;
        aloud::say(&format!("| {:<44} | failed, with the reason |", cell.to_string()));
    }
    settled::ca_and_we_have_the_same(rig.stack()).await;
}
