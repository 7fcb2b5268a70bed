//! `idempotency_keys`: what was answered to a request that may come again.
//!
//! A key belongs to a caller and a path. While its request runs it is taken; an answer that went well is kept for 24 hours, in
//! the transaction of its effect where there is one; anything else frees the key. A process that dies frees it by the end of
//! `runs_until`.

use sqlx::PgConnection;

use super::StoreError;

/// Whose key, of which request.
#[derive(Clone, Debug)]
pub struct KeyOf<'a> {
    pub caller: &'a str,
    pub path: &'a str,
    pub key: &'a str,
}

/// What a request that comes with a key meets.
#[derive(Clone, Debug)]
pub enum Begun {
    /// It is the first: go on, under this number.
    Run(i64),
    /// The first one went well, and this was its answer.
    Answered { status: u16, body: Vec<u8> },
    /// The first one still runs.
    Running,
    /// The first one had another body.
    OtherBody,
}

/// Takes the key for at most `run_secs`.
pub async fn begin(
    conn: &mut PgConnection,
    of: &KeyOf<'_>,
    request_sha256: &[u8],
    run_secs: f64,
) -> Result<Begun, StoreError> {
    // What is over is as if it had never been.
    let run = sqlx::query_scalar!(
        "INSERT INTO idempotency_keys AS k (caller, path, key, request_sha256, runs_until)
         VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
         ON CONFLICT (caller, path, key) DO UPDATE SET request_sha256 = excluded.request_sha256, run = k.run + 1,
             runs_until = excluded.runs_until, created_at = now(), status = NULL, body = NULL
             WHERE k.created_at < now() - interval '24 hours' OR (k.status IS NULL AND k.runs_until < now())
         RETURNING run",
        of.caller,
        of.path,
        of.key,
        request_sha256,
        run_secs
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(run) = run {
        return Ok(Begun::Run(run));
    }
    let row = sqlx::query!(
        "SELECT request_sha256, status, body FROM idempotency_keys WHERE caller = $1 AND path = $2 AND key = $3",
        of.caller,
        of.path,
        of.key
    )
    .fetch_optional(conn)
    .await?;
    Ok(match row {
        // Freed a moment ago: whoever asks again gets it.
        None => Begun::Running,
        Some(row) if row.request_sha256 != request_sha256 => Begun::OtherBody,
        Some(row) => match (row.status.and_then(|status| u16::try_from(status).ok()), row.body) {
            (Some(status), Some(body)) => Begun::Answered { status, body },
            _ => Begun::Running,
        },
    })
}

/// Keeps an answer. False when the run has lost the key to another one meanwhile: its effect must be rolled back.
pub async fn keep(
    conn: &mut PgConnection,
    of: &KeyOf<'_>,
    run: i64,
    status: u16,
    body: &[u8],
) -> Result<bool, StoreError> {
    let kept = sqlx::query!(
        "UPDATE idempotency_keys SET status = $5, body = $6
         WHERE caller = $1 AND path = $2 AND key = $3 AND run = $4 AND status IS NULL",
        of.caller,
        of.path,
        of.key,
        run,
        i32::from(status),
        body
    )
    .execute(conn)
    .await?;
    Ok(kept.rows_affected() == 1)
}

/// Frees the key of a run that did not go well.
pub async fn free(conn: &mut PgConnection, of: &KeyOf<'_>, run: i64) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM idempotency_keys WHERE caller = $1 AND path = $2 AND key = $3 AND run = $4 AND status IS NULL",
        of.caller,
        of.path,
        of.key,
        run
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets keys that are older than 24 hours, at most `limit`. Returns how many.
pub async fn purge(conn: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let purged = sqlx::query!(
        "DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM idempotency_keys WHERE created_at < now() - interval '24 hours' LIMIT $1))",
        limit
    )
    .execute(conn)
    .await?;
    Ok(purged.rows_affected())
}
