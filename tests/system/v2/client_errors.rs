//! What the official Rust client makes of our refusals: the error value that its users match on.

use countersign_tests::stack::Stack;
use countersign_tests::stack::accounts::ALL_SCOPES;
use dnsimple::errors::DNSimpleError;
use serde_json::{Value, json};

use super::Caller;
use super::client::{client_of, payload};

#[track_caller]
fn bad_request<T>(answer: Result<T, DNSimpleError>) -> (String, Value) {
    match answer.err() {
        Some(DNSimpleError::BadRequest { message, attribute_errors }) => {
            (message, attribute_errors.unwrap_or_default())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_refusal_is_the_error_that_the_client_has_for_it() {
    let stack = Stack::builder().workers(0).leftovers_allowed().start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    let (name, account) = ("shop.example.com", caller.account.id as u64);
    let domain = caller.domain(name).await as u64;
    let with = |scopes: &str| client_of(stack.api().url(), &stack.token(caller.account, scopes).secret);
    let all = with(ALL_SCOPES);

    // 400
    let (message, errors) = bad_request(all.domains().create_domain(account, "a..b".to_owned()).await);
    assert_eq!(message, "Validation failed");
    assert!(errors["name"][0].as_str().unwrap().contains("empty label"), "{errors}");
    let taken = bad_request(all.domains().create_domain(account, name.to_uppercase()).await);
    assert_eq!(taken.1, json!({"name": ["has already been taken"]}));
    let wanted = payload("-", &["other.example.org"]);
    let (message, errors) =
        bad_request(all.certificates().purchase_letsencrypt_certificate(account, name, wanted).await);
    assert_eq!(message, "Validation failed");
    assert_eq!(errors.as_object().unwrap().keys().collect::<Vec<_>>(), ["name"]);
    let wanted = payload("www", &["other.example.org"]);
    let (_, errors) = bad_request(all.certificates().purchase_letsencrypt_certificate(account, name, wanted).await);
    assert!(errors["alternate_names"][0].as_str().unwrap().contains("other.example.org"), "{errors}");
    let id = caller.requested(name, json!({})).await as u64;
    let again = bad_request(all.certificates().issue_letsencrypt_certificate(account, name, id).await);
    assert_eq!(again, ("Certificate cannot be issued: its state is requesting".to_owned(), Value::Null));

    // 401
    let stranger = client_of(stack.api().url(), "countersign_nobody");
    assert!(matches!(stranger.identity().whoami().await, Err(DNSimpleError::Unauthorized)));

    // 403
    let refused = |answer: DNSimpleError, scope: &str| match answer {
        DNSimpleError::Forbidden(text) => assert_eq!(text, format!("Permission Denied. Required Scope: {scope}")),
        other => panic!("{other:?}"),
    };
    let reader = with("certificates:read");
    let order = reader.certificates().purchase_letsencrypt_certificate(account, name, payload("www", &[])).await;
    refused(order.unwrap_err(), "certificates:write");
    refused(
        reader.certificates().issue_letsencrypt_certificate(account, name, id).await.unwrap_err(),
        "certificates:write",
    );
    refused(
        reader.certificates().get_certificate_private_key(account, name, id).await.unwrap_err(),
        "certificates:key",
    );
    refused(reader.domains().list_domains(account, None).await.unwrap_err(), "domains:*");
    let keeper = with("domains:*");
    refused(keeper.certificates().list_certificates(account, name, None).await.unwrap_err(), "certificates:read");
    assert!(keeper.domains().get_domain(account, domain).await.is_ok());

    // 404, in DNSimple's words.
    let not_found = |answer: DNSimpleError| match answer {
        DNSimpleError::NotFound(text) => text,
        other => panic!("{other:?}"),
    };
    let missing = all.certificates().get_certificate(account, name, 0).await;
    assert_eq!(not_found(missing.unwrap_err()), "Certificate `0` not found");
    let missing = all.certificates().list_certificates(account, "Other.example.com.", None).await;
    assert_eq!(not_found(missing.unwrap_err()), "Domain `Other.example.com.` not found");
    assert_eq!(not_found(all.domains().list_domains(account + 1, None).await.unwrap_err()), "Not Found");

    // 428
    let early = all.certificates().download_certificate(account, name, id).await;
    assert!(matches!(early, Err(DNSimpleError::PreconditionRequired(text)) if text == "Certificate not issued"));
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_the_error_for_it() {
    let stack = Stack::builder().workers(0).setting("RATE_LIMIT", "2").start().await;
    let account = stack.account("shop", "manual");
    let client = client_of(stack.api().url(), &stack.token(account, ALL_SCOPES).secret);
    assert_eq!(client.identity().whoami().await.unwrap().rate_limit_remaining, "1");
    assert_eq!(client.identity().whoami().await.unwrap().rate_limit_remaining, "0");
    assert!(matches!(client.identity().whoami().await, Err(DNSimpleError::TooManyRequests)));
}
