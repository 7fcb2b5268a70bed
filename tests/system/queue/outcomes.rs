//! What each end of a run writes, and that only the holder of the lease writes it.

use super::*;

/// Every outcome, and the row it makes of [`failing`].
fn outcomes(now: OffsetDateTime) -> Vec<(Outcome, Option<Job>)> {
    let saw = || json!({"result": "absent"});
    let failed = || json!({"failures": 5, "failure": {"detail": "new"}});
    let failed_after_looking = || json!({"failures": 5, "failure": {"detail": "new"}, "result": "old"});
    let until = now + Duration::seconds(40);
    let row = Job {
        lane: 0,
        lease: 1,
        leased_by: None,
        attempts: 2,
        last_result: Some(json!({"failures": 4, "failure": {"detail": "old"}, "result": "old"})),
        parked: false,
        woken: false,
        due_in: 0,
    };
    let leased_by = Some("worker-1".to_owned());
    vec![
        (
            Outcome::Keep { has_failed: true },
            Some(Job {
                leased_by: leased_by.clone(),
                attempts: 0,
                last_result: Some(json!({"result": "old"})),
                due_in: 60,
                ..row.clone()
            }),
        ),
        (Outcome::Keep { has_failed: false }, Some(Job { leased_by, due_in: 60, ..row.clone() })),
        (
            Outcome::Wait { until, saw: Some(saw()) },
            Some(Job { lane: 1, attempts: 0, last_result: Some(saw()), due_in: 40, ..row.clone() }),
        ),
        (
            Outcome::Wait { until, saw: None },
            Some(Job { lane: 1, last_result: Some(json!({"result": "old"})), due_in: 40, ..row.clone() }),
        ),
        (
            Outcome::Retry { after_secs: 20.0, counted: true, saw: failed() },
            Some(Job { attempts: 3, last_result: Some(failed_after_looking()), due_in: 20, ..row.clone() }),
        ),
        (
            Outcome::Retry { after_secs: 20.0, counted: false, saw: failed() },
            Some(Job { last_result: Some(failed_after_looking()), due_in: 20, ..row.clone() }),
        ),
        (Outcome::Release, Some(row.clone())),
        (Outcome::Done, None),
        (
            Outcome::Park { saw: failed() },
            Some(Job { last_result: Some(failed_after_looking()), parked: true, due_in: 60, ..row }),
        ),
    ]
}

/// A job in lane 0 that worker-1 runs after two counted failures of four.
async fn failing(conn: &mut PgConnection) -> Fence {
    sql(conn, "DELETE FROM jobs").await.unwrap();
    let order: i64 = sqlx::query_scalar("SELECT min(id) FROM orders").fetch_one(&mut *conn).await.unwrap();
    jobs::enqueue(conn, order, Lane::Waiting, &untraced("request")).await.unwrap();
    let fence = claim(conn, "worker-1", 1, false).await[0].fence;
    sql(
        conn,
        "UPDATE jobs SET attempts = 2, \
         last_result = '{\"failures\": 4, \"failure\": {\"detail\": \"old\"}, \"result\": \"old\"}'",
    )
    .await
    .unwrap();
    fence
}

#[tokio::test]
async fn every_outcome_writes_what_it_says_and_only_under_the_lease_it_names() {
    let (_, mut conn) = empty_queue().await;
    order(&mut conn, 1).await;
    let now = orders::now(&mut conn).await.unwrap();
    for (outcome, expected) in outcomes(now) {
        let fence = failing(&mut conn).await;
        let before = job(&mut conn, fence.id).await;
        for foreign in [Fence { lease: fence.lease - 1, ..fence }, Fence { lease: fence.lease + 1, ..fence }] {
            assert!(!jobs::settle(&mut conn, foreign, &outcome).await.unwrap(), "{outcome:?}");
        }
        assert_eq!(job(&mut conn, fence.id).await, before, "{outcome:?}");

        assert!(jobs::settle(&mut conn, fence, &outcome).await.unwrap(), "{outcome:?}");
        assert_eq!(job(&mut conn, fence.id).await, expected, "{outcome:?}");
        let is_over = !matches!(outcome, Outcome::Keep { .. });
        assert_eq!(jobs::settle(&mut conn, fence, &Outcome::Release).await.unwrap(), !is_over, "after {outcome:?}");

        let lost = failing(&mut conn).await;
        end_lease(&mut conn, lost.id).await;
        assert_eq!(claim(&mut conn, "worker-2", 1, true).await.len(), 1);
        let taken_over = job(&mut conn, lost.id).await;
        assert!(!jobs::settle(&mut conn, lost, &outcome).await.unwrap(), "late: {outcome:?}");
        assert_eq!(job(&mut conn, lost.id).await, taken_over, "late: {outcome:?}");
    }
}
