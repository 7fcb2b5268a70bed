//! `GET /domains`: its pages, what an entry shows, what it costs, and that it holds still while domains come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use countersign_tests::checkout;
use countersign_tests::stack::Stack;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use crate::answers::{check, refused};
use crate::databases::{connect, migrated};
use crate::facts::{SOON, names};

/// The body of one page.
async fn page(stack: &Stack, query: &str) -> Value {
    let answer = stack.api().try_list(query).await.unwrap();
    check(answer.status, &answer.headers, &answer.body);
    answer.expect(200)
}

fn ids(page: &Value) -> Vec<String> {
    page["domains"].as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}

/// All pages from the first to the last: the ids on each. `between` happens after every page.
async fn walk(stack: &Stack, query: &str, mut between: impl AsyncFnMut(&[String])) -> Vec<Vec<String>> {
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = page(stack, &format!("{query}{cursor}")).await;
        pages.push(ids(&page));
        between(pages.last().unwrap()).await;
        match &page["next_cursor"] {
            Value::Null => return pages,
            next => cursor = format!("&cursor={}", next.as_str().unwrap()),
        }
    }
}

async fn still(_: &[String]) {}

/// Rows of `domains` without the API, in the status that a number's remainder by 5 says.
fn insert_domains(from: u32, to: u32) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!(
        "INSERT INTO domains (public_id, name, supplied_name, status, verification_token, verified_at)
         SELECT md5(n::text), 'shop-' || n || '.example.com', 'Shop-' || n || '.example.com',
                (ARRAY['pending', 'verified', 'certificate_pending', 'active', 'failed'])[1 + n % 5],
                repeat(md5(n::text), 2), CASE n % 5 WHEN 0 THEN NULL ELSE now() END
           FROM generate_series({from}, {to}) AS n"
    ))
}

#[tokio::test]
async fn pages_are_newest_first_and_complete_for_every_limit_and_status() {
    let stack = Stack::builder().workers(0).leftovers_allowed().start().await;
    assert_eq!(page(&stack, "").await, json!({"domains": [], "next_cursor": null}));

    stack.pool().execute(insert_domains(1, 405)).await.unwrap();
    // Deleted ones are gone from the list, the newest and the oldest too.
    let gone = [1, 2, 50, 403, 405];
    for number in gone {
        let id: String = sqlx::query_scalar("SELECT md5($1::text)").bind(number).fetch_one(stack.pool()).await.unwrap();
        stack.api().delete(&id).await;
    }
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT public_id, status FROM domains WHERE deleted_at IS NULL ORDER BY id DESC")
            .fetch_all(stack.pool())
            .await
            .unwrap();
    assert_eq!(rows.len(), 400);
    let all: Vec<String> = rows.iter().map(|(id, _)| id.clone()).collect();

    for (query, limit) in [("", 50), ("limit=200", 200), ("limit=199", 199), ("limit=7", 7), ("limit=100", 100)] {
        let pages = walk(&stack, query, still).await;
        let (last, full) = pages.split_last().unwrap();
        assert!(full.iter().all(|page| page.len() == limit) && (1..=limit).contains(&last.len()), "{query}");
        assert_eq!(pages.concat(), all, "{query}");
    }
    for status in ["pending", "verified", "certificate_pending", "active", "failed"] {
        let those: Vec<String> = rows.iter().filter(|row| row.1 == status).map(|row| row.0.clone()).collect();
        assert!(those.len() > 70);
        for limit in [1, those.len() - 1, those.len(), those.len() + 1] {
            let pages = walk(&stack, &format!("status={status}&limit={limit}"), still).await;
            assert_eq!((pages.len(), &pages.concat()), (those.len().div_ceil(limit), &those), "{status} {limit}");
        }
        for entry in page(&stack, &format!("limit=200&status={status}")).await["domains"].as_array().unwrap() {
            assert_eq!(entry["status"], status);
        }
    }
    // A cursor is a place, not a row: it goes on working with another limit or status, and when its domain is deleted.
    let first = page(&stack, "limit=10").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    stack.api().delete(&all[9]).await;
    assert_eq!(ids(&page(&stack, &format!("cursor={cursor}&limit=5")).await), all[10..15]);
    let failed: Vec<String> = rows[10..].iter().filter(|row| row.1 == "failed").map(|row| row.0.clone()).collect();
    assert_eq!(ids(&page(&stack, &format!("limit=3&status=failed&cursor={cursor}")).await), failed[..3]);
    assert_eq!(ids(&page(&stack, "cursor=0000000000000000").await), [""; 0]);
    assert_eq!(ids(&page(&stack, "cursor=7fffffffffffffff&limit=1").await), all[..1]);
}

#[tokio::test]
async fn bad_parameters_are_400() {
    let stack = Stack::builder().workers(0).start().await;
    for query in [
        "limit=0",
        "limit=201",
        "limit=abc",
        "limit=-1",
        "limit=",
        "limit=70000",
        "status=unknown",
        "status=",
        "status=Pending",
        "cursor=garbage",
        "cursor=",
        "cursor=ffffffffffffffff",
        "limit=1&limit=1",
        "status=active&status=active",
        "cursor=0000000000000001&cursor=0000000000000001",
        "page=2",
        "limit=1&unknown",
    ] {
        let error = refused(stack.api().try_list(query).await.unwrap(), 400);
        assert!(error.contains("1 to 200") && error.contains("certificate_pending"), "{query}: {error}");
    }
}

#[tokio::test]
async fn an_entry_is_what_get_shows_without_the_last_look_up() {
    let stack = Stack::builder().setting("POLL_TIMEOUT", "10m").start().await;
    let [pending, verified, waiting, active, failed]: [String; 5] = names(5).try_into().unwrap();
    let (waiting, _) = stack.pending_domain(&waiting).await;
    let (failed, order) = stack.pending_domain(&failed).await;
    let over =
        "UPDATE orders SET deadline_at = now() - interval '1 second', revision = revision + 1 WHERE public_id = $1";
    sqlx::query(over).bind(&order.order_id).execute(stack.pool()).await.unwrap();
    let by_status = BTreeMap::from([
        ("pending", stack.api().register(&pending).await.id),
        ("verified", stack.verified_domain(&verified).await.id),
        ("certificate_pending", waiting.id),
        ("active", stack.active_domain(&active).await.id),
        ("failed", stack.becomes(&failed.id, "failed", SOON).await.id),
    ]);
    for (status, id) in &by_status {
        // The times of a look-up under way may differ between one call and the next.
        let alike = async || {
            let mut shown = stack.api().try_fetch(id).await.unwrap().expect(200);
            let last_check = shown.as_object_mut().unwrap().remove("last_check");
            let listed = page(&stack, &format!("status={status}")).await["domains"].clone();
            let looked = last_check.is_some_and(|check| !check.is_null());
            let as_far_as_it_goes = looked == (*status == "certificate_pending");
            (as_far_as_it_goes && listed == json!([shown])).then_some(listed)
        };
        let listed = stack.wait_until(&format!("the {status} entry is what GET shows"), SOON, alike).await;
        let special = match *status {
            "pending" => "instructions",
            "verified" => "verified_at",
            "certificate_pending" => "expected_txt_value",
            "active" => "certificate",
            _ => "failure",
        };
        assert!(!listed[0][special].is_null(), "{listed}");
    }
    assert_eq!(
        ids(&page(&stack, "").await).into_iter().collect::<BTreeSet<_>>(),
        by_status.values().cloned().collect()
    );
    stack.api().delete(&by_status["certificate_pending"]).await;
    stack.finish().await;
}

#[tokio::test]
async fn a_walk_sees_every_domain_that_stays_exactly_once_while_others_come_and_go() {
    let stack = Stack::builder().apis(2).workers(0).start().await;
    let mut staying = Vec::new();
    let mut going = Vec::new();
    for number in 0..60 {
        staying.push(stack.api().register(&format!("stays-{number}.example.com")).await.id);
        going.push(stack.api().register(&format!("goes-{number}.example.com")).await.id);
    }
    staying.reverse();
    let (walking, mut walks) = (tokio::sync::watch::channel(true), 0);
    let come_and_go = async {
        let (api, mut number) = (stack.api_replica(2), 0u32);
        while *walking.1.borrow() {
            let new = api.register(&format!("comes-{number}.example.com")).await.id;
            // Now and then one of the old ones goes too; the walk may have deleted either before.
            let old = going.pop().filter(|_| number % 3 == 0);
            for gone in old.into_iter().chain((number % 2 == 0).then_some(new)) {
                let answer = api.try_delete(&gone).await.unwrap();
                assert!([204, 404].contains(&answer.status), "{}", answer.body);
            }
            number += 1;
        }
        number
    };
    let walk_many_times = async {
        while walks < 15 {
            let mut deleted = BTreeSet::new();
            let limit = [1, 7, 20, 50, 200][walks % 5];
            // The last of every other page goes before the next page is asked for.
            let mut goes = false;
            let between = async |page: &[String]| {
                goes = !goes;
                if let Some(last) = page.last()
                    && goes
                    && !staying.contains(last)
                    && stack.api().try_delete(last).await.unwrap().status == 204
                {
                    deleted.insert(last.clone());
                }
            };
            let seen = walk(&stack, &format!("limit={limit}"), between).await.concat();
            let distinct: BTreeSet<&String> = seen.iter().collect();
            assert_eq!(distinct.len(), seen.len(), "something was shown twice");
            let stayed: Vec<String> = seen.into_iter().filter(|id| staying.contains(id)).collect();
            assert_eq!(stayed, staying, "limit {limit}");
            let listed_again: BTreeSet<String> = walk(&stack, "limit=200", still).await.concat().into_iter().collect();
            assert!(listed_again.is_disjoint(&deleted), "a deleted domain is listed");
            walks += 1;
        }
        walking.0.send_replace(false);
    };
    let (came, ()) = tokio::join!(come_and_go, walk_many_times);
    assert!(came > 20, "{came}");
}

/// The text of the list's statement, with or without a status, as the macros recorded it.
fn list_statement(with_status: bool) -> String {
    let folder = checkout::root().unwrap().join(".sqlx");
    let files = fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    let query =
        |file: Vec<u8>| serde_json::from_slice::<Value>(&file).unwrap()["query"].as_str().map(ToOwned::to_owned);
    let lists_domains = |text: &String| {
        ["FROM domains WHERE account_id = 1", "ORDER BY", "LIMIT"].iter().all(|part| text.contains(part))
            && text.contains("status = $1") == with_status
    };
    let found: Vec<String> = files.filter_map(query).filter(lists_domains).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

/// The kinds of nodes of a plan, with the indexes they read, from the top.
fn nodes(plan: &Value) -> Vec<String> {
    let own = [&plan["Node Type"], &plan["Index Name"]].map(|part| part.as_str().unwrap_or_default()).join(" ");
    let below = plan["Plans"].as_array().into_iter().flatten().flat_map(nodes);
    std::iter::once(own).chain(below).collect()
}

/// Buffers that a page of 50 takes, after a look at its plan: one index is read in its order, and nothing else.
async fn cost(conn: &mut PgConnection, arguments: &str) -> i64 {
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE page({arguments}, 51)");
    let explained: Value = sqlx::query_scalar(AssertSqlSafe(explain)).persistent(false).fetch_one(conn).await.unwrap();
    let plan = &explained[0]["Plan"];
    let nodes = nodes(plan);
    let reads_an_index =
        nodes.len() == 2 && nodes[0] == "Limit " && nodes[1].starts_with("Index Scan domains_of_account_by_");
    assert!(reads_an_index, "{arguments}: {nodes:?}");
    let number = |field: &str| plan[field].as_i64().unwrap();
    assert_eq!(number("Actual Rows"), 51);
    number("Shared Hit Blocks") + number("Shared Read Blocks")
}

/// What is wrong with the costs of the first, a middle and the last page of 50 in this status.
async fn uneven(conn: &mut PgConnection, status: Option<&str>) -> Vec<String> {
    let ids = "SELECT id FROM domains WHERE deleted_at IS NULL AND ($1 IS NULL OR status = $1) ORDER BY id DESC";
    let ids: Vec<i64> = sqlx::query_scalar(ids).bind(status).fetch_all(&mut *conn).await.unwrap();
    let cursors = [i64::MAX, ids[ids.len() / 2], ids[ids.len() - 52]];
    let status = status.map(|status| format!("'{status}', ")).unwrap_or_default();
    let prepare = format!("PREPARE page AS {}", list_statement(!status.is_empty()));
    conn.execute(AssertSqlSafe(prepare)).await.unwrap();
    let mut wrong = Vec::new();
    // After a few times the server may keep one plan for all arguments.
    for before in [0, 10] {
        for _ in 0..before {
            conn.execute(AssertSqlSafe(format!("EXECUTE page({status}{}, 51)", cursors[0]))).await.unwrap();
        }
        let mut costs = Vec::new();
        for cursor in cursors {
            costs.push(cost(conn, &format!("{status}{cursor}")).await);
        }
        let line = format!("{status}after {before} times: {costs:?} buffers");
        println!("{line}");
        if costs.iter().max() > costs.iter().min().map(|least| 3 * least).as_ref() {
            wrong.push(line);
        }
    }
    conn.execute("DEALLOCATE page").await.unwrap();
    wrong
}

/// A database of 100,000 domains, of which every tenth is deleted, after these changes.
async fn large_database(changes: &'static [&'static str]) -> PgConnection {
    let mut conn = connect(&migrated().await).await;
    conn.execute("ALTER TABLE domains DISABLE TRIGGER domains_status_moves").await.unwrap();
    conn.execute(insert_domains(1, 100_000)).await.unwrap();
    conn.execute("UPDATE domains SET deleted_at = now() WHERE id % 10 = 3").await.unwrap();
    for &change in changes {
        conn.execute(change).await.unwrap();
    }
    // What is measured is the page, not what the changes left behind.
    conn.execute("CLUSTER domains USING domains_pkey").await.unwrap();
    conn.execute("VACUUM ANALYZE domains").await.unwrap();
    conn
}

#[tokio::test]
async fn every_page_of_100_000_domains_costs_the_same() {
    let mut conn = large_database(&[]).await;
    for status in [None, Some("pending"), Some("verified"), Some("certificate_pending"), Some("active"), Some("failed")]
    {
        assert_eq!(uneven(&mut conn, status).await, [""; 0]);
    }
}

/// As in any fleet that has been running for a while: what has failed, or was never verified, is not among the newest.
#[tokio::test]
async fn every_page_in_a_status_costs_the_same_however_old_its_domains_are() {
    let mut conn = large_database(&[
        "UPDATE domains SET status = 'active' WHERE status = 'failed' AND id > 1500",
        "UPDATE domains SET status = 'active', verified_at = now() WHERE status = 'pending' AND id > 30000",
    ])
    .await;
    let mut wrong = Vec::new();
    for status in ["pending", "active", "failed"] {
        wrong.extend(uneven(&mut conn, Some(status)).await);
    }
    assert!(wrong.is_empty(), "the first, a middle and the last page of 50:\n{}", wrong.join("\n"));
}
