//! Headers in the description that belong to no handler: what layers read and write, on every call that passes through them.

use utoipa::Modify;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder};

/// `POST` calls that are not kept by a key: they may run as often as one likes.
const WITHOUT_KEY: [&str; 2] = ["/domains/{id}/verify", "/domains/{id}/check"];
const REPLAYED: &str = "Idempotency-Replayed";
const RATES: [(&str, &str); 3] = [
    ("X-RateLimit-Limit", "Calls that the account may make in an hour."),
    ("X-RateLimit-Remaining", "Calls that are left of them."),
    ("X-RateLimit-Reset", "When the next hour begins, in seconds since 1970."),
];

pub(super) struct SharedHeaders;

impl Modify for SharedHeaders {
    fn modify(&self, openapi: &mut OpenApi) {
        let components = openapi.components.get_or_insert_default();
        components
            .headers
            .insert(REPLAYED.to_owned(), header(Type::Boolean, "The answer is that of the first request.").into());
        for (name, about) in RATES {
            components.headers.insert(name.to_owned(), header(Type::Integer, about).into());
        }
        for (path, item) in &mut openapi.paths.paths {
            let is_v2 = path.starts_with("/v2/");
            if let Some(post) = item.post.as_mut().filter(|_| !WITHOUT_KEY.contains(&path.as_str())) {
                take_key(post, if is_v2 { "V2Error" } else { "Error" });
            }
            let calls = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete]
                .into_iter()
                .flatten()
                .filter(|_| is_v2);
            for response in calls.flat_map(|call| call.responses.responses.values_mut()) {
                RATES.iter().for_each(|(name, _)| carry(response, name));
            }
        }
    }
}

fn header(kind: Type, about: &str) -> Header {
    HeaderBuilder::new().schema(Some(ObjectBuilder::new().schema_type(kind))).description(Some(about)).build()
}

/// A response that carries a shared header.
fn carry(response: &mut RefOr<Response>, name: &str) {
    if let RefOr::T(response) = response {
        response.headers.insert(name.to_owned(), RefOr::Ref(Ref::new(format!("#/components/headers/{name}"))));
    }
}

/// A call that may come with a key.
fn take_key(call: &mut Operation, error: &str) {
    call.parameters.get_or_insert_default().push(key().into());
    for (status, response) in &mut call.responses.responses {
        if status.starts_with('2') {
            carry(response, REPLAYED);
        }
    }
    for (status, about) in [
        ("409", "The first request with this `Idempotency-Key` is still being answered"),
        ("422", "This `Idempotency-Key` came with another body before"),
    ] {
        let content = Content::new(Some(Ref::from_schema_name(error)));
        let response = ResponseBuilder::new().description(about).content("application/json", content);
        call.responses.responses.insert(status.to_owned(), response.into());
    }
}

fn key() -> Parameter {
    let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(255));
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "For 24 hours, the same key and body get the first answer again if it went well, with `Idempotency-Replayed`, and \
             have no second effect. Printable ASCII; a key is its token's own, on one path.",
        ))
        .schema(Some(text))
        .build()
}
