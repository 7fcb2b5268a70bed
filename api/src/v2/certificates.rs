//! The certificates of a domain: ordered, then issued in the background, then downloaded.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use countersign_shared::model::certificate::KeyAlgorithm;
use countersign_shared::model::certificate_names::{CertificateNames, NamesError};
use countersign_shared::model::identifier::DnsName;
use countersign_shared::model::ids::PublicId;
use countersign_shared::model::order::OrderOrigin;
use countersign_shared::model::scope::Scope;
use countersign_shared::store::certificates::ordered::{self, OrderedCertificate};
use countersign_shared::store::domains::Domain;
use countersign_shared::store::jobs::{self, Lane};
use countersign_shared::store::orders::{self, NewOrder};
use countersign_shared::store::{PgConnection, PoolConnection, domains, presenter_configs};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::V2;
use super::auth::Authorized;
use super::domains::find as find_domain;
use super::error::{Error, FieldErrors};
use super::input::{self, Path};
use super::lists::{PageRequest, sort};
use super::wire::{Bundle, CertificateEntry, ChallengeEntry, Data, OrderEntry, Paged, PrivateKey};
use crate::idempotency::Idempotency;
use crate::limits::Received;
use crate::openapi::{AnyV2Call, V2Error};
use crate::request_id::RequestId;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CertificatesQuery {
    /// `id`, `common_name` or `expiration`, each with `:asc` or `:desc`, separated by commas; `id:desc` by default.
    sort: Option<String>,
    page: Option<String>,
    /// 30 by default, 100 at most.
    per_page: Option<String>,
}

/// Body of an order. Everything may be left out; unknown fields are ignored.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct OrderInput {
    /// Labels below the domain, perhaps with `*` in front; empty for the domain itself. `www` covers the domain too.
    #[schema(default = "www")]
    name: Option<String>,
    /// Whole names inside the same domain, at most 100 names in all.
    alternate_names: Option<Vec<String>>,
    #[schema(default = false)]
    auto_renew: Option<bool>,
    /// `ECDSA` (P-256) or `RSA` (2048 bits).
    #[schema(default = "ECDSA")]
    signature_algorithm: Option<String>,
}

/// List certificates
///
/// Newest first, unless sorted otherwise.
#[utoipa::path(get, path = "/v2/{account}/domains/{domain}/certificates", operation_id = "list_certificates", tag = "Certificates of an account",
    params(("account" = i64, Path), ("domain" = String, Path), CertificatesQuery),
    responses((status = 200, body = Paged<CertificateEntry>), AnyV2Call))]
pub(crate) async fn list(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path((account, domain)): Path<(String, String)>,
    query: Result<Query<CertificatesQuery>, QueryRejection>,
) -> Result<Json<Paged<CertificateEntry>>, Error> {
    let account = caller.account(&account)?;
    caller.may(Scope::CertificatesRead)?;
    let Query(query) = query.map_err(|_| Error::BadRequest("Invalid query".to_owned()))?;
    let sort = sort(query.sort.as_deref())?;
    let page = PageRequest::parse(query.page.as_deref(), query.per_page.as_deref());
    let mut now = v2.pool.begin_snapshot().await?;
    let domain = find_domain(&mut now, account, &domain).await?;
    let (certificates, total) = ordered::page(&mut now, domain.id, &sort, page.limit(), page.offset()).await?;
    let data = certificates.into_iter().map(|certificate| certificate.entry(account)).collect();
    Ok(Json(Paged { data, pagination: page.of(total) }))
}

/// One certificate
#[utoipa::path(get, path = "/v2/{account}/domains/{domain}/certificates/{certificate}", operation_id = "show_certificate", tag = "Certificates of an account",
    params(("account" = i64, Path), ("domain" = String, Path), ("certificate" = i64, Path)),
    responses((status = 200, body = Data<CertificateEntry>), AnyV2Call))]
pub(crate) async fn show(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path(path): Path<(String, String, String)>,
) -> Result<Json<Data<CertificateEntry>>, Error> {
    let (mut conn, account, certificate) = find(&v2, &caller, &path, Scope::CertificatesRead).await?;
    let failure = match certificate.state.as_str() {
        "failed" | "cancelled" => ordered::failure(&mut conn, certificate.id).await?,
        _ => None,
    };
    Ok(Json(Data { data: certificate.entry(account).because(failure) }))
}

/// Leaf and chain
#[utoipa::path(get, path = "/v2/{account}/domains/{domain}/certificates/{certificate}/download", operation_id = "download_certificate",
    tag = "Certificates of an account",
    params(("account" = i64, Path), ("domain" = String, Path), ("certificate" = i64, Path)),
    responses((status = 200, body = Data<Bundle>), (status = 428, body = V2Error, description = "Not issued yet"), AnyV2Call))]
pub(crate) async fn download(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path(path): Path<(String, String, String)>,
) -> Result<Json<Data<Bundle>>, Error> {
    let (mut conn, _, certificate) = find(&v2, &caller, &path, Scope::CertificatesRead).await?;
    let chain = ordered::chain(&mut conn, certificate.id).await?.ok_or(Error::NotYet("Certificate not issued"))?;
    Ok(Json(Data { data: Bundle::split(&chain) }))
}

/// The private key
#[utoipa::path(get, path = "/v2/{account}/domains/{domain}/certificates/{certificate}/private_key", operation_id = "show_private_key",
    tag = "Certificates of an account",
    params(("account" = i64, Path), ("domain" = String, Path), ("certificate" = i64, Path)),
    responses((status = 200, body = Data<PrivateKey>), (status = 428, body = V2Error, description = "Not issued yet"), AnyV2Call))]
pub(crate) async fn private_key(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path(path): Path<(String, String, String)>,
    request_id: RequestId,
) -> Result<Json<Data<PrivateKey>>, Error> {
    let (mut conn, account, certificate) = find(&v2, &caller, &path, Scope::CertificatesKey).await?;
    let key = ordered::private_key(&mut conn, &v2.ring, certificate.id).await?;
    let key = key.ok_or(Error::NotYet("Certificate not issued"))?;
    // Before the key is shown: no read without its row.
    caller.audit(&mut conn, "private_key.read", &subject(&certificate), &request_id).await?;
    tracing::info!(account.id = account, certificate.id = certificate.id, "a private key was read");
    Ok(Json(Data { data: PrivateKey { private_key: key.expose().to_owned() } }))
}

/// The TXT records that a certificate waits for
///
/// Our addition, for accounts whose records the customer publishes. Empty when nothing is awaited.
#[utoipa::path(get, path = "/v2/{account}/domains/{domain}/certificates/{certificate}/challenges", operation_id = "list_challenges",
    tag = "Certificates of an account",
    params(("account" = i64, Path), ("domain" = String, Path), ("certificate" = i64, Path)),
    responses((status = 200, body = Data<Vec<ChallengeEntry>>), AnyV2Call))]
pub(crate) async fn challenges(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path(path): Path<(String, String, String)>,
) -> Result<Json<Data<Vec<ChallengeEntry>>>, Error> {
    let (mut conn, _, certificate) = find(&v2, &caller, &path, Scope::CertificatesRead).await?;
    let challenges = ordered::pending_challenges(&mut conn, certificate.id).await?;
    Ok(Json(Data { data: challenges.into_iter().map(Into::into).collect() }))
}

/// Order a certificate
///
/// Nothing is asked of the CA until it is issued.
#[utoipa::path(post, path = "/v2/{account}/domains/{domain}/certificates/letsencrypt", operation_id = "order_certificate", tag = "Certificates of an account",
    params(("account" = i64, Path), ("domain" = String, Path)), request_body = Option<OrderInput>,
    responses((status = 201, body = Data<OrderEntry>), AnyV2Call))]
pub(crate) async fn order(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path((account, named)): Path<(String, String)>,
    request_id: RequestId,
    idempotency: Idempotency,
    body: Received,
) -> Result<(StatusCode, Json<Data<OrderEntry>>), Error> {
    let account = caller.account(&account)?;
    caller.may(Scope::CertificatesWrite)?;
    let mut tx = v2.pool.begin().await?;
    let named_domain = find_domain(&mut tx, account, &named).await?;
    let domain = domains::lock_live(&mut tx, named_domain.id).await?.ok_or_else(|| Error::no_domain(&named))?;
    let input = Ordered::parse(&input::fields(&body)?, &domain.name)?;
    may_be_ordered(&v2, &mut tx, &domain).await?;
    let public_id = PublicId::from_random(rand::random());
    let certificate =
        ordered::insert(&mut tx, &public_id, domain.id, &input.names, input.algorithm, input.auto_renew).await?;
    let answer = Data { data: OrderEntry::from(&certificate) };
    caller.audit(&mut tx, "certificate.order", &subject(&certificate), &request_id).await?;
    idempotency.keep(&mut tx, StatusCode::CREATED, &answer).await?;
    tx.commit().await?;
    tracing::info!(account.id = account, certificate.id = certificate.id, domain.name = %domain.name, "certificate ordered");
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Issue an ordered certificate
///
/// Only once. A worker goes on from here; ask for the certificate until its state is `issued` or `failed`.
#[utoipa::path(post, path = "/v2/{account}/domains/{domain}/certificates/letsencrypt/{certificate}/issue", operation_id = "issue_ordered_certificate",
    tag = "Certificates of an account",
    params(("account" = i64, Path), ("domain" = String, Path), ("certificate" = i64, Path)),
    responses((status = 202, body = Data<CertificateEntry>), AnyV2Call))]
pub(crate) async fn issue(
    State(v2): State<Arc<V2>>,
    caller: Authorized,
    Path((account, named, certificate)): Path<(String, String, String)>,
    request_id: RequestId,
    idempotency: Idempotency,
) -> Result<(StatusCode, Json<Data<CertificateEntry>>), Error> {
    let account_id = caller.account(&account)?;
    caller.may(Scope::CertificatesWrite)?;
    let mut tx = v2.pool.begin().await?;
    let domain = find_domain(&mut tx, account_id, &named).await?;
    let domain = domains::lock_live(&mut tx, domain.id).await?.ok_or_else(|| Error::no_domain(&named))?;
    let found = find_in(&mut tx, domain.id, &certificate).await?;
    if !ordered::start(&mut tx, found.id).await? {
        let why = match found.state.as_str() {
            "new" => "it is a successor; issue its renewal".to_owned(),
            state => format!("its state is {state}"),
        };
        return Err(Error::BadRequest(format!("Certificate cannot be issued: {why}")));
    }
    let order_id = accept(&mut tx, domain.id, found.id, OrderOrigin::Order, &request_id).await?;
    let started = find_in(&mut tx, domain.id, &certificate).await?;
    let started_id = started.id;
    caller.audit(&mut tx, "certificate.issue", &subject(&started), &request_id).await?;
    let answer = Data { data: started.entry(account_id) };
    idempotency.keep(&mut tx, StatusCode::ACCEPTED, &answer).await?;
    tx.commit().await?;
    tracing::info!(account.id = account_id, certificate.id = started_id, order.id = %order_id, domain.name = %domain.name, "order accepted");
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// What the operator's policy says of another certificate of a domain.
pub(super) async fn may_be_ordered(v2: &V2, conn: &mut PgConnection, domain: &Domain) -> Result<(), Error> {
    if v2.require_verified && domain.verified_at.is_none() {
        return Err(Error::BadRequest(format!("Domain `{}` is not verified", domain.name)));
    }
    let published_by = presenter_configs::of_domain(conn, domain.id, OrderOrigin::Order).await?;
    if !v2.allow_manual && !published_by.presenter.is_automatic() {
        return Err(Error::BadRequest("No presenter is configured that publishes the TXT records".to_owned()));
    }
    Ok(())
}

/// The order of a certificate that was started, and its job. Returns its public id.
pub(super) async fn accept(
    conn: &mut PgConnection,
    domain_id: i64,
    certificate_id: i64,
    origin: OrderOrigin,
    request_id: &RequestId,
) -> Result<PublicId, Error> {
    let public_id = PublicId::from_random(rand::random());
    let new = NewOrder {
        public_id: &public_id,
        domain_id,
        certificate_id,
        origin,
        published_by: presenter_configs::of_domain(conn, domain_id, origin).await?,
        place_by_secs: None,
        retry_of: None,
        actor: "api",
    };
    let order = orders::insert(conn, &new).await?;
    jobs::enqueue(conn, order, Lane::Orders, &request_id.cause()).await?;
    Ok(public_id)
}

/// In the audit log, where it outlives the row.
pub(super) fn subject(certificate: &OrderedCertificate) -> String {
    format!("certificate {} {}", certificate.id, certificate.common_name)
}

/// What an order asks for.
struct Ordered {
    names: CertificateNames,
    algorithm: KeyAlgorithm,
    auto_renew: bool,
}

impl Ordered {
    fn parse(fields: &Map<String, Value>, domain: &DnsName) -> Result<Self, Error> {
        let mut errors = FieldErrors::default();
        let auto_renew = auto_renew(fields, &mut errors);
        let algorithm = signature_algorithm(fields, &mut errors);
        let name = match fields.get("name") {
            None | Some(Value::Null) => Some("www"),
            Some(Value::String(name)) => Some(name.as_str()),
            Some(_) => {
                errors.add("name", "must be a string");
                None
            }
        };
        let alternates = match fields.get("alternate_names") {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Array(names)) => {
                names.iter().map(|name| name.as_str().map(ToOwned::to_owned)).collect::<Option<Vec<String>>>()
            }
            Some(_) => None,
        };
        if alternates.is_none() {
            errors.add("alternate_names", "must be a list of names");
        }
        let names = match (name, alternates) {
            (Some(name), Some(alternates)) => match CertificateNames::parse(name, &alternates, domain) {
                Ok(names) => Some(names),
                Err(NamesError::Name(why)) => {
                    errors.add("name", why);
                    None
                }
                Err(NamesError::AlternateNames(why)) => {
                    errors.add("alternate_names", why);
                    None
                }
            },
            (Some(name), None) => {
                if let Err(NamesError::Name(why)) = CertificateNames::parse(name, &[], domain) {
                    errors.add("name", why);
                }
                None
            }
            (None, _) => None,
        };
        errors.none_or_invalid()?;
        match names {
            Some(names) => Ok(Self { names, algorithm, auto_renew }),
            None => Err(Error::Internal),
        }
    }
}

/// The field of both order inputs; what is wrong goes to `errors`.
pub(super) fn auto_renew(fields: &Map<String, Value>, errors: &mut FieldErrors) -> bool {
    match fields.get("auto_renew") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(auto_renew)) => *auto_renew,
        Some(_) => {
            errors.add("auto_renew", "must be true or false");
            false
        }
    }
}

/// As [`auto_renew`]; ECDSA unless said otherwise.
pub(super) fn signature_algorithm(fields: &Map<String, Value>, errors: &mut FieldErrors) -> KeyAlgorithm {
    match fields.get("signature_algorithm") {
        None | Some(Value::Null) => KeyAlgorithm::EcdsaP256,
        Some(Value::String(algorithm)) if algorithm == "ECDSA" => KeyAlgorithm::EcdsaP256,
        Some(Value::String(algorithm)) if algorithm == "RSA" => KeyAlgorithm::Rsa2048,
        Some(_) => {
            errors.add("signature_algorithm", "must be ECDSA or RSA");
            KeyAlgorithm::EcdsaP256
        }
    }
}

/// The certificate of a path, in an account that the caller may look into.
async fn find(
    v2: &V2,
    caller: &Authorized,
    (account, domain, certificate): &(String, String, String),
    scope: Scope,
) -> Result<(PoolConnection, i64, OrderedCertificate), Error> {
    let account = caller.account(account)?;
    caller.may(scope)?;
    let mut conn = v2.pool.acquire().await?;
    let domain = find_domain(&mut conn, account, domain).await?;
    let certificate = find_in(&mut conn, domain.id, certificate).await?;
    Ok((conn, account, certificate))
}

pub(super) async fn find_in(conn: &mut PgConnection, domain_id: i64, named: &str) -> Result<OrderedCertificate, Error> {
    let found = match input::id(named) {
        Some(id) => ordered::find(conn, domain_id, id).await?,
        None => None,
    };
    found.ok_or_else(|| Error::no_certificate(named))
}
