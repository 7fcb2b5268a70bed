//! What the lists cost where there is much: a page reads about as many rows as it shows, by an index that has them in order,
//! however the list is sorted.

use countersign_shared::store::certificates::ordered::{self, CertificateColumn};
use countersign_shared::store::domains::of_account::{self, DomainColumn};
use countersign_shared::store::sorting::SortBy;
use countersign_shared::store::webhooks::{self, WebhookColumn};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::databases::{connect, migrated};

const PER_PAGE: i64 = 100;
/// Rows read for a page of 100 behind two others; rows alike in the first column are read together.
const MOST_READ: i64 = 500;

/// Of account 3, each with a webhook; those of account 2 were deleted.
const FEW: i64 = 350;

/// A database with so many domains, the oldest of them of account 2, the next [`FEW`] of account 3, and so many certificates: the
/// oldest of one domain, the next ones of many, the newest of another one; returns the two.
async fn large_database(rows: i64) -> (PgConnection, [i64; 2]) {
    let mut conn = connect(&migrated().await).await;
    let domains = format!(
        "INSERT INTO accounts (name, email) VALUES ('second', ''), ('third', '');
         INSERT INTO domains (account_id, public_id, name, supplied_name, verification_token, deleted_at)
         SELECT CASE WHEN n < {rows} / 10 THEN 2 WHEN n < {rows} / 10 + {FEW} THEN 3 ELSE 1 END, md5(n::text), 'shop-' || md5(n::text) || '.example.com', 'x', repeat(md5(n::text), 2),
                CASE WHEN n % 17 = 0 THEN now() END
         FROM generate_series(1, {rows}) AS n"
    );
    conn.execute(AssertSqlSafe(domains)).await.unwrap();
    let certificates = format!(
        "INSERT INTO certificates (public_id, domain_id, origin, state, algorithm, name, common_name, not_after)
         SELECT md5(n::text), d.first + CASE WHEN n < {rows} / 20 THEN 0 WHEN n < {rows} / 2 THEN n ELSE 1 END, 'order', 'cancelled', 'rsa2048', 'n' || n / 5,
                'n' || n / 5 || '.example.com', CASE WHEN n % 2 = 0 THEN now() + make_interval(secs => n / 3) END
         FROM generate_series(1, {rows} - 1) AS n, (SELECT min(id) AS first FROM domains) AS d"
    );
    conn.execute(AssertSqlSafe(certificates)).await.unwrap();
    let webhooks = format!(
        "INSERT INTO webhooks (account_id, url, deleted_at)
         SELECT CASE WHEN n <= {PER_PAGE} THEN 3 ELSE 2 END, 'https://shop.example/' || n, CASE WHEN n > {PER_PAGE} THEN now() END
         FROM generate_series(1, {rows}) AS n"
    );
    conn.execute(AssertSqlSafe(webhooks)).await.unwrap();
    conn.execute("VACUUM ANALYZE webhooks").await.unwrap();
    conn.execute("VACUUM ANALYZE domains").await.unwrap();
    conn.execute("VACUUM ANALYZE certificates").await.unwrap();
    let first: i64 = sqlx::query_scalar("SELECT min(id) FROM domains").fetch_one(&mut conn).await.unwrap();
    (conn, [first, first + 1])
}

/// Scans of a whole table, and rows fetched by way of an index, so far in this transaction.
async fn reads(conn: &mut PgConnection, table: &str) -> (i64, i64) {
    let query = "SELECT seq_scan, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = $1";
    sqlx::query_as(query).bind(table).fetch_one(conn).await.unwrap()
}

/// What is wrong with the cost of a list's first pages, also once the server may have made one plan for all arguments.
async fn too_dear(
    conn: &mut PgConnection,
    table: &str,
    what: &str,
    page: impl AsyncFn(&mut PgConnection, i64) -> usize,
) -> Option<String> {
    for time in 0..8 {
        let mut tx = conn.begin().await.unwrap();
        let before = reads(&mut tx, table).await;
        let shown = page(&mut tx, time % 3 * PER_PAGE).await;
        let after = reads(&mut tx, table).await;
        let (scans, fetched) = (after.0 - before.0, after.1 - before.1);
        tx.rollback().await.unwrap();
        assert_eq!(shown as i64, PER_PAGE, "{what}");
        let most = if what.contains("like Some") { 2 * FEW } else { MOST_READ };
        if scans > 0 || fetched > most {
            return Some(format!("{table} by {what}: {scans} scans of the whole table, {fetched} rows fetched"));
        }
    }
    None
}

async fn every_list_is_cheap(rows: i64) {
    let (mut conn, of_much) = large_database(rows).await;
    let mut wrong = Vec::new();
    for first in
        [None, Some(CertificateColumn::Id), Some(CertificateColumn::CommonName), Some(CertificateColumn::Expiration)]
    {
        for second in [None, Some(CertificateColumn::Id), Some(CertificateColumn::Expiration)] {
            for (domain, descending) in of_much.into_iter().flat_map(|domain| [(domain, false), (domain, true)]) {
                let sort: Vec<_> =
                    first.into_iter().chain(second).map(|column| SortBy { column, descending }).collect();
                let page = async |conn: &mut PgConnection, offset| {
                    ordered::page(conn, domain, &sort, PER_PAGE, offset).await.unwrap().0.len()
                };
                wrong.extend(too_dear(&mut conn, "certificates", &format!("{sort:?} of domain {domain}"), page).await);
            }
        }
    }
    for first in [None, Some(DomainColumn::Id), Some(DomainColumn::Name), Some(DomainColumn::Expiration)] {
        for descending in [false, true] {
            // A part of a name is looked for in every name of the account, to count them, and in nobody else's.
            for (account, name_like) in [(1, None), (2, None), (3, Some("shop"))] {
                let sort: Vec<_> = first.into_iter().map(|column| SortBy { column, descending }).collect();
                let page = async |conn: &mut PgConnection, offset| {
                    of_account::page(conn, account, name_like, &sort, PER_PAGE, offset).await.unwrap().0.len()
                };
                let what = format!("{sort:?} of account {account} like {name_like:?}");
                wrong.extend(too_dear(&mut conn, "domains", &what, page).await);
            }
        }
    }
    for descending in [false, true] {
        let sort = [SortBy { column: WebhookColumn::Id, descending }];
        let list = async |conn: &mut PgConnection, _| webhooks::list(conn, 3, &sort).await.unwrap().len();
        wrong.extend(too_dear(&mut conn, "webhooks", &format!("{sort:?}"), list).await);
    }
    assert!(wrong.is_empty(), "of {rows} rows:\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_page_of_a_list_costs_little_whatever_its_order() {
    every_list_is_cheap(60_000).await;
}

#[tokio::test]
#[ignore = "a million rows: make test-all"]
async fn a_page_of_a_list_costs_little_among_a_million() {
    every_list_is_cheap(1_000_000).await;
}
