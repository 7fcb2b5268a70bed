//! Rows that a customer base leaves in the database, written by SQL: as many orders cannot be placed at a CA in reasonable time.

use anyhow::Result;
use countersign_tests::stack::Stack;

/// The names of all domains are in it.
pub(crate) const ZONE: &str = "bench.test.";

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
