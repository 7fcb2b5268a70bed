//! The official Rust client, from a token to an installed certificate; and what is in the certificates.

use std::collections::BTreeSet;
use std::fs;

use countersign_tests::certificate::{Description, verify};
use countersign_tests::stack::Stack;
use countersign_tests::stack::accounts::ALL_SCOPES;
use dnsimple::dnsimple::certificates::{
    LetsEncryptPurchasePayload, LetsEncryptPurchaseRenewalPayload, LetsEncryptSignatureAlgorithm,
};
use dnsimple::dnsimple::{Client, Paginate, RequestOptions, Sort, new_client};
use dnsimple::errors::DNSimpleError;
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::json;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Caller;
use crate::facts::SOON;

pub(super) fn client_of(url: &str, token: &str) -> Client {
    let mut client = new_client(true, token.to_owned()).unwrap();
    client.set_base_url(url);
    client
}

pub(super) fn payload(name: &str, alternate_names: &[&str]) -> LetsEncryptPurchasePayload {
    let alternate_names = alternate_names.iter().map(ToString::to_string).collect();
    LetsEncryptPurchasePayload { auto_renew: false, name: name.to_owned(), alternate_names, signature_algorithm: None }
}

/// Its chain leads to the CA's root, it has the names, no more and no fewer, and the key is the leaf's.
#[track_caller]
pub(super) fn check_certificate(stack: &Stack, chain: &str, private_key: &str, names: &[&str], key: &str) {
    let root = fs::read_to_string(stack.ca().issued_root_file()).unwrap();
    assert!(verify(chain, &root).unwrap() >= 2, "the chain has an issuer");
    let leaf = Description::of_leaf(chain).unwrap();
    let (has, wanted): (BTreeSet<&str>, BTreeSet<&str>) =
        (leaf.names.iter().map(String::as_str).collect(), names.iter().copied().collect());
    assert_eq!((has, leaf.key.as_str()), (wanted, key));
    let heading =
        if key.starts_with("RSA") { "-----BEGIN RSA PRIVATE KEY-----\n" } else { "-----BEGIN EC PRIVATE KEY-----\n" };
    assert!(private_key.starts_with(heading) && private_key.ends_with("-----\n"), "another kind of key");
    let pair = KeyPair::from_pem(private_key).unwrap();
    let pem = x509_parser::pem::parse_x509_pem(chain.as_bytes()).unwrap().1;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
    assert_eq!(certificate.public_key().raw, pair.subject_public_key_info(), "the key is another one's");
}

#[tokio::test]
async fn the_rust_client_walks_from_its_token_to_certificate_and_key() {
    let stack = Stack::builder().start().await;
    let account = stack.account("Shop Inc", "test-dns");
    let token = stack.token(account, ALL_SCOPES);
    let client = client_of(stack.api().url(), &token.secret);

    let whoami = client.identity().whoami().await.unwrap();
    assert_eq!((whoami.status, whoami.rate_limit.as_str()), (200, "2400"));
    let identity = whoami.data.unwrap();
    assert!(identity.user.is_none());
    let me = identity.account.unwrap();
    assert_eq!((me.name.as_deref(), me.plan_identifier.as_str()), (Some("Shop Inc"), "self-hosted"));
    let accounts = client.accounts().list_accounts().await.unwrap();
    assert!(accounts.pagination.is_none());
    assert_eq!(accounts.data.unwrap().iter().map(|account| account.id).collect::<Vec<_>>(), [me.id]);

    // Domains.
    let name = "shop.example.com";
    let domain = client.domains().create_domain(me.id, name.to_owned()).await.unwrap();
    assert_eq!(domain.status, 201);
    let domain = domain.data.unwrap();
    assert_eq!((domain.account_id, domain.name.as_str(), domain.state.as_str()), (me.id, name, "hosted"));
    client.domains().create_domain(me.id, "müller.example.com".to_owned()).await.unwrap();
    let sorted = RequestOptions {
        filters: None,
        sort: Some(Sort::new("name:asc".to_owned())),
        paginate: Some(Paginate { per_page: 1, page: 2 }),
    };
    let listed = client.domains().list_domains(me.id, Some(sorted)).await.unwrap();
    let pagination = listed.pagination.unwrap();
    assert_eq!((pagination.current_page, pagination.per_page), (2, 1));
    assert_eq!((pagination.total_entries, pagination.total_pages), (2, 2));
    let second = &listed.data.unwrap()[0];
    assert_eq!((second.unicode_name.as_str(), second.name.starts_with("xn--")), ("müller.example.com", true));
    let fetched = client.domains().get_domain(me.id, domain.id).await.unwrap().data.unwrap();
    assert_eq!(fetched.created_at, domain.created_at);
    let gone = client.domains().delete_domain(me.id, second.id).await.unwrap();
    assert_eq!((gone.status, gone.rate_limit.as_str()), (204, "2400"));
    assert!(matches!(client.domains().get_domain(me.id, second.id).await, Err(DNSimpleError::NotFound(_))));

    // A certificate.
    let certificates = client.certificates();
    let none = certificates.list_certificates(me.id, name, None).await.unwrap();
    assert!(none.data.unwrap().is_empty());
    let pages = none.pagination.unwrap();
    assert_eq!((pages.per_page, pages.total_entries, pages.total_pages), (30, 0, 1));
    let wanted = LetsEncryptPurchasePayload { auto_renew: true, ..payload("api", &["docs.shop.example.com", name]) };
    let order = certificates.purchase_letsencrypt_certificate(me.id, name, wanted).await.unwrap();
    assert_eq!(order.status, 201);
    let order = order.data.unwrap();
    let id = order.certificate_id;
    assert_eq!((order.id, order.state.as_str(), order.auto_renew), (id, "new", true));
    let shown = certificates.get_certificate(me.id, name, id).await.unwrap().data.unwrap();
    assert_eq!((shown.domain_id, shown.name.as_str(), shown.years), (domain.id, "api", 1));
    assert_eq!((shown.common_name.as_str(), shown.state.as_str()), ("api.shop.example.com", "new"));
    assert_eq!(shown.alternate_names, ["docs.shop.example.com", name]);
    assert_eq!((shown.csr, shown.expires_at, shown.expires_on), (None, None, None));
    let early = certificates.download_certificate(me.id, name, id).await;
    let is_early =
        |error| matches!(error, DNSimpleError::PreconditionRequired(text) if text == "Certificate not issued");
    assert!(is_early(early.unwrap_err()));
    assert!(is_early(certificates.get_certificate_private_key(me.id, name, id).await.unwrap_err()));

    let issue = certificates.issue_letsencrypt_certificate(me.id, name, id).await.unwrap();
    assert_eq!((issue.status, issue.data.unwrap().state.as_str()), (202, "requesting"));
    let issued = async || {
        let shown = certificates.get_certificate(me.id, name, id).await.unwrap().data.unwrap();
        assert!(["requesting", "issued"].contains(&shown.state.as_str()), "{}", shown.state);
        (shown.state == "issued").then_some(shown)
    };
    let shown = stack.wait_until("the certificate is issued", SOON, issued).await;
    assert!(shown.csr.unwrap().starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
    let expires_at = shown.expires_at.unwrap();
    assert_eq!(expires_at.split_once('T').unwrap().0, shown.expires_on.unwrap());

    let bundle = certificates.download_certificate(me.id, name, id).await.unwrap().data.unwrap();
    assert!(bundle.root.is_none() && bundle.server.matches("BEGIN CERTIFICATE").count() == 1);
    assert!(bundle.chain.iter().all(|pem| pem.matches("BEGIN CERTIFICATE").count() == 1 && pem.ends_with("-----\n")));
    let key = certificates.get_certificate_private_key(me.id, name, id).await.unwrap().data.unwrap().private_key;
    let chain = bundle.server + &bundle.chain.concat();
    check_certificate(&stack, &chain, &key, &["api.shop.example.com", "docs.shop.example.com", name], "ECDSA 256 bits");
    assert_eq!(Description::of_leaf(&chain).unwrap().not_after, expires_at);
    let listed = certificates.list_certificates(me.id, name, None).await.unwrap().data.unwrap();
    assert_eq!(listed.iter().map(|entry| (entry.id, entry.state.as_str())).collect::<Vec<_>>(), [(id, "issued")]);

    // Its renewal: the same names, another key; the old certificate stays as it is.
    let wanted = LetsEncryptPurchaseRenewalPayload { auto_renew: false, signature_algorithm: None };
    let renewal = certificates.purchase_letsencrypt_certificate_renewal(me.id, name, id, wanted).await.unwrap();
    assert_eq!(renewal.status, 201);
    let renewal = renewal.data.unwrap();
    assert_eq!((renewal.old_certificate_id, renewal.state.as_str()), (id, "new"));
    let new = renewal.new_certificate_id;
    let issue = certificates.issue_letsencrypt_certificate_renewal(me.id, name, id, renewal.id).await.unwrap();
    let started = issue.data.unwrap();
    assert_eq!((issue.status, started.id, started.state.as_str()), (202, new, "requesting"));
    let issued = async || {
        let shown = certificates.get_certificate(me.id, name, new).await.unwrap().data.unwrap();
        (shown.state == "issued").then_some(())
    };
    stack.wait_until("the successor is issued", SOON, issued).await;
    let successor = certificates.download_certificate(me.id, name, new).await.unwrap().data.unwrap();
    let new_key = certificates.get_certificate_private_key(me.id, name, new).await.unwrap().data.unwrap().private_key;
    let chain = successor.server + &successor.chain.concat();
    let names = ["api.shop.example.com", "docs.shop.example.com", name];
    check_certificate(&stack, &chain, &new_key, &names, "ECDSA 256 bits");
    assert_ne!(new_key, key);
    certificates.download_certificate(me.id, name, id).await.unwrap();
}

#[tokio::test]
async fn the_rust_client_asks_for_rsa_and_for_the_domain_itself() {
    let stack = Stack::builder().start().await;
    let caller = Caller::new(&stack, "shop", "test-dns");
    let name = "shop.example.com";
    caller.domain(name).await;
    let client = client_of(stack.api().url(), &stack.token(caller.account, ALL_SCOPES).secret);
    let wanted = LetsEncryptPurchasePayload {
        signature_algorithm: Some(LetsEncryptSignatureAlgorithm::RSA),
        ..payload("", &[])
    };
    let account = caller.account.id as u64;
    let order = client.certificates().purchase_letsencrypt_certificate(account, name, wanted).await.unwrap();
    let id = order.data.unwrap().certificate_id;
    client.certificates().issue_letsencrypt_certificate(account, name, id).await.unwrap();
    let id = id as i64;
    let shown = caller.issued(name, id).await;
    assert_eq!((shown["name"].as_str(), shown["common_name"].as_str()), (Some(""), Some(name)));
    let (chain, key) = (caller.chain(name, id).await, caller.private_key(name, id).await);
    check_certificate(&stack, &chain, &key, &[name], "RSA 2048 bits");
}

/// What was ordered, and every name that the certificate is for.
#[tokio::test]
async fn a_certificate_has_the_names_that_were_ordered_and_no_other() {
    let stack = Stack::builder().start().await;
    let caller = Caller::new(&stack, "shop", "test-dns");
    let domain = "shop.example.com";
    caller.domain(domain).await;
    let cases: [(serde_json::Value, &[&str]); 6] = [
        (json!({}), &["www.shop.example.com", domain]),
        (
            json!({"name": "WWW", "alternate_names": ["Docs.Shop.example.com", "www.shop.example.com"]}),
            &["www.shop.example.com", domain, "docs.shop.example.com"],
        ),
        (json!({"name": "*"}), &["*.shop.example.com"]),
        // Two values at one owner name.
        (json!({"name": "*", "alternate_names": [domain]}), &["*.shop.example.com", domain]),
        (
            json!({"name": "*.eu", "alternate_names": ["*.us.shop.example.com"]}),
            &["*.eu.shop.example.com", "*.us.shop.example.com"],
        ),
        (json!({"name": "a.b"}), &["a.b.shop.example.com"]),
    ];
    // One after the other: Pebble reads answers of 512 octets, and most have a value at the domain's own record.
    for (input, names) in cases {
        let id = caller.requested(domain, input).await;
        let shown = caller.issued(domain, id).await;
        let (chain, key) = (caller.chain(domain, id).await, caller.private_key(domain, id).await);
        check_certificate(&stack, &chain, &key, names, "ECDSA 256 bits");
        assert_eq!(shown["common_name"], names[0]);
        let alternates: Vec<&str> =
            shown["alternate_names"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
        let unasked = if shown["name"] == "www" { 1 } else { 0 };
        assert_eq!(alternates, names[1 + unasked..], "as ordered, without what www brings unasked");
        assert_eq!(
            (shown["contact_id"].as_i64(), &shown["authority_identifier"]),
            (Some(caller.account.id), &json!("letsencrypt"))
        );
    }
}
