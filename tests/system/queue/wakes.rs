//! How others get a row looked at sooner, and how no order stays without one.

use super::*;

#[tokio::test]
async fn a_wait_on_a_row_that_was_woken_meanwhile_is_due_within_a_second() {
    let (_, mut conn) = empty_queue().await;
    let (order, fence) = leased(&mut conn).await;
    awaits_record(&mut conn, order).await;
    let before = job(&mut conn, fence.id).await.unwrap();
    let promised = jobs::wake_for_check(&mut conn, order).await.unwrap().unwrap();
    let now = orders::now(&mut conn).await.unwrap();
    assert!(promised <= now);
    assert_eq!(
        job(&mut conn, fence.id).await.unwrap(),
        Job { woken: true, ..before },
        "only `woken` is others' to write"
    );

    let wait = Outcome::Wait { until: now + Duration::seconds(300), saw: None };
    assert!(jobs::settle(&mut conn, fence, &wait).await.unwrap());
    let row = job(&mut conn, fence.id).await.unwrap();
    assert_eq!((row.due_in, row.woken, row.leased_by), (0, false, None));

    end_lease(&mut conn, fence.id).await;
    let fence = jobs::claim(&mut conn, Lane::Orders, &process("worker-1"), LEASE, 1, None).await.unwrap()[0].fence;
    assert!(jobs::settle(&mut conn, fence, &wait).await.unwrap());
    assert_eq!(job(&mut conn, fence.id).await.unwrap().due_in, 300, "a wake counts once");
}

#[tokio::test]
async fn a_check_makes_a_waiting_row_due_at_once_but_not_more_than_once_a_second() {
    let (_, mut conn) = empty_queue().await;
    let (order, id) = enqueued(&mut conn, 1).await;
    awaits_record(&mut conn, order).await;
    let last_look = async |conn: &mut PgConnection, ago: &str, due: &str| {
        let text = format!(
            "UPDATE jobs SET lane = 1, due_at = now() + interval '{due}',
                 last_result = jsonb_build_object('at', now() - interval '{ago}')"
        );
        sql(conn, &text).await.unwrap();
    };

    sql(&mut conn, "UPDATE jobs SET lane = 1, due_at = now() + interval '5 minutes'").await.unwrap();
    jobs::wake_for_check(&mut conn, order).await.unwrap().unwrap();
    let row = job(&mut conn, id).await.unwrap();
    assert_eq!((row.lane, row.due_in, row.leased_by), (0, 0, None));

    last_look(&mut conn, "1 minute", "5 minutes").await;
    jobs::wake_for_check(&mut conn, order).await.unwrap().unwrap();
    assert_eq!(job(&mut conn, id).await.unwrap().due_in, 0);

    let after_look = "SELECT extract(epoch FROM due_at - (last_result ->> 'at')::timestamptz)::float8 FROM jobs";
    last_look(&mut conn, "0 seconds", "5 minutes").await;
    for _ in 0..3 {
        jobs::wake_for_check(&mut conn, order).await.unwrap().unwrap();
        let secs: f64 = sqlx::query_scalar(after_look).fetch_one(&mut conn).await.unwrap();
        assert!(secs >= 1.0, "the next look comes {secs} s after the last one");
    }
    last_look(&mut conn, "-1 minute", "10 seconds").await;
    jobs::wake_for_check(&mut conn, order).await.unwrap().unwrap();
    assert_eq!(job(&mut conn, id).await.unwrap().due_in, 10, "a wake never makes a row due later");
}

#[tokio::test]
async fn a_check_does_not_hurry_an_order_that_waits_for_the_ca() {
    let (_, mut conn) = empty_queue().await;
    let (order, id) = enqueued(&mut conn, 1).await;
    awaits_record(&mut conn, order).await;
    sql(&mut conn, "UPDATE orders SET seen_at = now(), state = 'responded'").await.unwrap();
    sql(&mut conn, "UPDATE jobs SET lane = 1, due_at = now() + interval '5 minutes'").await.unwrap();
    let before = job(&mut conn, id).await;
    assert!(jobs::wake_for_check(&mut conn, order).await.unwrap().unwrap() > orders::now(&mut conn).await.unwrap());
    assert_eq!(job(&mut conn, id).await, before);
}

#[tokio::test]
async fn a_retry_or_a_park_on_a_row_that_was_woken_meanwhile_is_due_at_once() {
    for outcome in
        [Outcome::Retry { after_secs: 300.0, counted: true, saw: json!({}) }, Outcome::Park { saw: json!({}) }]
    {
        let (_, mut conn) = empty_queue().await;
        let (order, fence) = leased(&mut conn).await;
        jobs::wake(&mut conn, order, &untraced("test")).await.unwrap();
        assert!(jobs::settle(&mut conn, fence, &outcome).await.unwrap());
        let row = job(&mut conn, fence.id).await.unwrap();
        assert!(row.due_in <= 1 && !row.parked && !row.woken && row.leased_by.is_none(), "{outcome:?}: {row:?}");
    }
}

#[tokio::test]
async fn a_check_leaves_a_parked_row_parked_and_knows_no_row_that_is_not_there() {
    let (_, mut conn) = empty_queue().await;
    let (order, fence) = leased(&mut conn).await;
    assert!(jobs::settle(&mut conn, fence, &Outcome::Park { saw: json!({}) }).await.unwrap());
    let parked = job(&mut conn, fence.id).await;
    assert_eq!(jobs::wake_for_check(&mut conn, order).await.unwrap(), None);
    assert_eq!(job(&mut conn, fence.id).await, parked);
    assert_eq!(jobs::wake_for_check(&mut conn, order + 1).await.unwrap(), None);
    end_lease(&mut conn, fence.id).await;
    assert!(claim(&mut conn, "worker-1", 1, true).await.is_empty(), "a parked row is never claimed");
}

#[tokio::test]
async fn clean_up_wakes_unparks_or_enqueues() {
    let (_, mut conn) = empty_queue().await;
    let (order, fence) = leased(&mut conn).await;
    let row = job(&mut conn, fence.id).await.unwrap();
    jobs::wake(&mut conn, order, &untraced("test")).await.unwrap();
    assert_eq!(job(&mut conn, fence.id).await.unwrap(), Job { woken: true, ..row });

    assert!(jobs::settle(&mut conn, fence, &Outcome::Park { saw: json!({}) }).await.unwrap());
    sql(&mut conn, "UPDATE jobs SET attempts = 10").await.unwrap();
    jobs::wake(&mut conn, order, &untraced("test")).await.unwrap();
    let row = job(&mut conn, fence.id).await.unwrap();
    assert_eq!((row.parked, row.attempts, row.due_in), (false, 0, 0));

    sql(&mut conn, "DELETE FROM jobs").await.unwrap();
    jobs::wake(&mut conn, order, &untraced("test")).await.unwrap();
    let claimed = jobs::claim(&mut conn, Lane::Orders, &process("worker-1"), LEASE, 1, None).await.unwrap();
    assert_eq!(claimed[0].kind, JobKind::PollChallenge { order_id: order });
}

#[tokio::test]
async fn workers_are_told_of_a_job_when_its_transaction_commits() {
    let (url, mut conn) = empty_queue().await;
    let mut listener = PgListener::connect(&url).await.unwrap();
    listener.listen(notifications::JOBS).await.unwrap();
    let order = order(&mut conn, 1).await;
    let mut tx = conn.begin().await.unwrap();
    jobs::enqueue(&mut tx, order, Lane::Waiting, &untraced("request")).await.unwrap();
    tx.rollback().await.unwrap();
    // Had the rolled-back one been told, it would be the first to arrive.
    let mark = format!("SELECT pg_notify('{}', 'mark')", notifications::JOBS);
    sql(&mut conn, &mark).await.unwrap();
    assert_eq!(listener.recv().await.unwrap().payload(), "mark");
    jobs::enqueue(&mut conn, order, Lane::Waiting, &untraced("request")).await.unwrap();
    assert_eq!(listener.recv().await.unwrap().payload(), "");
}

#[tokio::test]
async fn the_sweep_enqueues_orders_that_need_a_job_and_have_none() {
    let (_, mut conn) = empty_queue().await;
    let [open, ended, cleaned_up, parked] =
        [order(&mut conn, 1).await, order(&mut conn, 2).await, order(&mut conn, 3).await, order(&mut conn, 4).await];
    let cancelled = "UPDATE orders SET state = 'cancelled', ended_at = now()";
    sql(&mut conn, &format!("{cancelled} WHERE id = {ended}")).await.unwrap();
    sql(&mut conn, &format!("{cancelled}, cleaned_up_at = now() WHERE id = {cleaned_up}")).await.unwrap();
    jobs::enqueue(&mut conn, parked, Lane::Waiting, &untraced("request")).await.unwrap();
    sql(&mut conn, "UPDATE jobs SET parked_at = now()").await.unwrap();

    assert_eq!(jobs::enqueue_missing(&mut conn).await.unwrap(), 2);
    assert_eq!(jobs::enqueue_missing(&mut conn).await.unwrap(), 0);
    let claimed = jobs::claim(&mut conn, Lane::Orders, &process("worker-1"), LEASE, 9, None).await.unwrap();
    let mut found: Vec<JobKind> = claimed.iter().map(|job| job.kind).collect();
    found.sort_unstable_by_key(|kind| *kind == JobKind::PollChallenge { order_id: ended });
    assert_eq!(found, [open, ended].map(|order_id| JobKind::PollChallenge { order_id }));
    assert_eq!(sql(&mut conn, "SELECT FROM jobs WHERE parked_at IS NOT NULL").await.unwrap(), 1);
}
