//! What a body proposes, field by field.

use std::collections::BTreeMap;

use countersign_shared::model::address::is_inward;
use countersign_shared::model::presenter::{PresenterSettings, Rfc2136Settings, WebhookSettings};
use countersign_shared::model::secret::Secret;
use countersign_shared::model::webhook::target;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::v2::error::{Error, FieldErrors};
use crate::v2::webhooks::leads_inward;

/// Body of `PUT /v2/{account}/presenter` and of `PUT /v2/{account}/domains/{domain}/presenter`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its shape is used")]
pub(crate) struct PresenterInput {
    /// `manual`: you publish. `rfc2136`: dynamic updates to the zone's primary, signed with a TSIG key. `webhook`: POST to
    /// `<url>/present` and `<url>/cleanup` with `fqdn` and `value`, as lego's `httpreq` sends it.
    #[schema(example = "rfc2136")]
    kind: String,
    /// `rfc2136`: the primary, an address with a port.
    #[schema(example = "192.0.2.1:53")]
    server: Option<String>,
    /// `rfc2136`: name of the TSIG key.
    #[schema(example = "countersign.")]
    key_name: Option<String>,
    /// `rfc2136`: `hmac-sha256` by default, `hmac-sha384` or `hmac-sha512`.
    algorithm: Option<String>,
    /// `rfc2136`: the zone to update; found by its SOA without.
    zone: Option<String>,
    /// `rfc2136`: `tcp` by default, or `udp`.
    transport: Option<String>,
    /// `webhook`: https only.
    url: Option<String>,
    /// `webhook`: for basic authentication; without it the secret is a bearer token.
    username: Option<String>,
    /// `webhook`: further headers of every request. Not for secrets: they are shown.
    headers: Option<BTreeMap<String, String>>,
    /// The TSIG key in base64, the password, or the bearer token. Never shown again.
    secret: Option<String>,
    /// For an account: at the challenge name of which of its domains it is tried; a name or an id.
    trial_domain: Option<String>,
}

pub(super) struct Wanted {
    pub(super) settings: PresenterSettings,
    pub(super) secret: Option<Secret>,
    pub(super) trial_domain: Option<String>,
}

impl Wanted {
    pub(super) async fn parse(fields: &Map<String, Value>, allows_inward: bool) -> Result<Self, Error> {
        let mut body = Body { fields, errors: FieldErrors::default() };
        let text = "must be a string";
        let secret = body.optional::<String>("secret", text).filter(|secret| !secret.is_empty()).map(Secret::new);
        let trial_domain = body.optional::<String>("trial_domain", text).filter(|name| !name.trim().is_empty());
        let settings = match fields.get("kind").and_then(Value::as_str) {
            Some("manual") => Some(PresenterSettings::Manual {}),
            Some("rfc2136") => body.rfc2136().map(PresenterSettings::Rfc2136),
            Some("webhook") => body.webhook().map(PresenterSettings::Webhook),
            _ => {
                body.errors.add("kind", "must be manual, rfc2136 or webhook");
                None
            }
        };
        let Body { mut errors, .. } = body;
        if let Some(settings) = &settings {
            for (field, why) in settings.faults(secret.as_ref()) {
                errors.add(field, why);
            }
            if !allows_inward && let Some(field) = field_that_leads_inward(settings).await {
                errors.add(field, "must be a public address");
            }
        }
        errors.none_or_invalid()?;
        Ok(Self { settings: settings.ok_or(Error::Internal)?, secret, trial_domain })
    }
}

/// The fields, and what is wrong with those that were looked at.
struct Body<'a> {
    fields: &'a Map<String, Value>,
    errors: FieldErrors,
}

impl Body<'_> {
    fn optional<T: DeserializeOwned>(&mut self, field: &'static str, must: &str) -> Option<T> {
        let given = self.fields.get(field).filter(|value| !value.is_null())?;
        let parsed = T::deserialize(given).ok();
        if parsed.is_none() {
            self.errors.add(field, must);
        }
        parsed
    }

    fn required<T: DeserializeOwned>(&mut self, field: &'static str, must: &str) -> Option<T> {
        if self.fields.get(field).is_none_or(Value::is_null) {
            self.errors.add(field, "can't be blank");
        }
        self.optional(field, must)
    }

    fn rfc2136(&mut self) -> Option<Rfc2136Settings> {
        let server = self.required("server", "must be an address with a port");
        let key_name = self.required("key_name", "must be a DNS name");
        let zone = self.optional("zone", "must be a DNS name");
        let algorithm = self.optional("algorithm", "must be hmac-sha256, hmac-sha384 or hmac-sha512");
        let transport = self.optional("transport", "must be tcp or udp");
        Some(Rfc2136Settings {
            server: server?,
            zone,
            key_name: key_name?,
            algorithm: algorithm.unwrap_or_default(),
            transport: transport.unwrap_or_default(),
        })
    }

    fn webhook(&mut self) -> Option<WebhookSettings> {
        let url = self.required("url", "must be a string");
        let username = self.optional("username", "must be a string");
        let headers = self.optional("headers", "must be an object of strings");
        Some(WebhookSettings { url: url?, username, headers: headers.unwrap_or_default() })
    }
}

async fn field_that_leads_inward(settings: &PresenterSettings) -> Option<&'static str> {
    match settings {
        PresenterSettings::Manual {} => None,
        PresenterSettings::Rfc2136(settings) => is_inward(settings.server.ip()).then_some("server"),
        PresenterSettings::Webhook(settings) => {
            let url = target(&settings.url).ok()?;
            leads_inward(&url).await.then_some("url")
        }
    }
}
