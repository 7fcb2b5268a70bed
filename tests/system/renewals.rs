//! Renewals by `/v2`: a successor with a key of its own takes over, the old certificate stays. `automatic` has those that nobody asks
//! for, `suggested` those for which the CA says when.

pub(crate) mod automatic;
mod suggested;

use countersign_tests::acme_front::Kind;
use countersign_tests::api_client::{Answer, ApiClient};
use countersign_tests::certificate::Description;
use countersign_tests::stack::Stack;
use reqwest::Method;
use serde_json::{Value, json};

use crate::facts::SOON;
use crate::failures::{fronted, refusal};

/// A client of account 1, whose records the workers publish.
pub(super) async fn client(stack: &Stack) -> ApiClient {
    const TOKEN: &str = "renewals";
    presented_by(stack, "test-dns").await;
    let query = "INSERT INTO api_tokens (account_id, sha256, name, scopes)
                 VALUES (1, sha256($1::text::bytea), 'tests', '{certificates:read,certificates:write,certificates:key,domains:*}')";
    sqlx::query(query).bind(TOKEN).execute(stack.pool()).await.unwrap();
    stack.api().with_token(Some(TOKEN))
}

pub(super) async fn presented_by(stack: &Stack, presenter: &str) {
    sqlx::query("UPDATE accounts SET presenter = $1").bind(presenter).execute(stack.pool()).await.unwrap();
}

/// The certificates of one domain.
pub(super) struct Shop<'a> {
    pub(super) stack: &'a Stack,
    api: &'a ApiClient,
    pub(super) domain: i64,
}

impl<'a> Shop<'a> {
    pub(super) async fn new(stack: &'a Stack, api: &'a ApiClient, name: &str) -> Self {
        let request = api.request(Method::POST, "/v2/1/domains").json(&json!({"name": name}));
        let domain = api.send(request).await.unwrap().expect(201)["data"]["id"].as_i64().unwrap();
        Self { stack, api, domain }
    }

    /// `call` is what comes after the path of the domain's certificates.
    async fn send(&self, method: Method, call: &str, body: Option<&Value>) -> Answer {
        let request = self.api.request(method, &format!("/v2/1/domains/{}/certificates{call}", self.domain));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        self.api.send(request).await.unwrap()
    }

    async fn post(&self, call: &str, body: &Value) -> Answer {
        self.send(Method::POST, call, Some(body)).await
    }

    async fn get(&self, call: &str) -> Answer {
        self.send(Method::GET, call, None).await
    }

    pub(super) async fn show(&self, certificate: i64) -> Value {
        self.get(&format!("/{certificate}")).await.expect(200)["data"].take()
    }

    async fn order(&self, input: &Value) -> i64 {
        self.post("/letsencrypt", input).await.expect(201)["data"]["id"].as_i64().unwrap()
    }

    async fn becomes(&self, certificate: i64, state: &str) -> Value {
        let shown = async || Some(self.show(certificate).await).filter(|shown| shown["state"] == state);
        self.stack.wait_until(&format!("certificate {certificate} is {state}"), SOON, shown).await
    }

    /// Ordered and issued.
    pub(super) async fn issue(&self, input: &Value) -> i64 {
        let certificate = self.order(input).await;
        self.post(&format!("/letsencrypt/{certificate}/issue"), &Value::Null).await.expect(202);
        self.becomes(certificate, "issued").await;
        certificate
    }

    async fn try_renew(&self, certificate: i64, input: &Value) -> Answer {
        self.post(&format!("/letsencrypt/{certificate}/renewals"), input).await
    }

    async fn renew(&self, certificate: i64, input: &Value) -> Value {
        self.try_renew(certificate, input).await.expect(201)["data"].take()
    }

    async fn try_issue_renewal(&self, certificate: i64, renewal: &Value) -> Answer {
        self.send(Method::POST, &format!("/letsencrypt/{certificate}/renewals/{renewal}/issue"), None).await
    }

    async fn chain(&self, certificate: i64) -> String {
        let bundle = self.get(&format!("/{certificate}/download")).await.expect(200);
        bundle["data"]["server"].as_str().unwrap().to_owned()
    }

    async fn key(&self, certificate: i64) -> String {
        let key = self.get(&format!("/{certificate}/private_key")).await.expect(200);
        key["data"]["private_key"].as_str().unwrap().to_owned()
    }
}

/// The states of a certificate's renewals, oldest first.
pub(super) async fn renewals_of(stack: &Stack, certificate: i64) -> Vec<String> {
    let query = sqlx::query_scalar("SELECT state FROM renewals WHERE old_certificate_id = $1 ORDER BY id");
    query.bind(certificate).fetch_all(stack.pool()).await.unwrap()
}

pub(crate) async fn renewals_become(stack: &Stack, certificate: i64, states: &[&str]) {
    let become_so = async || (renewals_of(stack, certificate).await == states).then_some(());
    stack.wait_until(&format!("the renewals of certificate {certificate} are {states:?}"), SOON, become_so).await;
}

/// The newest successor of a certificate.
pub(super) async fn successor(stack: &Stack, certificate: i64) -> i64 {
    let query = sqlx::query_scalar("SELECT max(id) FROM certificates WHERE successor_of = $1");
    let newest: Option<i64> = query.bind(certificate).fetch_one(stack.pool()).await.unwrap();
    newest.unwrap()
}

fn message(answer: Answer, status: u16) -> String {
    answer.expect(status)["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_renewal_makes_a_successor_with_a_fresh_key_and_leaves_the_old_certificate() {
    let stack = Stack::builder().start().await;
    let api = client(&stack).await;
    let shop = Shop::new(&stack, &api, "shop.example.com").await;
    let input = json!({"name": "api", "alternate_names": ["docs.shop.example.com"], "auto_renew": true, "signature_algorithm": "RSA"});
    let old = shop.issue(&input).await;
    let (chain, key) = (shop.chain(old).await, shop.key(old).await);

    let renewal = shop.renew(old, &Value::Null).await;
    let new = renewal["new_certificate_id"].as_i64().unwrap();
    assert_eq!((&renewal["old_certificate_id"], &renewal["state"]), (&json!(old), &json!("new")));
    assert_eq!((&renewal["auto_renew"], new == old), (&json!(false), false));
    assert_ne!(renewal["id"], renewal["new_certificate_id"], "a sequence of its own");
    let made = shop.show(new).await;
    assert_eq!((&made["state"], &made["name"], &made["auto_renew"]), (&json!("new"), &json!("api"), &json!(false)));
    assert_eq!(made["alternate_names"], json!(["docs.shop.example.com"]));
    assert_eq!(made["created_at"], renewal["created_at"]);
    let alone = shop.post(&format!("/letsencrypt/{new}/issue"), &Value::Null).await;
    assert!(message(alone, 400).contains("issue its renewal"));
    assert_eq!(shop.get(&format!("/{new}/download")).await.status, 428);

    let started = shop.try_issue_renewal(old, &renewal["id"]).await.expect(202);
    assert_eq!((&started["data"]["id"], &started["data"]["state"]), (&json!(new), &json!("requesting")));
    shop.becomes(new, "issued").await;
    assert_eq!(renewals_of(&stack, old).await, ["renewed"]);
    let described = |pem: &str| Description::of_leaf(pem).unwrap();
    let [was, is] = [described(&chain), described(&shop.chain(new).await)];
    assert_eq!(was.names, is.names);
    assert!(was.key.starts_with("RSA") && is.key.starts_with("ECDSA"), "{} {}", was.key, is.key);
    assert_ne!(key, shop.key(new).await);
    assert_eq!((shop.chain(old).await, shop.key(old).await), (chain, key));
    assert_eq!(shop.show(old).await["state"], "issued");
    let again = shop.try_issue_renewal(old, &renewal["id"]).await;
    assert_eq!(message(again, 400), "Certificate renewal cannot be issued: its state is renewed");
    // A successor can be succeeded, and the old one once more.
    for certificate in [new, old] {
        assert_eq!(shop.renew(certificate, &json!({"signature_algorithm": "RSA"})).await["state"], "new");
    }
}

#[tokio::test]
async fn what_cannot_be_renewed_is_refused_with_a_reason() {
    let stack = Stack::builder().start().await;
    let api = client(&stack).await;
    let (shop, other) =
        tokio::join!(Shop::new(&stack, &api, "shop.example.com"), Shop::new(&stack, &api, "other.example.com"));
    let ordered = shop.order(&Value::Null).await;
    let refused = shop.try_renew(ordered, &Value::Null).await;
    assert_eq!(message(refused, 400), "Certificate cannot be renewed: its state is new");

    let old = shop.issue(&json!({"name": ""})).await;
    for (input, field) in
        [(json!({"auto_renew": "yes"}), "auto_renew"), (json!({"signature_algorithm": "DSA"}), "signature_algorithm")]
    {
        let refused = shop.try_renew(old, &input).await.expect(400);
        assert!(refused["errors"][field].is_array(), "{refused}");
    }
    assert_eq!(renewals_of(&stack, old).await, [""; 0]);
    let renewal = shop.renew(old, &json!({"auto_renew": true})).await;
    assert_eq!(renewal["auto_renew"], true);
    let refused = shop.try_renew(old, &Value::Null).await;
    assert_eq!(message(refused, 400), "Certificate cannot be renewed: a renewal of it is under way");

    for (certificate, renewal, missing) in [
        (old, json!(7_000), "Certificate renewal `7000` not found"),
        (old, json!("x"), "Certificate renewal `\"x\"` not found"),
        (ordered, renewal["id"].clone(), &format!("Certificate renewal `{}` not found", renewal["id"])),
        (7_000, renewal["id"].clone(), "Certificate `7000` not found"),
    ] {
        let path = renewal.to_string().replace('"', "%22");
        let call = format!("/letsencrypt/{certificate}/renewals/{path}/issue");
        assert_eq!(message(shop.send(Method::POST, &call, None).await, 404), missing);
    }
    let elsewhere = other.try_renew(old, &Value::Null).await;
    assert_eq!(message(elsewhere, 404), format!("Certificate `{old}` not found"));
    assert_eq!(other.try_issue_renewal(old, &renewal["id"]).await.status, 404);

    let query =
        "UPDATE renewals SET state = 'cancelled'; UPDATE certificates SET not_after = now() WHERE state = 'issued'";
    sqlx::raw_sql(query).execute(stack.pool()).await.unwrap();
    let refused = shop.try_renew(old, &Value::Null).await;
    assert_eq!(message(refused, 400), "Certificate cannot be renewed: it has expired");
}

#[tokio::test]
async fn of_two_renewals_ordered_or_issued_at_once_one_is_made() {
    let stack = Stack::builder().apis(2).workers(2).start().await;
    let api = client(&stack).await;
    let shop = Shop::new(&stack, &api, "shop.example.com").await;
    let elsewhere = stack.api_replica(2).with_token(Some("renewals"));
    let same = Shop { stack: &stack, api: &elsewhere, domain: shop.domain };
    let old = shop.issue(&json!({"name": ""})).await;
    let input = Value::Null;
    let (one, two) = tokio::join!(shop.try_renew(old, &input), same.try_renew(old, &input));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 400]);
    assert_eq!(renewals_of(&stack, old).await, ["new"]);

    let renewal = if one.status == 201 { one } else { two }.body["data"]["id"].clone();
    let (one, two) = tokio::join!(shop.try_issue_renewal(old, &renewal), same.try_issue_renewal(old, &renewal));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 400]);
    renewals_become(&stack, old, &["renewed"]).await;
    assert_eq!(stack.ca().certificates_issued().unwrap(), 2);
}

#[tokio::test]
async fn a_renewal_ends_with_its_successor_and_another_can_be_ordered() {
    let stack = fronted().start().await;
    let api = client(&stack).await;
    let shop = Shop::new(&stack, &api, "shop.example.com").await;
    let old = shop.issue(&json!({"name": ""})).await;

    stack.front().next(1, Kind::NewOrder, refusal(403, "rejectedIdentifier"));
    let renewal = shop.renew(old, &Value::Null).await;
    shop.try_issue_renewal(old, &renewal["id"]).await.expect(202);
    let failed = shop.becomes(renewal["new_certificate_id"].as_i64().unwrap(), "failed").await;
    assert!(failed["failure_reason"].is_string(), "{failed}");
    assert_eq!(renewals_of(&stack, old).await, ["failed"]);
    assert_eq!(shop.show(old).await["state"], "issued");

    let renewal = shop.renew(old, &Value::Null).await;
    shop.try_issue_renewal(old, &renewal["id"]).await.expect(202);
    renewals_become(&stack, old, &["failed", "renewed"]).await;

    stack.front().hold(Kind::NewOrder);
    let renewal = shop.renew(old, &Value::Null).await;
    shop.try_issue_renewal(old, &renewal["id"]).await.expect(202);
    let deleted = api.request(Method::DELETE, &format!("/v2/1/domains/{}", shop.domain));
    assert_eq!(api.send(deleted).await.unwrap().status, 204);
    assert_eq!(renewals_of(&stack, old).await, ["failed", "renewed", "cancelled"]);
    stack.front().release();
}

#[tokio::test]
async fn a_certificate_of_domains_can_be_renewed_and_the_successor_is_shown_there() {
    let stack = Stack::builder().start().await;
    let domain = stack.active_domain("shop.example.com").await;
    let first = stack.api().certificate(&domain.id).await;
    let api = client(&stack).await;
    let query = "SELECT c.domain_id, c.id FROM certificates c WHERE c.public_id = $1";
    let (id, old): (i64, i64) = sqlx::query_as(query).bind(&first.id).fetch_one(stack.pool()).await.unwrap();
    let shop = Shop { stack: &stack, api: &api, domain: id };
    for _ in 0..2 {
        let newest = renewals_of(&stack, old).await.len();
        let renewal = shop.renew(old, &Value::Null).await;
        shop.try_issue_renewal(old, &renewal["id"]).await.expect(202);
        renewals_become(&stack, old, &vec!["renewed"; newest + 1]).await;
    }
    let shown = stack.api().certificate(&domain.id).await;
    let query =
        sqlx::query_scalar("SELECT public_id FROM certificates WHERE id = $1").bind(successor(&stack, old).await);
    let newest: String = query.fetch_one(stack.pool()).await.unwrap();
    assert_eq!(shown.id, newest);
    assert_eq!(stack.api().fetch(&domain.id).await.status, "active");
}
