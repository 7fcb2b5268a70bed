//! The API's description, OpenAPI 3.1, from the handlers and wire types themselves; and a page for people.

mod headers;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::IntoResponse;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{IntoResponses, Modify, OpenApi, ToSchema};

use self::headers::SharedHeaders;
use crate::lifecycle::handlers;
use crate::v2::{self, certificates, identity, presenters, renewals, webhooks};

/// The one error body.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct Error {
    /// What is wrong, for a person.
    error: String,
}

/// The error body of `/v2`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct V2Error {
    /// What is wrong, for a person.
    message: String,
    /// What is wrong about each field of the body.
    errors: Option<BTreeMap<String, Vec<String>>>,
}

/// What every call of `/v2` may answer.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) enum AnyV2Call {
    /// The request is wrong, or the state does not allow it
    #[response(status = 400)]
    BadRequest(V2Error),
    /// The token is missing, unknown, expired or revoked
    #[response(status = 401)]
    Unauthorized(V2Error),
    /// The token has not the scope
    #[response(status = 403)]
    Forbidden(V2Error),
    /// There is no such thing in the token's account
    #[response(status = 404)]
    NotFound(V2Error),
    /// The account's quota of this hour is used up
    #[response(status = 429)]
    TooMany(V2Error),
    /// The call failed; what was asked for is not half done
    #[response(status = 500)]
    Internal(V2Error),
    /// The service is busy or its database away; try again after `Retry-After`
    #[response(status = 503)]
    Unavailable(V2Error),
}

/// What every call may answer.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) enum AnyCall {
    /// `AUTH_TOKEN` is set and the request does not carry it
    #[response(status = 401)]
    Unauthorized(Error),
    /// The call failed; what was asked for is not half done
    #[response(status = 500)]
    Internal(Error),
    /// The service is busy or its database away; try again after `Retry-After`
    #[response(status = 503)]
    Unavailable(Error),
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Countersign",
        description = "Turns customers' domains into TLS certificates: register a domain, publish a TXT record, and the \
                       certificate is issued in the background. Every answer carries `X-Request-Id`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(
        handlers::register,
        handlers::list,
        handlers::fetch,
        handlers::delete,
        handlers::verify,
        handlers::issue,
        handlers::check,
        handlers::retry,
        handlers::certificate,
        handlers::diagnosis,
        identity::whoami,
        identity::accounts,
        v2::domains::list,
        v2::domains::create,
        v2::domains::show,
        v2::domains::delete,
        v2::domains::diagnosis,
        presenters::show_of_account,
        presenters::propose_for_account,
        presenters::delete_of_account,
        presenters::show_of_domain,
        presenters::propose_for_domain,
        presenters::delete_of_domain,
        certificates::list,
        certificates::show,
        certificates::download,
        certificates::private_key,
        certificates::challenges,
        certificates::order,
        certificates::issue,
        renewals::order,
        renewals::issue,
        webhooks::list,
        webhooks::create,
        webhooks::show,
        webhooks::delete
    ),
    tags(
        (name = "Domains", description = "Registration and ownership."),
        (name = "Certificates", description = "Issuance and what is known of the result."),
        (name = "Identity", description = "`/v2` is compatible with DNSimple's clients. Every call needs a token."),
        (name = "Domains of an account", description = "The minimum that certificates need."),
        (name = "Certificates of an account", description = "Ordered, then issued in the background, then downloaded."),
        (name = "Presenters", description = "Who publishes the TXT records: our addition."),
        (name = "Webhooks", description = "Where an account is told of its events.")
    ),
    modifiers(&BearerToken, &SharedHeaders)
)]
struct Description;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
        openapi.security = Some(vec![utoipa::openapi::SecurityRequirement::new::<_, [&str; 0], &str>("bearer", [])]);
    }
}

/// The description as JSON, pretty-printed, as committed in `api/openapi.json`.
pub(crate) fn document() -> String {
    let mut text = Description::openapi().to_pretty_json().expect("a description has string keys only");
    text.push('\n');
    text
}

/// `GET /openapi.json`
pub(crate) async fn json() -> impl IntoResponse {
    static JSON: LazyLock<String> = LazyLock::new(document);
    ([(CONTENT_TYPE, "application/json")], JSON.as_str())
}

/// `GET /docs`: the same for people; loads nothing from elsewhere.
pub(crate) async fn page() -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ];
    static PAGE: LazyLock<String> = LazyLock::new(|| crate::docs::page(&document()));
    (headers, PAGE.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_committed_description_is_current() {
        assert!(
            include_str!("../openapi.json") == document(),
            "api/openapi.json is out of date: run `make openapi` and commit it"
        );
    }

    #[test]
    fn it_is_openapi_3_1_and_every_call_has_its_own_id_and_its_errors() {
        let description: serde_json::Value = serde_json::from_str(&document()).unwrap();
        assert_eq!(description["openapi"], "3.1.0");
        let paths = description["paths"].as_object().unwrap();
        let calls: Vec<_> = paths.values().flat_map(|path| path.as_object().unwrap().values()).collect();
        assert_eq!(calls.len(), 36);
        let mut ids = HashSet::new();
        for call in calls {
            assert!(ids.insert(call["operationId"].as_str().unwrap().to_owned()), "twice: {}", call["operationId"]);
            for status in ["401", "500", "503"] {
                assert!(call["responses"][status]["content"]["application/json"].is_object(), "{call}");
            }
        }
    }

    #[test]
    fn calls_that_layers_surround_have_their_headers_and_refusals() {
        let description: serde_json::Value = serde_json::from_str(&document()).unwrap();
        let mut keyed = 0;
        for (path, item) in description["paths"].as_object().unwrap() {
            for (method, call) in item.as_object().unwrap() {
                let is_keyed = method == "post" && !path.ends_with("/verify") && !path.ends_with("/check");
                keyed += usize::from(is_keyed);
                let parameters = call["parameters"].as_array().into_iter().flatten();
                let takes_key = parameters.filter(|parameter| parameter["name"] == "Idempotency-Key").count();
                assert_eq!(takes_key, usize::from(is_keyed), "{method} {path}");
                for (status, response) in call["responses"].as_object().unwrap() {
                    let headers = &response["headers"];
                    for name in ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"] {
                        assert_eq!(headers[name].is_object(), path.starts_with("/v2/"), "{method} {path} {status}");
                    }
                    let may_be_replayed = is_keyed && status.starts_with('2');
                    assert_eq!(
                        headers["Idempotency-Replayed"].is_object(),
                        may_be_replayed,
                        "{method} {path} {status}"
                    );
                }
                for status in ["400", "409", "422"].into_iter().filter(|_| is_keyed) {
                    let content = &call["responses"][status]["content"]["application/json"];
                    assert!(content["schema"]["$ref"].is_string(), "{method} {path} {status}");
                }
            }
        }
        assert_eq!(keyed, 9);
    }
}
