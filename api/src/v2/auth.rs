//! Who calls: the token's account and scopes, before anything else is looked at. And how much of its hour is left.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use countersign_shared::model::scope::Scope;
use countersign_shared::store::api_tokens::{self, Caller};
use countersign_shared::store::audit::{self, NewEntry};
use countersign_shared::store::{PgConnection, Pool, StoreError};
use sha2::{Digest as _, Sha256};

use super::error::Error;
use super::{V2, input};
use crate::request_id::RequestId;

/// The caller behind a request that came through [`require_token`].
pub(crate) struct Authorized(Caller);

impl Authorized {
    /// The account of a path, if it is the caller's: any other is simply not found.
    pub(super) fn account(&self, named: &str) -> Result<i64, Error> {
        input::id(named).filter(|&id| id == self.0.account_id).ok_or_else(Error::not_found)
    }

    pub(super) fn account_id(&self) -> i64 {
        self.0.account_id
    }

    /// Leaves a row in the audit log, in the transaction of what it tells of.
    pub(super) async fn audit(
        &self,
        conn: &mut PgConnection,
        action: &str,
        subject: &str,
        request_id: &RequestId,
    ) -> Result<(), StoreError> {
        let (account_id, token_id) = (self.0.account_id, self.0.token_id);
        audit::record(conn, &NewEntry { account_id, token_id, action, subject, request_id: request_id.as_str() }).await
    }

    pub(super) fn may(&self, scope: Scope) -> Result<(), Error> {
        if self.0.scopes.contains(&scope) { Ok(()) } else { Err(Error::Forbidden(scope)) }
    }
}

impl<S: Sync> FromRequestParts<S> for Authorized {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        parts.extensions.get::<Caller>().cloned().map(Self).ok_or(Error::Unauthorized)
    }
}

pub(super) async fn require_token(State(v2): State<Arc<V2>>, mut request: Request, next: Next) -> Response {
    let caller = match caller(&v2.pool, digest(&request)).await {
        Ok(Some(caller)) => caller,
        refused => {
            let error = refused.err().unwrap_or(Error::Unauthorized);
            return v2.rates.nobodys().on(error.into_response());
        }
    };
    let quota = v2.rates.count(caller.account_id);
    if quota.is_exceeded() {
        return quota.on(Error::TooMany.into_response());
    }
    request.extensions_mut().insert(caller);
    quota.on(next.run(request).await)
}

async fn caller(pool: &Pool, digest: Option<[u8; 32]>) -> Result<Option<Caller>, Error> {
    let Some(digest) = digest else {
        return Ok(None);
    };
    let mut conn = pool.acquire().await?;
    // Looked up by its digest: how long that takes tells nothing about the token.
    Ok(api_tokens::caller(&mut conn, &digest).await?)
}

/// SHA-256 of the bearer token, if there is one.
fn digest(request: &Request) -> Option<[u8; 32]> {
    let header = request.headers().get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = header.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| Sha256::digest(token).into())
}
