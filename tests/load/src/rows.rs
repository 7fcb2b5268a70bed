//! Rows that a customer base leaves in the database, written by SQL: as many orders cannot be placed at a CA in reasonable time.

use anyhow::Result;
use countersign_tests::stack::Stack;

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
