//! The domains of an account: the minimum that certificates need.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use countersign_shared::model::diagnosis::Diagnosis;
use countersign_shared::model::domain::verification_token;
use countersign_shared::model::identifier::DnsName;
use countersign_shared::model::ids::PublicId;
use countersign_shared::model::scope::Scope;
use countersign_shared::store::domains::of_account::{self, AccountDomain};
use countersign_shared::store::domains::{self, NewDomain};
use countersign_shared::store::events::{self, EventName};
use countersign_shared::store::{PgConnection, delegations};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::V2;
use super::auth::Authorized;
use super::error::Error;
use super::input::{self, Path};
use super::lists::{PageRequest, sort};
use super::wire::{Data, DomainEntry, Paged};
use crate::idempotency::Idempotency;
use crate::lifecycle::deletion;
use crate::limits::Received;
use crate::openapi::AnyV2Call;
use crate::request_id::RequestId;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DomainsQuery {
    /// A part of the name.
    name_like: Option<String>,
    /// Ignored: none of ours has one.
    #[expect(dead_code, reason = "accepted, and without effect")]
    registrant_id: Option<String>,
    /// `id`, `name` or `expiration`, each with `:asc` or `:desc`, separated by commas; `name:asc` by default.
    sort: Option<String>,
    page: Option<String>,
    /// 30 by default, 100 at most.
    per_page: Option<String>,
}

/// Body of `POST /v2/{account}/domains`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct DomainInput {
    #[schema(example = "shop.example.com")]
    name: String,
}

/// List domains
#[utoipa::path(get, path = "/v2/{account}/domains", operation_id = "list_account_domains", tag = "Domains of an account",
    params(("account" = i64, Path), DomainsQuery), responses((status = 200, body = Paged<DomainEntry>), AnyV2Call))]
pub(crate) async fn list(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path(account): Path<String>,
    query: Result<Query<DomainsQuery>, QueryRejection>,
) -> Result<Json<Paged<DomainEntry>>, Error> {
    let account = caller.account(&account)?;
    caller.may(Scope::Domains)?;
    let Query(query) = query.map_err(|_| Error::BadRequest("Invalid query".to_owned()))?;
    let by_name = Some("name:asc".to_owned());
    let sort = sort(query.sort.filter(|sort| !sort.is_empty()).or(by_name).as_deref())?;
    let page = PageRequest::parse(query.page.as_deref(), query.per_page.as_deref());
    // No name has a NUL, and the database has no text with one.
    let name_like = query.name_like.map(|part| part.replace('\0', "\u{fffd}")).filter(|part| !part.is_empty());
    let name_like = name_like.as_deref();
    let mut now = v2.pool.begin_snapshot().await?;
    let (domains, total) = of_account::page(&mut now, account, name_like, &sort, page.limit(), page.offset()).await?;
    Ok(Json(Paged {
        data: domains.into_iter().map(|domain| domain.entry(v2.challenge_zone.as_ref())).collect(),
        pagination: page.of(total),
    }))
}

/// Register a domain
#[utoipa::path(post, path = "/v2/{account}/domains", operation_id = "create_domain", tag = "Domains of an account", params(("account" = i64, Path)),
    request_body = DomainInput, responses((status = 201, body = Data<DomainEntry>), AnyV2Call))]
pub(crate) async fn create(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path(account): Path<String>,
    request_id: RequestId,
    idempotency: Idempotency,
    body: Received,
) -> Result<(StatusCode, Json<Data<DomainEntry>>), Error> {
    let account = caller.account(&account)?;
    caller.may(Scope::Domains)?;
    let fields = input::fields(&body)?;
    let supplied = match fields.get("name") {
        Some(Value::String(name)) if !name.trim().is_empty() => name,
        None | Some(Value::Null | Value::String(_)) => return Err(Error::invalid("name", "can't be blank")),
        Some(_) => return Err(Error::invalid("name", "must be a string")),
    };
    let name = DnsName::parse(supplied, v2.allow_special_use_names)
        .map_err(|error| Error::invalid("name", error.to_string()))?;
    let token = verification_token(rand::random());
    let new = NewDomain {
        account_id: account,
        public_id: &PublicId::from_random(rand::random()),
        name: &name,
        supplied_name: supplied,
        verification_token: &token,
    };
    let mut tx = v2.pool.begin().await?;
    let domain = match domains::insert(&mut tx, &new).await {
        Err(error) if error.is_conflict_on(domains::NAME_KEY) => {
            return Err(Error::invalid("name", "has already been taken"));
        }
        inserted => inserted?,
    };
    if v2.challenge_zone.is_some() {
        delegations::notify(&mut tx, &domain.delegation_label).await?;
    }
    events::domain(&mut tx, EventName::DomainCreate, domain.id).await?;
    let data = AccountDomain {
        id: domain.id,
        account_id: account,
        name: name.to_string(),
        delegation_label: domain.delegation_label,
        created_at: domain.created_at,
        updated_at: domain.updated_at,
    };
    let answer = Data { data: data.entry(v2.challenge_zone.as_ref()) };
    caller.audit(&mut tx, "domain.create", &format!("domain {} {name}", domain.id), &request_id).await?;
    idempotency.keep(&mut tx, StatusCode::CREATED, &answer).await?;
    tx.commit().await?;
    tracing::info!(domain.id = %domain.public_id, domain.name = %name, account.id = account, "domain registered");
    Ok((StatusCode::CREATED, Json(answer)))
}

/// One domain, by name or id
#[utoipa::path(get, path = "/v2/{account}/domains/{domain}", operation_id = "show_domain", tag = "Domains of an account",
    params(("account" = i64, Path), ("domain" = String, Path)), responses((status = 200, body = Data<DomainEntry>), AnyV2Call))]
pub(crate) async fn show(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path((account, domain)): Path<(String, String)>,
) -> Result<Json<Data<DomainEntry>>, Error> {
    let account = caller.account(&account)?;
    caller.may(Scope::Domains)?;
    let mut conn = v2.pool.acquire().await?;
    let domain = find(&mut conn, account, &domain).await?;
    Ok(Json(Data { data: domain.entry(v2.challenge_zone.as_ref()) }))
}

/// What is wrong with a domain's DNS
///
/// Asks every name server of the zone, and follows aliases. Each finding has the record to set, where one helps. Looks for up to
/// 20 s where servers do not answer; 503 while another diagnosis of the domain is under way.
#[utoipa::path(get, path = "/v2/{account}/domains/{domain}/diagnosis", operation_id = "diagnose_account_domain", tag = "Domains of an account",
    params(("account" = i64, Path), ("domain" = String, Path)), responses((status = 200, body = Data<Diagnosis>), AnyV2Call))]
pub(crate) async fn diagnosis(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path((account, domain)): Path<(String, String)>,
) -> Result<Json<Data<Diagnosis>>, Error> {
    let account = caller.account(&account)?;
    caller.may(Scope::Domains)?;
    let live = {
        let mut conn = v2.pool.acquire().await?;
        let found = find(&mut conn, account, &domain).await?;
        domains::find_live(&mut conn, found.id).await?.ok_or_else(|| Error::no_domain(&domain))?
    };
    // Only /domains tells the token.
    let data = v2.practice.diagnose(&v2.pool, account, &live).await?;
    Ok(Json(Data { data }))
}

/// Delete a domain
///
/// The name is free at once; open orders are cancelled.
#[utoipa::path(delete, path = "/v2/{account}/domains/{domain}", operation_id = "delete_account_domain", tag = "Domains of an account",
    params(("account" = i64, Path), ("domain" = String, Path)), responses((status = 204), AnyV2Call))]
pub(crate) async fn delete(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path((account, domain)): Path<(String, String)>,
    request_id: RequestId,
) -> Result<StatusCode, Error> {
    let account = caller.account(&account)?;
    caller.may(Scope::Domains)?;
    let mut tx = v2.pool.begin().await?;
    let named = find(&mut tx, account, &domain).await?;
    let locked = domains::lock_live(&mut tx, named.id).await?.ok_or_else(|| Error::no_domain(&domain))?;
    let cancelled = deletion::delete(&mut tx, &locked, &request_id).await?;
    caller.audit(&mut tx, "domain.delete", &format!("domain {} {}", locked.id, locked.name), &request_id).await?;
    tx.commit().await?;
    deletion::count(cancelled);
    tracing::info!(domain.id = %locked.public_id, domain.name = %locked.name, account.id = account, "domain deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// The domain of a path: digits are an id, anything else a name.
pub(super) async fn find(conn: &mut PgConnection, account: i64, named: &str) -> Result<AccountDomain, Error> {
    let found = if named.bytes().all(|byte| byte.is_ascii_digit()) {
        match named.parse() {
            Ok(id) => of_account::find(conn, account, id).await?,
            Err(_) => None,
        }
    } else {
        match DnsName::parse(named, true) {
            Ok(name) => of_account::find_by_name(conn, account, name.as_str()).await?,
            Err(_) => None,
        }
    };
    found.ok_or_else(|| Error::no_domain(named))
}
