//! Who calls, and which accounts that reaches.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use countersign_shared::store::accounts;

use super::V2;
use super::auth::Authorized;
use super::error::Error;
use super::wire::{AccountView, Data, Whoami};

use crate::openapi::AnyV2Call;

/// Who the token speaks for
#[utoipa::path(get, path = "/v2/whoami", operation_id = "whoami", tag = "Identity", responses((status = 200, body = Data<Whoami>), AnyV2Call))]
pub(crate) async fn whoami(State(v2): State<Arc<V2>>, caller: Authorized) -> Result<Json<Data<Whoami>>, Error> {
    let account = account(&v2, &caller).await?;
    Ok(Json(Data { data: Whoami { user: None, account } }))
}

/// The accounts the token reaches: its own
#[utoipa::path(get, path = "/v2/accounts", operation_id = "list_accounts", tag = "Identity", responses((status = 200, body = Data<Vec<AccountView>>), AnyV2Call))]
pub(crate) async fn accounts(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
) -> Result<Json<Data<Vec<AccountView>>>, Error> {
    let account = account(&v2, &caller).await?;
    Ok(Json(Data { data: vec![account] }))
}

async fn account(v2: &V2, caller: &Authorized) -> Result<AccountView, Error> {
    let mut conn = v2.pool.acquire().await?;
    let account = accounts::find(&mut conn, caller.account_id()).await?;
    account.map(Into::into).ok_or(Error::Unauthorized)
}
