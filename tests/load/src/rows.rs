//! Rows that a customer base leaves in the database, written by SQL: as many orders cannot be placed at a CA in reasonable time.

use std::ops::Range;
use std::time::Instant;

use anyhow::Result;
use countersign_tests::stack::Stack;
use futures::future::try_join_all;

/// The names of all domains are in it.
pub(crate) const ZONE: &str = "bench.test.";

/// Of the key that a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Ecdsa,
    Rsa,
}

impl Algorithm {
    /// As it is told.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ecdsa => "ECDSA",
            Self::Rsa => "RSA",
        }
    }

    /// As `certificates.algorithm` has it.
    pub(crate) fn stored(self) -> &'static str {
        match self {
            Self::Ecdsa => "ecdsa_p256",
            Self::Rsa => "rsa2048",
        }
    }
}

/// Orders as issue calls leave them, due from the commit on; the workers publish their records at the stack's DNS server. With
/// `are_awaited` somebody waits for each to be placed, as for those of `/domains`. Their domains are `<series>-<number>.bench.test`.
pub(crate) async fn accepted(
    stack: &Stack,
    series: &str,
    count: i64,
    algorithm: Algorithm,
    are_awaited: bool,
) -> Result<()> {
    let text = "
        WITH domain AS (
            INSERT INTO domains (public_id, name, supplied_name, status, verification_token, verified_at)
            SELECT md5('domain' || $1 || n), format('%s-%s.bench.test', $1, n), format('%s-%s.bench.test', $1, n), 'verified',
                md5('token' || n) || md5('token' || n), now()
            FROM generate_series(0, $2 - 1) AS n RETURNING id, name
        ), certificate AS (
            INSERT INTO certificates (public_id, domain_id, origin, state, algorithm, common_name)
            SELECT md5('certificate' || id), id, 'challenge', 'requesting', $3, name FROM domain RETURNING id, domain_id
        ), accepted AS (
            INSERT INTO orders (public_id, domain_id, certificate_id, origin, presenter, place_by)
            SELECT md5('order' || id), domain_id, id, 'challenge', 'test-dns', CASE WHEN $4 THEN now() + interval '1 hour' END
            FROM certificate RETURNING id
        )
        INSERT INTO jobs (kind, order_id, lane) SELECT 'poll-challenge', id, CASE WHEN $4 THEN 0 ELSE 1 END FROM accepted";
    sqlx::query(text).bind(series).bind(count).bind(algorithm.stored()).bind(are_awaited).execute(stack.pool()).await?;
    // In a database that has lived for a minute autovacuum has done so. Without it statements are planned for empty tables.
    sqlx::raw_sql("ANALYZE domains, certificates, orders, authorizations, order_events, jobs")
        .execute(stack.pool())
        .await?;
    Ok(())
}

/// Orders placed just now whose TXT record is awaited for a day, each looked at once in every `interval_secs`, at times spread evenly
/// over that, from `in_secs` on. Their domains are `d<number>.bench.test`.
pub(crate) async fn awaiting(stack: &Stack, count: i64, in_secs: f64, interval_secs: f64) -> Result<()> {
    let text = "
        WITH domain AS (
            INSERT INTO domains (public_id, name, supplied_name, status, verification_token, verified_at)
            SELECT md5('domain' || n), format('d%s.bench.test', n), format('d%s.bench.test', n), 'certificate_pending',
                md5('token' || n) || md5('token' || n), now()
            FROM generate_series(0, $1 - 1) AS n RETURNING id, name
        ), certificate AS (
            INSERT INTO certificates (public_id, domain_id, origin, state, algorithm, common_name)
            SELECT md5('certificate' || id), id, 'challenge', 'requesting', 'ecdsa_p256', name FROM domain RETURNING id, domain_id
        ), placed AS (
            INSERT INTO orders (public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, placed_at, deadline_at)
            SELECT md5('order' || id), domain_id, id, 'challenge', 'presented', 2, $4,
                'https://ca.invalid/order/' || id, now(), now() + interval '1 day'
            FROM certificate RETURNING id, domain_id
        ), awaited AS (
            INSERT INTO authorizations (order_id, domain_id, identifier, url, challenge_url, token, txt_value)
            SELECT placed.id, domain_id, name, 'https://ca.invalid/authorization/' || placed.id,
                'https://ca.invalid/challenge/' || placed.id, md5('token' || placed.id), left(md5(name) || md5(name), 43)
            FROM placed JOIN domain ON domain.id = domain_id
        )
        INSERT INTO jobs (kind, order_id, lane, due_at)
        SELECT 'poll-challenge', id, 1,
            now() + make_interval(secs => $2 + $3 * (row_number() OVER (ORDER BY random()))::float8 / $1::float8)
        FROM placed";
    sqlx::query(text)
        .bind(count)
        .bind(in_secs)
        .bind(interval_secs)
        .bind(stack.ca().directory())
        .execute(stack.pool())
        .await?;
    sqlx::raw_sql("VACUUM (ANALYZE) domains, certificates, orders, authorizations, jobs").execute(stack.pool()).await?;
    Ok(())
}

/// Lets all orders of [`awaiting`] begin again, while no worker runs: placed just now, looked at from `in_secs` on.
pub(crate) async fn begin_again(stack: &Stack, in_secs: f64, interval_secs: f64) -> Result<()> {
    let text = "
        WITH placed AS (
            UPDATE orders SET placed_at = now(), deadline_at = now() + interval '1 day'
            WHERE state = 'presented' AND id < $3 RETURNING id
        ), number AS (SELECT id, row_number() OVER (ORDER BY random())::float8 / count(*) OVER () AS part FROM placed)
        UPDATE jobs SET leased_by = NULL, due_at = now() + make_interval(secs => $1 + $2 * part)
        FROM number WHERE order_id = number.id";
    sqlx::query(text).bind(in_secs).bind(interval_secs).bind(FIRST_ID).execute(stack.pool()).await?;
    sqlx::raw_sql("VACUUM (ANALYZE) orders, jobs").execute(stack.pool()).await?;
    Ok(())
}

/// Ids of what [`ended`] and [`resting`] write: far from those that the database gives.
const FIRST_ID: i64 = 1_000_000_000;
const CONNECTIONS: i64 = 2;

/// Domains `e<number>.bench.test` with all that a customer leaves behind: an issued certificate that is valid for two more months, its
/// order, ended and cleaned up, and the timeline of that. Texts are as long as in production; their pages are not, because they repeat
/// themselves and are compressed.
pub(crate) async fn ended(stack: &Stack, numbers: Range<i64>) -> Result<()> {
    const DOMAINS: &str = "
        INSERT INTO domains (id, public_id, name, supplied_name, status, verification_token, verified_at, created_at)
        OVERRIDING SYSTEM VALUE
        SELECT $3 + n, md5('e' || n), format('e%s.bench.test', n), format('e%s.bench.test', n), 'active',
            md5('token e' || n) || md5('token e' || n), now() - interval '30 days', now() - interval '30 days'
        FROM generate_series($1, $2) AS n";
    const CERTIFICATES: &str = "
        INSERT INTO certificates (id, public_id, domain_id, origin, state, algorithm, common_name, csr, private_key_pem,
            certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer, auto_renew,
            renew_at, ari_check_due, ari_checked_at, created_at)
        OVERRIDING SYSTEM VALUE
        SELECT $3 + n, md5('c' || n), $3 + n, 'challenge', 'issued', 'ecdsa_p256', format('e%s.bench.test', n),
            repeat(md5('csr' || n), 14), repeat(md5('key' || n), 8), repeat(md5('chain' || n), 110),
            at, at, at + interval '90 days', md5('serial' || n), md5('f' || n) || md5('g' || n),
            'CN=Example Intermediate CA', true, at + interval '60 days', at + interval '60 days', at, at
        FROM (SELECT n, now() - interval '29 days' * random() AS at FROM generate_series($1, $2) AS n) AS numbered";
    const ORDERS: &str = "
        INSERT INTO orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, placed_at,
            deadline_at, seen_at, ended_at, cleaned_up_at, created_at)
        OVERRIDING SYSTEM VALUE
        SELECT id, md5('o' || id), domain_id, id, 'challenge', 'issued', 10, 'https://ca.invalid/directory',
            'https://ca.invalid/order/' || id, issued_at, issued_at + interval '5 min', issued_at, issued_at, issued_at, issued_at
        FROM certificates WHERE id BETWEEN $3 + $1 AND $3 + $2";
    const EVENTS: &str = "
        INSERT INTO order_events (order_id, at, event, state, actor, detail)
        SELECT $3 + n, now() - interval '29 days', event, state, 'worker-1', NULL
        FROM generate_series($1, $2) AS n, (VALUES ('accepted', 'accepted'), ('placed', 'placed'), ('seen', 'presented'),
            ('issued', 'issued'), ('cleaned_up', 'issued')) AS happened (event, state)";
    write(stack, numbers, &[DOMAINS, CERTIFICATES, ORDERS, PROVED, EVENTS]).await
}

const PROVED: &str = "
    INSERT INTO authorizations (order_id, domain_id, identifier, url, challenge_url, token, txt_value, proved_at)
    SELECT o.id, domain_id, d.name, 'https://ca.invalid/authorization/' || o.id, 'https://ca.invalid/challenge/' || o.id,
        md5('token' || o.id), left(md5(d.name) || md5(d.name), 43), CASE o.state WHEN 'issued' THEN o.ended_at END
    FROM orders o JOIN domains d ON d.id = o.domain_id WHERE o.id BETWEEN $3 + $1 AND $3 + $2";

/// Domains `e<number>.bench.test` with an order in flight that nobody looks at: of even numbers parked, of odd ones due in a month.
pub(crate) async fn resting(stack: &Stack, numbers: Range<i64>) -> Result<()> {
    const DOMAINS: &str = "
        INSERT INTO domains (id, public_id, name, supplied_name, status, verification_token, verified_at)
        OVERRIDING SYSTEM VALUE
        SELECT $3 + n, md5('e' || n), format('e%s.bench.test', n), format('e%s.bench.test', n), 'certificate_pending',
            md5('token e' || n) || md5('token e' || n), now()
        FROM generate_series($1, $2) AS n";
    const CERTIFICATES: &str = "
        INSERT INTO certificates (id, public_id, domain_id, origin, state, algorithm, common_name)
        OVERRIDING SYSTEM VALUE
        SELECT $3 + n, md5('c' || n), $3 + n, 'challenge', 'requesting', 'ecdsa_p256', format('e%s.bench.test', n)
        FROM generate_series($1, $2) AS n";
    const ORDERS: &str = "
        INSERT INTO orders (id, public_id, domain_id, certificate_id, origin, state, revision, directory, acme_url, placed_at, deadline_at)
        OVERRIDING SYSTEM VALUE
        SELECT $3 + n, md5('o' || $3 + n), $3 + n, $3 + n, 'challenge', 'presented', 2, 'https://ca.invalid/directory',
            'https://ca.invalid/order/' || $3 + n, now(), now() + interval '40 days'
        FROM generate_series($1, $2) AS n";
    const JOBS: &str = "
        INSERT INTO jobs (kind, order_id, lane, due_at, parked_at)
        SELECT 'poll-challenge', $3 + n, 1, now() + CASE n % 2 WHEN 1 THEN interval '30 days' ELSE interval '-1 hour' END,
            CASE n % 2 WHEN 0 THEN now() END
        FROM generate_series($1, $2) AS n";
    write(stack, numbers, &[DOMAINS, CERTIFICATES, ORDERS, PROVED, JOBS]).await
}

/// Runs the statements for `$1` to `$2`, shares of these numbers, on several connections at once. Foreign keys are not checked: that
/// would take longer than writing.
async fn write(stack: &Stack, numbers: Range<i64>, statements: &[&'static str]) -> Result<()> {
    let began = Instant::now();
    let count = numbers.end - numbers.start;
    let shares = (0..CONNECTIONS).map(async |share| {
        let bound = |share| numbers.start + count * share / CONNECTIONS;
        let mut transaction = stack.pool().begin().await?;
        let careless = "SET LOCAL session_replication_role = replica; SET LOCAL synchronous_commit = off";
        sqlx::raw_sql(careless).execute(&mut *transaction).await?;
        for statement in statements {
            let query = sqlx::query(*statement).bind(bound(share)).bind(bound(share + 1) - 1).bind(FIRST_ID);
            query.execute(&mut *transaction).await?;
        }
        transaction.commit().await
    });
    try_join_all(shares).await?;
    sqlx::raw_sql("VACUUM (ANALYZE) domains, certificates, orders, authorizations, order_events, jobs")
        .execute(stack.pool())
        .await?;
    eprintln!("{count} written in {:.0?}", began.elapsed());
    Ok(())
}

/// Domains `v<number>.bench.test` that are verified, for a first order. Their public id is the number, in hex; the first is the one
/// after `first`.
pub(crate) async fn verified(stack: &Stack, first: u64, count: u64) -> Result<()> {
    let text = "
        INSERT INTO domains (public_id, name, supplied_name, status, verification_token, verified_at)
        SELECT lpad(to_hex(n), 32, '0'), format('v%s.bench.test', n), format('v%s.bench.test', n), 'verified',
            md5('token' || n) || md5('token' || n), now()
        FROM generate_series($1 + 1, $1 + $2) AS n";
    sqlx::query(text).bind(i64::try_from(first)?).bind(i64::try_from(count)?).execute(stack.pool()).await?;
    Ok(())
}
