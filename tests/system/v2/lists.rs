//! Pages and the order of the lists.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use countersign_tests::stack::Stack;
use countersign_tests::stack::accounts::{ALL_SCOPES, DEFAULT};
use serde_json::{Value, json};

use super::{Caller, message};

const DOMAIN: &str = "shop.example.com";

fn ids(page: &Value) -> Vec<i64> {
    page["data"].as_array().unwrap().iter().map(|entry| entry["id"].as_i64().unwrap()).collect()
}

/// Certificates of a domain without the API: names that repeat, dates that some have not.
async fn fill(stack: &Stack, domain: i64, count: i64) {
    let rows = "INSERT INTO certificates (public_id, domain_id, origin, state, algorithm, name, common_name, not_after)
                SELECT md5($1::text || '-' || n), $1, 'order', 'cancelled', 'rsa2048', 'n' || n % 7, 'n' || n % 7 || '.shop.example.com',
                       CASE WHEN n % 3 = 0 THEN NULL ELSE now() + make_interval(days => (n % 5)::int) END
                FROM generate_series(1, $2) AS n";
    sqlx::query(rows).bind(domain).bind(count).execute(stack.pool()).await.unwrap();
}

async fn page(caller: &Caller<'_>, list: &str, query: &str) -> Value {
    caller.get(&format!("{list}?{query}")).await.expect(200)
}

/// All pages from the first to the last.
async fn walk(caller: &Caller<'_>, list: &str, query: &str) -> Vec<Value> {
    let mut entries = Vec::new();
    for number in 1.. {
        let page = page(caller, list, &format!("{query}&page={number}")).await;
        entries.extend(page["data"].as_array().unwrap().clone());
        if page["pagination"]["total_pages"].as_i64().unwrap() <= number {
            break;
        }
    }
    entries
}

#[tokio::test]
async fn a_thousand_certificates_are_listed_page_by_page_each_once() {
    let stack = Stack::builder().workers(0).setting("RATE_LIMIT", "0").start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    let domain = caller.domain(DOMAIN).await;
    fill(&stack, domain, 1000).await;
    let list = format!("domains/{DOMAIN}/certificates");
    let newest: Vec<i64> =
        sqlx::query_scalar("SELECT id FROM certificates ORDER BY id DESC").fetch_all(stack.pool()).await.unwrap();

    let first = page(&caller, &list, "").await;
    assert_eq!(
        first["pagination"],
        json!({"current_page": 1, "per_page": 30, "total_entries": 1000, "total_pages": 34})
    );
    assert_eq!(ids(&first), newest[..30]);
    for per_page in [1000, 100, 99, 33] {
        let walked: Vec<i64> = walk(&caller, &list, &format!("per_page={per_page}"))
            .await
            .iter()
            .map(|entry| entry["id"].as_i64().unwrap())
            .collect();
        assert_eq!(walked, newest, "{per_page}");
    }
    for (query, current, per_page, shown) in [
        ("per_page=101", 1, 100, 100),
        ("per_page=99999999999999999999", 1, 30, 30),
        ("per_page=0", 1, 30, 30),
        ("per_page=-5&page=-1", 1, 30, 30),
        ("per_page=x&page=y", 1, 30, 30),
        ("per_page=&page=", 1, 30, 30),
        ("page=0", 1, 30, 30),
        ("page=34", 34, 30, 10),
        ("page=35", 35, 30, 0),
        ("page=1000000&per_page=100", 1_000_000, 100, 0),
        ("unknown=1", 1, 30, 30),
    ] {
        let page = page(&caller, &list, query).await;
        let about = &page["pagination"];
        assert_eq!(
            (about["current_page"].as_i64(), about["per_page"].as_i64()),
            (Some(current), Some(per_page)),
            "{query}"
        );
        assert_eq!((ids(&page).len(), about["total_entries"].as_i64()), (shown, Some(1000)), "{query}");
        assert_eq!(about["total_pages"], (1000 + per_page - 1) / per_page, "{query}");
    }
    page(&caller, &list, "page=9223372036854775807&per_page=9223372036854775807").await;
}

/// By the words of the API, over what the API shows.
fn compare(field: &str, descending: bool, a: &Value, b: &Value) -> Ordering {
    let directed = |ordering: Ordering| if descending { ordering.reverse() } else { ordering };
    match field {
        "id" => directed(a["id"].as_i64().cmp(&b["id"].as_i64())),
        "expiration" => match (a["expires_at"].as_str(), b["expires_at"].as_str()) {
            (None, None) => Ordering::Equal,
            // Last in both directions.
            (None, _) => Ordering::Greater,
            (_, None) => Ordering::Less,
            (a, b) => directed(a.cmp(&b)),
        },
        field => directed(a[field].as_str().cmp(&b[field].as_str())),
    }
}

#[tokio::test]
async fn certificates_are_sorted_by_every_field_in_both_directions_without_dates_last() {
    let stack = Stack::builder().workers(0).setting("RATE_LIMIT", "0").start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    let domain = caller.domain(DOMAIN).await;
    fill(&stack, domain, 210).await;
    let list = format!("domains/{DOMAIN}/certificates");
    for sort in [
        "id:asc",
        "id:desc",
        "common_name:asc",
        "common_name:desc",
        "expiration:asc",
        "expiration:desc",
        "common_name:asc,id:asc",
        "common_name:desc,expiration:asc",
        "expiration:desc,common_name:asc,id:asc",
        "expiration:asc,common_name:desc",
        "id:asc,common_name:desc",
    ] {
        for query in [
            format!("sort={sort}&per_page=50"),
            format!("sort={}&per_page=100", sort.replace(':', "%3A").replace(',', "%2C")),
        ] {
            let walked = walk(&caller, &list, &query).await;
            assert_eq!(walked.iter().map(|entry| entry["id"].as_i64()).collect::<BTreeSet<_>>().len(), 210, "{query}");
            let keys: Vec<(&str, bool)> = sort
                .split(',')
                .map(|key| key.split_once(':').map(|(field, direction)| (field, direction == "desc")).unwrap())
                // What is alike, the newest first.
                .chain([("id", true)])
                .collect();
            let sorted = walked.is_sorted_by(|a, b| {
                let ordering = keys.iter().map(|(field, descending)| compare(field, *descending, a, b));
                ordering.fold(Ordering::Equal, Ordering::then) == Ordering::Less
            });
            assert!(sorted, "{query}");
        }
    }
    for bad in [
        "bogus:asc",
        "id",
        "id:up",
        "id:",
        ":asc",
        "id:asc,",
        ",id:asc",
        "id:asc,bogus:desc",
        "ID:asc",
        "id:ASC",
        "name:asc",
        "expires_at:asc",
        "c.id:asc",
        "id:asc;drop table",
        "id asc",
    ] {
        let answer = caller.get(&format!("{list}?sort={}", bad.replace(' ', "%20").replace(';', "%3B"))).await;
        assert_eq!(message(answer, 400), format!("Invalid sorting parameter: {bad}"));
    }
    assert_eq!(ids(&page(&caller, &list, "sort=").await), ids(&page(&caller, &list, "").await));
}

#[tokio::test]
async fn domains_are_sorted_filtered_and_paged_as_certificates_are() {
    let stack = Stack::builder().workers(0).start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    for name in ["b-2", "a-1", "c-3", "a-10"] {
        caller.domain(&format!("{name}.example.com")).await;
    }
    let names = async |query: &str| -> Vec<String> {
        let listed = page(&caller, "domains", query).await;
        let name = |entry: &Value| entry["name"].as_str().unwrap().trim_end_matches(".example.com").to_owned();
        listed["data"].as_array().unwrap().iter().map(name).collect()
    };
    let by_name = names("").await;
    assert_eq!(by_name, names("sort=name:asc").await);
    assert_eq!(by_name.iter().map(|name| &name[..1]).collect::<String>(), "aabc");
    let mut reversed = by_name.clone();
    reversed.reverse();
    assert_eq!(names("sort=name:desc").await, reversed);
    assert_eq!(names("sort=id:asc").await, ["b-2", "a-1", "c-3", "a-10"]);
    // None has a date: the newest first.
    for sort in ["id:desc", "expiration:asc", "expiration:desc"] {
        assert_eq!(names(&format!("sort={sort}")).await, ["a-10", "c-3", "a-1", "b-2"], "{sort}");
    }
    assert_eq!(names("sort=expiration:asc,name:desc").await, reversed);
    assert_eq!(names("name_like=A-1&sort=id:asc").await, ["a-1", "a-10"]);
    assert_eq!(names("name_like=%25").await, [""; 0]);
    assert_eq!(names("name_like=_").await, [""; 0]);
    assert_eq!(names("name_like=%00").await, [""; 0]);
    assert_eq!(names("name_like=&registrant_id=7").await.len(), 4);
    assert_eq!(names("name_like=a-1&per_page=1&page=2&sort=id:asc").await, ["a-10"]);
    let about = page(&caller, "domains", "name_like=a-1&per_page=1").await["pagination"].clone();
    assert_eq!(about, json!({"current_page": 1, "per_page": 1, "total_entries": 2, "total_pages": 2}));
    let answer = caller.get("domains?sort=common_name:asc").await;
    assert_eq!(message(answer, 400), "Invalid sorting parameter: common_name:asc");
}

/// Pages are by number: what is ordered meanwhile comes at the end of `id:asc`, and at the beginning of `id:desc`, where it
/// moves everything down; an entry may then be shown twice, but none is missed.
#[tokio::test]
async fn while_others_order_a_walk_by_id_misses_nothing_and_upwards_shows_nothing_twice() {
    let stack = Stack::builder().apis(2).workers(0).setting("RATE_LIMIT", "0").start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    let domain = caller.domain(DOMAIN).await;
    fill(&stack, domain, 300).await;
    let staying: Vec<i64> =
        sqlx::query_scalar("SELECT id FROM certificates ORDER BY id").fetch_all(stack.pool()).await.unwrap();
    let list = format!("domains/{DOMAIN}/certificates");
    let walking = tokio::sync::watch::channel(true);
    let others = async {
        let mut ordered = 0;
        while *walking.1.borrow() {
            caller.order(DOMAIN, json!({})).await;
            ordered += 1;
        }
        ordered
    };
    let walks = async {
        for _ in 0..5 {
            let up: Vec<i64> = ids(&json!({"data": walk(&caller, &list, "sort=id:asc&per_page=20").await}));
            assert!(up.is_sorted_by(|a, b| a < b), "something was shown twice");
            assert_eq!(up[..300], staying);
            let down: BTreeSet<i64> =
                ids(&json!({"data": walk(&caller, &list, "sort=id:desc&per_page=20").await})).into_iter().collect();
            assert!(staying.iter().all(|id| down.contains(id)), "something was missed");
        }
        walking.0.send_replace(false);
    };
    let (ordered, ()) = tokio::join!(others, walks);
    assert!(ordered > 10, "{ordered}");
}

/// One certificate of `/domains` is a certificate of the domain in `/v2`, with RSA and the domain as its name.
#[tokio::test]
async fn what_domains_issues_is_listed_here_and_deleted_here() {
    let stack = Stack::builder().start().await;
    let caller = Caller::of(&stack, DEFAULT, ALL_SCOPES);
    let active = stack.active_domain(DOMAIN).await;
    let listed = caller.get("domains").await.expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    assert_eq!((&listed["data"][0]["name"], &listed["data"][0]["state"]), (&json!(DOMAIN), &json!("hosted")));
    let certificates = page(&caller, &format!("domains/{DOMAIN}/certificates"), "").await;
    let id = ids(&certificates)[0];
    let shown = &certificates["data"][0];
    assert_eq!(
        (&shown["name"], &shown["common_name"], &shown["state"]),
        (&json!(""), &json!(DOMAIN), &json!("issued"))
    );
    assert!(caller.private_key(DOMAIN, id).await.starts_with("-----BEGIN RSA PRIVATE KEY-----"));
    super::client::check_certificate(
        &stack,
        &caller.chain(DOMAIN, id).await,
        &caller.private_key(DOMAIN, id).await,
        &[DOMAIN],
        "RSA 2048 bits",
    );
    assert_eq!(message(caller.issue(DOMAIN, id).await, 400), "Certificate cannot be issued: its state is issued");
    // And an order of /v2 never moves the status that /domains shows.
    caller.order(DOMAIN, json!({})).await;
    assert_eq!(stack.api().fetch(&active.id).await.status, "active");
    caller.delete(&format!("domains/{DOMAIN}")).await.expect(204);
    stack.api().try_fetch(&active.id).await.unwrap().expect(404);
}
