//! The optional bearer token of `/domains`, and that of the operators' listener.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use countersign_shared::config::Secret;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::lifecycle::error::ApiError;

/// Digest of the expected token: digests have one length, so that comparing them tells nothing about the token.
pub(crate) struct BearerToken([u8; 32]);

impl BearerToken {
    pub(crate) fn new(token: &Secret) -> Self {
        Self(Sha256::digest(token.expose()).into())
    }

    fn accepts(&self, request: &Request) -> bool {
        let header = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
        let Some((scheme, token)) = header.and_then(|value| value.split_at_checked("Bearer ".len())) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(Sha256::digest(token).ct_eq(&self.0[..]))
    }
}

pub(crate) async fn require(
    State(token): State<Arc<BearerToken>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if token.accepts(&request) { Ok(next.run(request).await) } else { Err(ApiError::Unauthorized) }
}
