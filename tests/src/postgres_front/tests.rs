//! The front by itself, before a Postgres of its own.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;

use super::{AtCommit, PostgresFront};
use crate::stack::postgres::PrivatePostgres;

/// Longer than a statement takes on a busy machine, and short enough to wait for in vain.
const A_MOMENT: Duration = Duration::from_secs(2);

struct Fronted {
    postgres: PrivatePostgres,
    front: PostgresFront,
}

impl Fronted {
    async fn start() -> Self {
        let postgres = PrivatePostgres::start().await.unwrap();
        let front = PostgresFront::start(postgres.address()).unwrap();
        Self { postgres, front }
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(&format!("postgres://postgres@{}/postgres", self.front.address())).await
    }

    async fn count(&self) -> i64 {
        let mut direct = PgConnection::connect(&self.postgres.url("postgres")).await.unwrap();
        sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut direct).await.unwrap()
    }
}

async fn answers(connection: &mut PgConnection) -> bool {
    timeout(A_MOMENT, sqlx::query("SELECT 1").execute(connection)).await.is_ok_and(|answer| answer.is_ok())
}

#[tokio::test]
async fn connections_are_cut_and_refused_and_let_in_again() {
    let fronted = Fronted::start().await;
    let mut first = fronted.connect().await.unwrap();
    assert!(answers(&mut first).await);

    fronted.front.refuse();
    assert!(fronted.connect().await.is_err() && answers(&mut first).await);
    fronted.front.cut();
    let cut = sqlx::query("SELECT 1").execute(&mut first).await.unwrap_err();
    assert!(matches!(cut, sqlx::Error::Io(_)), "{cut}");
    fronted.front.heal();
    let again = crate::stack::waiting::poll(A_MOMENT, async || fronted.connect().await.ok()).await;
    assert!(answers(&mut again.expect("the front listens again")).await);
}

#[tokio::test]
async fn what_is_frozen_arrives_later_and_what_is_stranded_never() {
    let fronted = Fronted::start().await;
    let mut stranded = fronted.connect().await.unwrap();
    fronted.front.strand();
    let mut frozen = fronted.connect().await.unwrap();
    assert!(answers(&mut frozen).await);

    fronted.front.freeze();
    assert!(timeout(A_MOMENT, fronted.connect()).await.is_err(), "a new connection is frozen, too");
    let asked = sqlx::query("SELECT 1").execute(&mut frozen);
    let (answer, ()) = tokio::join!(asked, async {
        assert!(!answers(&mut stranded).await);
        fronted.front.heal();
    });
    answer.unwrap();
    assert!(!answers(&mut stranded).await);
    assert!(answers(&mut fronted.connect().await.unwrap()).await);
}

#[tokio::test]
async fn a_delay_is_there_both_ways() {
    let fronted = Fronted::start().await;
    let mut connection = fronted.connect().await.unwrap();
    fronted.front.delay(Duration::from_millis(100));
    let asked = Instant::now();
    assert!(answers(&mut connection).await);
    assert!(asked.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_chosen_piece_of_data_cuts_off_whoever_sends_it() {
    let fronted = Fronted::start().await;
    let mut connection = fronted.connect().await.unwrap();
    fronted.front.cut_at(20);
    let mut answered = 0;
    while answers(&mut connection).await {
        assert!(fronted.front.is_cut_to_come());
        answered += 1;
    }
    assert!(
        (5..20).contains(&answered) && !fronted.front.is_cut_to_come(),
        "a statement is one to three pieces: {answered}"
    );
    assert!(answers(&mut fronted.connect().await.unwrap()).await);
}

#[tokio::test]
async fn an_answer_to_a_commit_is_late_and_the_commit_is_not() {
    let fronted = Fronted::start().await;
    let mut connection = fronted.connect().await.unwrap();
    sqlx::query("CREATE TABLE kept (number int)").execute(&mut connection).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    sqlx::query("INSERT INTO kept VALUES (1)").execute(&mut *transaction).await.unwrap();
    fronted.front.at_commit(1, AtCommit::AnswerLate(A_MOMENT));
    let asked = Instant::now();
    transaction.commit().await.unwrap();
    assert!(asked.elapsed() >= A_MOMENT);
    assert_eq!(fronted.count().await, 1);
    assert!(answers(&mut connection).await);
}

#[tokio::test]
async fn a_commit_is_lost_with_or_without_its_effect() {
    let fronted = Fronted::start().await;
    let mut connection = fronted.connect().await.unwrap();
    sqlx::query("CREATE TABLE kept (number int)").execute(&mut connection).await.unwrap();
    for (fault, kept) in [(AtCommit::Lose, 0), (AtCommit::LoseAnswer, 1), (AtCommit::Strand, 1)] {
        let mut connection = fronted.connect().await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        sqlx::query("INSERT INTO kept VALUES (1)").execute(&mut *transaction).await.unwrap();
        fronted.front.at_commit(1, fault);
        let committed = timeout(A_MOMENT, transaction.commit()).await;
        assert_eq!(committed.is_err(), fault == AtCommit::Strand, "{fault:?}: {committed:?}");
        assert!(!matches!(committed, Ok(Ok(()))), "{fault:?}");
        assert_eq!((fronted.count().await, fronted.front.commits_to_come()), (kept, 0), "{fault:?}");
    }
}
