//! Gathers what the verdict judges: from the database, from the CA, and from the API as a customer sees it.

use anyhow::{Context, Result};
use sqlx::{FromRow, PgPool};

use super::customers::Story;
use super::verdict::{CaCertificate, DomainRow, Evidence};
use crate::stack::Stack;

const ORDERS: &str = "SELECT o.public_id, d.name, o.state, o.problem ->> 'code' AS code, o.placed_at IS NOT NULL AS placed,
           o.cleaned_up_at IS NOT NULL AS cleaned_up, extract(epoch FROM o.deadline_at)::float8 AS deadline_at, a.txt_value
      FROM orders o JOIN domains d ON d.id = o.domain_id LEFT JOIN authorizations a ON a.order_id = o.id
     ORDER BY o.id";

const DOMAINS: &str = "SELECT public_id, name, status FROM domains WHERE deleted_at IS NULL ORDER BY id";

const CERTIFICATES: &str = "SELECT d.name, ltrim(c.serial_number, '0') AS serial,
           (SELECT count(*) FROM orders o WHERE o.certificate_id = c.id AND o.state = 'issued') AS orders
      FROM certificates c JOIN domains d ON d.id = c.domain_id
     WHERE c.state = 'issued' ORDER BY c.id";

/// Scheduled jobs stay; what they leave must not be leased for good.
const JOBS_LEFT: &str = "SELECT format('job %s (%s) of order %s, leased by %s, %s attempts, last result %s', id, kind,
           coalesce(order_id::text, '-'), coalesce(leased_by, '-'), attempts, coalesce(last_result::text, '-'))
      FROM jobs WHERE kind = 'poll-challenge' OR (leased_by IS NOT NULL AND due_at < now()) ORDER BY id";

pub async fn gather(stack: &Stack, stories: Vec<Story>, unexplained: Vec<String>) -> Result<Evidence> {
    let pool = stack.pool();
    let mut domains: Vec<DomainRow> = rows(pool, DOMAINS).await?;
    for domain in &mut domains {
        let answer = stack.api().try_fetch(&domain.public_id).await?;
        domain.shown = answer.body["status"].as_str().map(ToOwned::to_owned);
    }
    let issued = stack.ca().issued().await?.into_iter();
    let at_the_ca = issued.flat_map(|(serial, names)| {
        let serial = serial.trim_start_matches('0').to_lowercase();
        names.into_iter().map(move |name| CaCertificate { name, serial: serial.clone() })
    });
    Ok(Evidence {
        stories,
        orders: rows(pool, ORDERS).await?,
        domains,
        certificates: rows(pool, CERTIFICATES).await?,
        jobs_left: sqlx::query_scalar(JOBS_LEFT).fetch_all(pool).await?,
        at_the_ca: at_the_ca.collect(),
        unexplained,
    })
}

async fn rows<T: for<'r> FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin>(
    pool: &PgPool,
    query: &'static str,
) -> Result<Vec<T>> {
    sqlx::query_as(query).fetch_all(pool).await.with_context(|| format!("asking {query}"))
}
