//! Orders as they are stored, with their authorizations, however many in two statements.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{parse_problem, parse_state};
use crate::model::certificate_names::all_names;
use crate::model::identifier::DnsName;
use crate::model::ids::PublicId;
use crate::model::order::{Authorization, Order, Placement};
use crate::model::presenter::PublishedBy;
use crate::store::{StoreError, authorizations};

/// An order with its authorizations.
pub async fn load(conn: &mut PgConnection, id: i64) -> Result<Option<Order>, StoreError> {
    load_all(conn, &[id]).await?.pop().map(|(_, order)| order).transpose()
}

/// Those that exist, each with its internal key. What cannot be read is an error of its own and not of the others.
pub async fn load_all(
    conn: &mut PgConnection,
    ids: &[i64],
) -> Result<Vec<(i64, Result<Order, StoreError>)>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT o.id, o.public_id, o.domain_id, o.certificate_id, o.origin, o.retry_of, o.presenter, o.presenter_config_id, o.state, o.revision, o.directory, o.acme_url, o.place_by,
                o.placed_at, o.deadline_at, o.seen_at, o.updated_at, o.ended_at, o.cleaned_up_at, o.problem,
                d.name AS domain_name, d.deleted_at, d.delegation_label, d.delegated_at, c.algorithm, c.name, c.common_name, c.alternate_names
         FROM orders o JOIN domains d ON d.id = o.domain_id JOIN certificates c ON c.id = o.certificate_id
         WHERE o.id = ANY((SELECT $1::bigint[])::bigint[])",
        ids
    )
    .fetch_all(&mut *conn)
    .await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut authorizations = authorizations::of_orders(conn, ids).await?;
    let order = |row: Row| {
        let (id, authorizations) = (row.id, authorizations.remove(&row.id).unwrap_or_default());
        (id, row.into_order(authorizations))
    };
    Ok(rows.into_iter().map(order).collect())
}

struct Row {
    id: i64,
    public_id: String,
    domain_id: i64,
    certificate_id: i64,
    origin: String,
    retry_of: Option<i64>,
    presenter: String,
    presenter_config_id: Option<i64>,
    state: String,
    revision: i64,
    directory: Option<String>,
    acme_url: Option<String>,
    place_by: Option<OffsetDateTime>,
    placed_at: Option<OffsetDateTime>,
    deadline_at: Option<OffsetDateTime>,
    seen_at: Option<OffsetDateTime>,
    updated_at: OffsetDateTime,
    ended_at: Option<OffsetDateTime>,
    cleaned_up_at: Option<OffsetDateTime>,
    problem: Option<serde_json::Value>,
    domain_name: String,
    deleted_at: Option<OffsetDateTime>,
    delegation_label: String,
    delegated_at: Option<OffsetDateTime>,
    algorithm: String,
    name: String,
    common_name: Option<String>,
    alternate_names: Vec<String>,
}

impl Row {
    fn into_order(self, authorizations: Vec<Authorization>) -> Result<Order, StoreError> {
        let corrupt = |column| StoreError::Corrupt { column };
        let placement = match (self.directory, self.acme_url, self.placed_at, self.deadline_at) {
            (Some(directory), Some(acme_url), Some(placed_at), Some(deadline_at)) => {
                Some(Placement { directory, acme_url, placed_at, deadline_at })
            }
            _ => None,
        };
        Ok(Order {
            id: self.id,
            public_id: PublicId::parse(&self.public_id).ok_or(corrupt("orders.public_id"))?,
            domain_id: self.domain_id,
            names: all_names(
                &self.name,
                self.common_name.as_deref().unwrap_or(&self.domain_name),
                &self.alternate_names,
                &self.domain_name,
            ),
            domain_name: DnsName::from_stored(self.domain_name),
            domain_is_deleted: self.deleted_at.is_some(),
            domain_is_delegated: self.delegated_at.is_some(),
            certificate_id: self.certificate_id,
            origin: self.origin.parse().map_err(|_| corrupt("orders.origin"))?,
            retry_of: self.retry_of,
            published_by: PublishedBy {
                presenter: self.presenter.parse().map_err(|_| corrupt("orders.presenter"))?,
                config_id: self.presenter_config_id,
            },
            delegation_label: self.delegation_label,
            algorithm: self.algorithm.parse().map_err(|_| corrupt("certificates.algorithm"))?,
            state: parse_state(&self.state)?,
            revision: self.revision,
            place_by: self.place_by,
            placement,
            seen_at: self.seen_at,
            changed_at: self.updated_at,
            ended_at: self.ended_at,
            cleaned_up_at: self.cleaned_up_at,
            problem: self.problem.map(parse_problem).transpose()?,
            authorizations,
        })
    }
}
