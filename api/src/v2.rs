//! The `/v2` surface: certificates of an account, compatible with DNSimple's clients.
//!
//! Its errors are `{"message": …}`, its ids integers, and every call but an unknown token's is counted against its account.

mod auth;
pub(crate) mod certificates;
pub(crate) mod domains;
mod error;
mod headers;
pub(crate) mod identity;
mod input;
mod lists;
pub(crate) mod presenters;
mod rates;
pub(crate) mod renewals;
pub(crate) mod webhooks;
mod wire;

use std::sync::Arc;

use axum::routing::{get, post};
use axum::{Router, middleware};
use countersign_shared::model::delegation::ChallengeZone;
use countersign_shared::sealed::KeyRing;
use countersign_shared::store::Pool;

pub(crate) use rates::Rates;

use crate::diagnosis::Practice;
use crate::limits::{Places, Say};
use crate::{idempotency, routes};

/// What the handlers need.
pub(crate) struct V2 {
    pub(crate) pool: Pool,
    /// What secrets are sealed with.
    pub(crate) ring: KeyRing,
    pub(crate) rates: Arc<Rates>,
    pub(crate) allow_special_use_names: bool,
    /// Where challenges can be delegated to.
    pub(crate) challenge_zone: Option<ChallengeZone>,
    /// Whether a certificate may be ordered where the customer publishes the records.
    pub(crate) allow_manual: bool,
    /// Whether a certificate may be ordered only for a domain that was verified through `/domains`.
    pub(crate) require_verified: bool,
    /// Whether webhooks may lead into our own network.
    pub(crate) allow_private_webhooks: bool,
    pub(crate) practice: Arc<Practice>,
}

/// Below `/v2`.
pub(crate) fn router(v2: Arc<V2>, places: Places) -> Router {
    const CERTIFICATES: &str = "/{account}/domains/{domain}/certificates";
    let certificate = |call: &str| format!("{CERTIFICATES}{call}");
    let routes = Router::new()
        .route("/whoami", get(identity::whoami))
        .route("/accounts", get(identity::accounts))
        .route("/{account}/domains", get(domains::list).post(domains::create))
        .route("/{account}/domains/{domain}", get(domains::show).delete(domains::delete))
        .route("/{account}/domains/{domain}/diagnosis", get(domains::diagnosis))
        .route(
            "/{account}/presenter",
            get(presenters::show_of_account).put(presenters::propose_for_account).delete(presenters::delete_of_account),
        )
        .route(
            "/{account}/domains/{domain}/presenter",
            get(presenters::show_of_domain).put(presenters::propose_for_domain).delete(presenters::delete_of_domain),
        )
        .route(CERTIFICATES, get(certificates::list))
        .route(&certificate("/{certificate}"), get(certificates::show))
        .route(&certificate("/{certificate}/download"), get(certificates::download))
        .route(&certificate("/{certificate}/private_key"), get(certificates::private_key))
        .route(&certificate("/{certificate}/challenges"), get(certificates::challenges))
        .route(&certificate("/letsencrypt"), post(certificates::order))
        .route(&certificate("/letsencrypt/{certificate}/issue"), post(certificates::issue))
        .route(&certificate("/letsencrypt/{certificate}/renewals"), post(renewals::order))
        .route(&certificate("/letsencrypt/{certificate}/renewals/{renewal}/issue"), post(renewals::issue))
        .route("/{account}/webhooks", get(webhooks::list).post(webhooks::create))
        .route("/{account}/webhooks/{webhook}", get(webhooks::show).delete(webhooks::delete))
        .route_layer(middleware::from_fn_with_state(
            (v2.pool.clone(), error::of_surroundings as Say),
            idempotency::apply,
        ))
        .fallback(error::unknown_route)
        .method_not_allowed_fallback(error::method_not_allowed)
        // Before everything else, also before a route is known not to exist.
        .layer(middleware::from_fn_with_state(Arc::clone(&v2), auth::require_token))
        .with_state(Arc::clone(&v2));
    routes::layered(routes, places, error::of_surroundings).layer(middleware::from_fn_with_state(v2, headers::add))
}
