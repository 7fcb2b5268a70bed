//! Waits that are written together: each as if it were alone, and none held up by another.

use super::*;
use jobs::Waiting;

fn waiting(fence: Fence, until: OffsetDateTime, saw: Option<Value>) -> Waiting {
    Waiting { fence, until, saw }
}

/// So many jobs that worker-1 runs, each with a look-up and a failure behind it.
async fn leased(conn: &mut PgConnection, count: u8) -> Vec<Fence> {
    for number in 1..=count {
        enqueued(conn, number).await;
    }
    let claimed = claim(conn, "worker-1", count.into(), false).await;
    sql(conn, "UPDATE jobs SET attempts = 2, last_result = '{\"failures\": 4, \"result\": \"old\"}'").await.unwrap();
    claimed.iter().map(|job| job.fence).collect()
}

#[tokio::test]
async fn each_wait_of_many_is_what_it_would_be_alone() {
    let (_, mut conn) = empty_queue().await;
    let fences = leased(&mut conn, 4).await;
    let [looked, only_waits, woken, lost] = fences[..] else { panic!("{fences:?}") };
    sql(&mut conn, &format!("UPDATE jobs SET woken = true WHERE id = {}", woken.id)).await.unwrap();
    end_lease(&mut conn, lost.id).await;
    assert_eq!(claim(&mut conn, "worker-2", 1, true).await.len(), 1);
    let taken_over = job(&mut conn, lost.id).await;
    let until = orders::now(&mut conn).await.unwrap() + Duration::seconds(40);
    let saw = || Some(json!({"result": "absent"}));

    let asked = [
        waiting(looked, until, saw()),
        waiting(only_waits, until, None),
        waiting(woken, until, saw()),
        waiting(lost, until, saw()),
    ];
    let stored = jobs::wait_all(&mut conn, &asked).await.unwrap();
    assert_eq!(stored, [looked, only_waits, woken].into());
    let row = job(&mut conn, looked.id).await.unwrap();
    assert_eq!((row.due_in, row.attempts, row.leased_by, row.last_result), (40, 0, None, saw()));
    let row = job(&mut conn, only_waits.id).await.unwrap();
    assert_eq!(
        (row.due_in, row.attempts, row.leased_by, row.last_result),
        (40, 2, None, Some(json!({"result": "old"})))
    );
    let row = job(&mut conn, woken.id).await.unwrap();
    assert_eq!((row.due_in, row.woken, row.leased_by), (0, false, None));
    assert_eq!(job(&mut conn, lost.id).await, taken_over);
    assert!(jobs::wait_all(&mut conn, &asked).await.unwrap().is_empty(), "no lease is ended twice");
}

#[tokio::test]
async fn a_row_that_somebody_has_locked_holds_up_no_other() {
    let (url, mut conn) = empty_queue().await;
    let fences = leased(&mut conn, 2).await;
    let [locked, free] = fences[..] else { panic!("{fences:?}") };
    let mut somebody = connect(&url).await;
    let mut tx = somebody.begin().await.unwrap();
    sql(&mut tx, &format!("SELECT FROM jobs WHERE id = {} FOR UPDATE", locked.id)).await.unwrap();
    let until = orders::now(&mut conn).await.unwrap() + Duration::seconds(40);
    let asked = [waiting(locked, until, None), waiting(free, until, None)];
    assert_eq!(jobs::wait_all(&mut conn, &asked).await.unwrap(), [free].into());
    tx.rollback().await.unwrap();
    assert_eq!(jobs::wait_all(&mut conn, &asked).await.unwrap(), [locked].into());
}
