//! Who publishes an account's TXT records: our addition. What is proposed here is tried by a worker first; nothing is asked or sent
//! from here.

mod input;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use countersign_shared::model::presenter::PresenterSettings;
use countersign_shared::model::scope::Scope as TokenScope;
use countersign_shared::sealed::KeyRing;
use countersign_shared::store::presenter_configs::{self, Scope};
use countersign_shared::store::{PgConnection, presenter_proposals};

use super::V2;
use super::auth::Authorized;
use super::domains;
use super::error::Error;
use super::input::{Path, fields};
use super::wire::{Data, PresenterInForce, PresenterProposed, PresenterView};
use crate::limits::Received;
use crate::openapi::AnyV2Call;
use crate::request_id::RequestId;
pub(crate) use input::PresenterInput;
use input::Wanted;

/// Who publishes the TXT records of an account's domains
///
/// Our addition. Of those domains that have no presenter of their own and are not delegated.
#[utoipa::path(get, path = "/v2/{account}/presenter", operation_id = "show_account_presenter", tag = "Presenters",
    params(("account" = i64, Path)), responses((status = 200, body = Data<PresenterView>), AnyV2Call))]
pub(crate) async fn show_of_account(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path(account): Path<String>,
) -> Result<Json<Data<PresenterView>>, Error> {
    let account_id = caller.account(&account)?;
    caller.may(TokenScope::Domains)?;
    let mut now = v2.pool.begin_snapshot().await?;
    Ok(Json(Data { data: view(&mut now, Scope { account_id, domain_id: None }).await? }))
}

/// Who publishes the TXT records of one domain
///
/// Our addition.
#[utoipa::path(get, path = "/v2/{account}/domains/{domain}/presenter", operation_id = "show_domain_presenter", tag = "Presenters",
    params(("account" = i64, Path), ("domain" = String, Path)), responses((status = 200, body = Data<PresenterView>), AnyV2Call))]
pub(crate) async fn show_of_domain(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path((account, domain)): Path<(String, String)>,
) -> Result<Json<Data<PresenterView>>, Error> {
    let account_id = caller.account(&account)?;
    caller.may(TokenScope::Domains)?;
    let mut now = v2.pool.begin_snapshot().await?;
    let domain = domains::find(&mut now, account_id, &domain).await?;
    Ok(Json(Data { data: view(&mut now, Scope { account_id, domain_id: Some(domain.id) }).await? }))
}

/// Propose who publishes the TXT records of an account's domains
///
/// Our addition. A worker writes a value at the challenge name of `trial_domain`, sees it, removes it, and sees it gone: then what
/// was proposed is in force. Until then, and if that fails, what was in force before stays. Ask with `GET` what came of it. `manual`
/// needs no trial and answers 200. Orders under way go on as they began.
#[utoipa::path(put, path = "/v2/{account}/presenter", operation_id = "propose_account_presenter", tag = "Presenters",
    params(("account" = i64, Path)), request_body = PresenterInput,
    responses((status = 200, body = Data<PresenterView>), (status = 202, body = Data<PresenterView>), AnyV2Call))]
pub(crate) async fn propose_for_account(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path(account): Path<String>,
    request_id: RequestId,
    body: Received,
) -> Result<(StatusCode, Json<Data<PresenterView>>), Error> {
    let account_id = caller.account(&account)?;
    caller.may(TokenScope::Domains)?;
    let wanted = Wanted::parse(&fields(&body)?, v2.allow_private_webhooks).await?;
    let scope = Scope { account_id, domain_id: None };
    let mut tx = v2.pool.begin().await?;
    let trial_domain = match (&wanted.settings, &wanted.trial_domain) {
        (PresenterSettings::Manual {}, _) => None,
        (_, None) => return Err(Error::invalid("trial_domain", "can't be blank")),
        (_, Some(named)) => match domains::find(&mut tx, account_id, named).await {
            Ok(domain) => Some(domain.id),
            Err(Error::NotFound(_)) => return Err(Error::invalid("trial_domain", "must be a domain of the account")),
            Err(error) => return Err(error),
        },
    };
    let status = propose(&mut tx, &v2.ring, scope, trial_domain, &wanted, &request_id).await?;
    audit(&caller, &mut tx, "presenter.propose", scope, wanted.settings.presenter().as_str(), &request_id).await?;
    let data = view(&mut tx, scope).await?;
    tx.commit().await?;
    Ok((status, Json(Data { data })))
}

/// Propose who publishes the TXT records of one domain
///
/// Our addition. As for an account; it is tried at the domain's own challenge name.
#[utoipa::path(put, path = "/v2/{account}/domains/{domain}/presenter", operation_id = "propose_domain_presenter", tag = "Presenters",
    params(("account" = i64, Path), ("domain" = String, Path)), request_body = PresenterInput,
    responses((status = 200, body = Data<PresenterView>), (status = 202, body = Data<PresenterView>), AnyV2Call))]
pub(crate) async fn propose_for_domain(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path((account, domain)): Path<(String, String)>,
    request_id: RequestId,
    body: Received,
) -> Result<(StatusCode, Json<Data<PresenterView>>), Error> {
    let account_id = caller.account(&account)?;
    caller.may(TokenScope::Domains)?;
    // Whose it is comes before what is wrong with it. No connection is held while a name is resolved.
    let named = domain;
    let domain = {
        let mut conn = v2.pool.acquire().await?;
        domains::find(&mut conn, account_id, &named).await?
    };
    let wanted = Wanted::parse(&fields(&body)?, v2.allow_private_webhooks).await?;
    if wanted.trial_domain.is_some() {
        return Err(Error::invalid("trial_domain", "is not needed: a domain is tried with its own name"));
    }
    let scope = Scope { account_id, domain_id: Some(domain.id) };
    let mut tx = v2.pool.begin().await?;
    let status = propose(&mut tx, &v2.ring, scope, Some(domain.id), &wanted, &request_id).await?;
    audit(&caller, &mut tx, "presenter.propose", scope, wanted.settings.presenter().as_str(), &request_id).await?;
    let data = view(&mut tx, scope).await?;
    tx.commit().await?;
    Ok((status, Json(Data { data })))
}

/// Take back who publishes the TXT records of an account's domains
///
/// Our addition. Also what is proposed. Orders under way go on as they began.
#[utoipa::path(delete, path = "/v2/{account}/presenter", operation_id = "delete_account_presenter", tag = "Presenters",
    params(("account" = i64, Path)), responses((status = 204), AnyV2Call))]
pub(crate) async fn delete_of_account(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path(account): Path<String>,
    request_id: RequestId,
) -> Result<StatusCode, Error> {
    let account_id = caller.account(&account)?;
    caller.may(TokenScope::Domains)?;
    let mut tx = v2.pool.begin().await?;
    remove(&caller, &mut tx, Scope { account_id, domain_id: None }, &request_id).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Take back who publishes the TXT records of one domain
///
/// Our addition. Also what is proposed. Orders under way go on as they began.
#[utoipa::path(delete, path = "/v2/{account}/domains/{domain}/presenter", operation_id = "delete_domain_presenter", tag = "Presenters",
    params(("account" = i64, Path), ("domain" = String, Path)), responses((status = 204), AnyV2Call))]
pub(crate) async fn delete_of_domain(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path((account, domain)): Path<(String, String)>,
    request_id: RequestId,
) -> Result<StatusCode, Error> {
    let account_id = caller.account(&account)?;
    caller.may(TokenScope::Domains)?;
    let mut tx = v2.pool.begin().await?;
    let domain = domains::find(&mut tx, account_id, &domain).await?;
    remove(&caller, &mut tx, Scope { account_id, domain_id: Some(domain.id) }, &request_id).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The answer's status: a trial is to come, or none is needed.
async fn propose(
    conn: &mut PgConnection,
    ring: &KeyRing,
    scope: Scope,
    trial_domain_id: Option<i64>,
    wanted: &Wanted,
    request_id: &RequestId,
) -> Result<StatusCode, Error> {
    let (settings, secret) = (&wanted.settings, wanted.secret.as_ref());
    match (settings, trial_domain_id) {
        (PresenterSettings::Manual {}, _) | (_, None) => {
            presenter_proposals::withdraw(conn, scope).await?;
            presenter_configs::replace(conn, ring, scope, settings, secret).await?;
            Ok(StatusCode::OK)
        }
        (_, Some(trial)) => {
            presenter_proposals::propose(conn, ring, scope, trial, settings, secret, &request_id.cause()).await?;
            Ok(StatusCode::ACCEPTED)
        }
    }
}

async fn remove(
    caller: &Authorized,
    conn: &mut PgConnection,
    scope: Scope,
    request_id: &RequestId,
) -> Result<(), Error> {
    let was_proposed = presenter_proposals::withdraw(conn, scope).await?;
    let was_in_force = presenter_configs::remove(conn, scope).await?;
    if !was_proposed && !was_in_force {
        return Err(Error::NotFound("Presenter not found".to_owned()));
    }
    audit(caller, conn, "presenter.delete", scope, "", request_id).await
}

async fn audit(
    caller: &Authorized,
    conn: &mut PgConnection,
    action: &str,
    scope: Scope,
    kind: &str,
    request_id: &RequestId,
) -> Result<(), Error> {
    let of = match scope.domain_id {
        None => format!("account {} {kind}", scope.account_id),
        Some(id) => format!("domain {id} {kind}"),
    };
    Ok(caller.audit(conn, action, of.trim_end(), request_id).await?)
}

/// In a snapshot, or under the account's lock: what is accepted moves from one table to the other.
async fn view(conn: &mut PgConnection, scope: Scope) -> Result<PresenterView, Error> {
    let in_force = presenter_configs::find(conn, scope).await?;
    let proposed = presenter_proposals::find(conn, scope).await?;
    Ok(PresenterView {
        in_force: in_force.map(PresenterInForce::try_from).transpose().map_err(|_| Error::Internal)?,
        proposed: proposed.map(PresenterProposed::from),
    })
}
