//! What our name servers answer at a domain's delegation label: the values of its orders, and its ownership token.

use sqlx::PgConnection;

use super::{StoreError, notifications};

/// The TXT values at a label, newest order first; None where nothing is, or is any more.
///
/// An order's values stay until it is cleaned up, whatever state it is in and even if its domain was deleted: the CA may be looking.
/// The newest 1000 of them fill what one message can hold.
pub async fn values(conn: &mut PgConnection, label: &str) -> Result<Option<Vec<String>>, StoreError> {
    let found = sqlx::query!(
        r#"SELECT CASE WHEN d.deleted_at IS NULL THEN d.verification_token END AS token,
               ARRAY(SELECT a.txt_value FROM orders o JOIN authorizations a ON a.order_id = o.id
                     WHERE o.domain_id = d.id AND o.cleaned_up_at IS NULL
                     GROUP BY a.txt_value ORDER BY max(o.id) DESC, a.txt_value LIMIT 1000) AS "values!"
           FROM domains d WHERE d.delegation_label = $1"#,
        label
    )
    .fetch_optional(conn)
    .await?;
    let values = found.map(|found| found.token.into_iter().chain(found.values).collect::<Vec<String>>());
    Ok(values.filter(|values| !values.is_empty()))
}

/// Tells the name servers, at the commit, that the answer at a label has changed. Commits that notify wait for each other, the disk
/// included: registrations, which are many at once, do not where there is no zone to answer for.
pub async fn notify(conn: &mut PgConnection, label: &str) -> Result<(), StoreError> {
    sqlx::query!("SELECT pg_notify($1, $2)", notifications::CHALLENGES, label).execute(conn).await?;
    Ok(())
}
