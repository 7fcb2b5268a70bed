//! Who gets which row, for how long, and what a claim reads.

use super::*;

#[tokio::test]
async fn a_claim_takes_the_longest_due_rows_of_its_lane_up_to_its_limit() {
    let (_, mut conn) = empty_queue().await;
    let mut jobs_by_number = Vec::new();
    for number in 0..6 {
        jobs_by_number.push(enqueued(&mut conn, number).await.1);
    }
    // Due 10 s, 30 s, 20 s ago; not yet; in another lane; parked.
    for (number, change) in [
        "due_at = now() - interval '10 seconds'",
        "due_at = now() - interval '30 seconds'",
        "due_at = now() - interval '20 seconds'",
        "due_at = now() + interval '1 second'",
        "lane = 1",
        "parked_at = now()",
    ]
    .into_iter()
    .enumerate()
    {
        sql(&mut conn, &format!("UPDATE jobs SET {change} WHERE id = {}", jobs_by_number[number])).await.unwrap();
    }
    assert_eq!(ids(&claim(&mut conn, "worker-1", 0, true).await), [0i64; 0]);
    assert_eq!(ids(&claim(&mut conn, "worker-1", 2, true).await), [jobs_by_number[1], jobs_by_number[2]]);
    assert_eq!(ids(&claim(&mut conn, "worker-1", 10, true).await), [jobs_by_number[0]]);
    assert_eq!(ids(&claim(&mut conn, "worker-1", 10, true).await), [0i64; 0]);

    let of_orders = jobs::claim(&mut conn, Lane::Orders, &process("worker-1"), LEASE, 10, None).await.unwrap();
    assert_eq!(ids(&of_orders), [jobs_by_number[4]]);
    assert!(
        jobs::claim(&mut conn, Lane::Housekeeping, &process("worker-1"), LEASE, 10, None).await.unwrap().is_empty()
    );
}

#[tokio::test]
async fn a_claimed_row_says_what_it_is_and_who_runs_it() {
    let (_, mut conn) = empty_queue().await;
    let (order, id) = enqueued(&mut conn, 7).await;
    sql(&mut conn, "UPDATE jobs SET woken = true, attempts = 2, last_result = '{\"failures\": 3}'").await.unwrap();
    let claimed = claim(&mut conn, "worker-1", 1, false).await.remove(0);
    assert_eq!((claimed.fence, claimed.lane), (Fence { id, lease: 1 }, Lane::Waiting));
    assert_eq!(claimed.kind, JobKind::PollChallenge { order_id: order });
    assert_eq!((claimed.attempts, claimed.failures), (2, 3));
    assert_eq!(claimed.request_id.as_deref(), Some("request-7"));
    let row = job(&mut conn, id).await.unwrap();
    assert_eq!((row.leased_by.as_deref(), row.due_in, row.woken), (Some("worker-1"), 60, false));

    sql(&mut conn, "DELETE FROM jobs").await.unwrap();
    sql(&mut conn, "INSERT INTO jobs (kind, lane) VALUES ('sweep', 2)").await.unwrap();
    let sweep =
        jobs::claim(&mut conn, Lane::Housekeeping, &process("worker-1"), LEASE, 1, None).await.unwrap().remove(0);
    assert_eq!((sweep.kind, sweep.request_id, sweep.failures), (JobKind::Sweep, None, 0));
}

#[tokio::test]
async fn two_workers_at_once_claim_different_rows_and_do_not_wait_for_each_other() {
    let (url, mut one) = empty_queue().await;
    let mut two = connect(&url).await;
    for number in 0..5 {
        enqueued(&mut one, number).await;
    }
    sql(&mut two, "SET lock_timeout = '2s'").await.unwrap();
    let mut uncommitted = one.begin().await.unwrap();
    let first = ids(&claim(&mut uncommitted, "worker-1", 3, true).await);
    let second = ids(&claim(&mut two, "worker-2", 5, true).await);
    assert_eq!((first.len(), second.len()), (3, 2));
    assert!(first.iter().all(|id| !second.contains(id)), "{first:?} {second:?}");
    uncommitted.rollback().await.unwrap();
    assert_eq!(ids(&claim(&mut two, "worker-2", 5, true).await), first);
}

#[tokio::test]
async fn a_leased_row_is_nobody_elses_until_its_lease_ends_and_then_it_counts_an_attempt() {
    let (_, mut conn) = empty_queue().await;
    let (_, fence) = leased(&mut conn).await;
    assert!(claim(&mut conn, "worker-2", 1, true).await.is_empty());

    let (before, _) = jobs::next_due_in(&mut conn).await.unwrap();
    sql(&mut conn, &format!("UPDATE jobs SET due_at = now() WHERE id = {}", fence.id)).await.unwrap();
    let late = jobs::claim(&mut conn, Lane::Waiting, &process("worker-2"), LEASE, 1, Some(before)).await.unwrap();
    assert!(late.is_empty(), "a claim that came late takes what was lost meanwhile");
    end_lease(&mut conn, fence.id).await;
    assert!(claim(&mut conn, "worker-2", 1, false).await.is_empty(), "only who saw no outage takes lost rows");
    assert_eq!(job(&mut conn, fence.id).await.unwrap().attempts, 0);
    let taken = claim(&mut conn, "worker-2", 1, true).await.remove(0);
    assert_eq!((taken.fence.lease, taken.attempts), (2, 1));
    // Given back in order, the same row counts nothing at the next claim.
    assert!(jobs::settle(&mut conn, taken.fence, &Outcome::Release).await.unwrap());
    let again = claim(&mut conn, "worker-1", 1, false).await.remove(0);
    assert_eq!((again.fence.lease, again.attempts), (3, 1));
}

#[tokio::test]
async fn a_renewal_extends_the_leases_that_are_held_and_no_others() {
    let (_, mut conn) = empty_queue().await;
    for number in 0..4 {
        enqueued(&mut conn, number).await;
    }
    let fences: Vec<Fence> = claim(&mut conn, "worker-1", 4, false).await.iter().map(|job| job.fence).collect();
    let [held, late, lost, released] = fences[..] else { panic!("{fences:?}") };
    end_lease(&mut conn, lost.id).await;
    assert_eq!(ids(&claim(&mut conn, "worker-2", 1, true).await), [lost.id]);
    assert!(jobs::settle(&mut conn, released, &Outcome::Release).await.unwrap());
    // Over, but nobody took it: still the holder's.
    end_lease(&mut conn, late.id).await;
    let unknown = Fence { id: released.id + 1, lease: 1 };

    let renewed = jobs::renew(&mut conn, &[held, late, lost, released, unknown], 300.0).await.unwrap();
    assert_eq!(renewed, HashMap::from([(held, Renewal::Renewed), (late, Renewal::Renewed)]));
    for (fence, due_in) in [(held, 300), (late, 300), (lost, 60), (released, 0)] {
        assert_eq!(job(&mut conn, fence.id).await.unwrap().due_in, due_in);
    }
    assert!(jobs::renew(&mut conn, &[], 300.0).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_row_that_somebody_has_locked_costs_the_others_no_renewal() {
    let (url, mut conn) = empty_queue().await;
    for number in 0..2 {
        enqueued(&mut conn, number).await;
    }
    let fences: Vec<Fence> = claim(&mut conn, "worker-1", 2, false).await.iter().map(|job| job.fence).collect();
    let [locked, free] = fences[..] else { panic!("{fences:?}") };
    let mut somebody = connect(&url).await;
    let mut tx = somebody.begin().await.unwrap();
    sql(&mut tx, &format!("SELECT FROM jobs WHERE id = {} FOR UPDATE", locked.id)).await.unwrap();

    let renewed = jobs::renew(&mut conn, &fences, 300.0).await.unwrap();
    assert_eq!(renewed, HashMap::from([(locked, Renewal::Locked), (free, Renewal::Renewed)]));
    assert_eq!(job(&mut conn, free.id).await.unwrap().due_in, 300);
    assert_eq!(job(&mut conn, locked.id).await.unwrap().due_in, 60);
    tx.rollback().await.unwrap();
    assert_eq!(jobs::renew(&mut conn, &fences, 300.0).await.unwrap()[&locked], Renewal::Renewed);
}

#[tokio::test]
async fn the_next_due_time_of_each_lane_is_the_least_of_its_rows_that_are_not_parked() {
    let (_, mut conn) = empty_queue().await;
    assert_eq!(jobs::next_due_in(&mut conn).await.unwrap().1, [None; 4]);
    for (number, change) in [
        "lane = 0, due_at = now() + '1 hour'",
        "lane = 1, due_at = now() + '100 s'",
        "lane = 1, due_at = now() + '200 s'",
        "lane = 1, parked_at = now()",
        "lane = 3, due_at = now() - interval '1 hour'",
    ]
    .into_iter()
    .enumerate()
    {
        let (_, id) = enqueued(&mut conn, u8::try_from(number).unwrap()).await;
        sql(&mut conn, &format!("UPDATE jobs SET {change} WHERE id = {id}")).await.unwrap();
    }
    let (_, [waiting, orders, housekeeping, deliveries]) = jobs::next_due_in(&mut conn).await.unwrap();
    let is_in = |secs: Option<f64>, due: f64| secs.is_some_and(|secs| (due - 10.0..=due).contains(&secs));
    assert!(is_in(waiting, 3600.0) && is_in(orders, 100.0) && is_in(deliveries, -3600.0));
    assert_eq!(housekeeping, None);
}

/// The text of the store's one query that has `part`, as the macros recorded it.
fn query_with(part: &str) -> String {
    let folder = checkout::root().unwrap().join(".sqlx");
    let files = fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    let query =
        |file: Vec<u8>| serde_json::from_slice::<Value>(&file).unwrap()["query"].as_str().map(ToOwned::to_owned);
    let found: Vec<String> = files.filter_map(query).filter(|query| query.contains(part)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

#[tokio::test]
async fn a_claim_from_200_000_rows_reads_one_index_in_order() {
    let (_, mut conn) = empty_queue().await;
    // Without foreign keys, because 200,000 orders would add nothing.
    sql(&mut conn, "SET session_replication_role = replica").await.unwrap();
    sql(
        &mut conn,
        "INSERT INTO jobs (kind, order_id, lane, due_at)
         SELECT 'poll-challenge', n, (n % 100 <> 0)::int, now() + (hashint4(n::int) % 1000) * interval '1 second'
           FROM generate_series(1, 200000) AS n",
    )
    .await
    .unwrap();
    sql(&mut conn, "ANALYZE jobs").await.unwrap();
    let (now, _) = jobs::next_due_in(&mut conn).await.unwrap();
    let claim = format!("EXPLAIN {}", query_with("SET lease = lease + 1"));
    for (lane, may_take_lost) in [(0i16, true), (1, true), (1, false), (2, true), (3, true)] {
        let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(claim.clone()))
            .bind(lane)
            .bind("worker-1")
            .bind(LEASE)
            .bind(32i64)
            .bind(may_take_lost.then_some(now))
            .bind(7i64)
            .fetch_all(&mut conn)
            .await
            .unwrap();
        let plan = plan.join("\n");
        assert!(plan.contains("Index Scan using jobs_due"), "lane {lane}:\n{plan}");
        assert!(!plan.contains("Seq Scan") && !plan.contains("Sort"), "lane {lane}:\n{plan}");
    }
    let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!("EXPLAIN {}", query_with("AS housekeeping"))))
        .fetch_all(&mut conn)
        .await
        .unwrap();
    let plan = plan.join("\n");
    assert!(plan.contains("using jobs_due") && !plan.contains("Seq Scan on jobs"), "{plan}");

    let claimed = jobs::claim(&mut conn, Lane::Orders, &process("worker-1"), LEASE, 32, None).await.unwrap();
    assert_eq!(claimed.len(), 32);
}
