//! Pebble for the tests of this folder, and what Pebble has to say about our signatures: the contract that any new version of
//! instant-acme must still meet.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use countersign_shared::model::certificate::KeyAlgorithm;
use countersign_shared::model::secret::Secret;
use countersign_shared::store::StoreError;
use countersign_shared::store::acme_accounts::AcmeAccount;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;
use url::Url;

use super::account::AccountRecord;
use super::*;
use crate::keys::{KeyMaker, check_chain, csr_der};

const MAC_KEY: &[u8] = b"the MAC key of these tests, as long as HS256 wants";

/// A row of `acme_accounts` without Postgres.
#[derive(Default)]
pub(super) struct MemoryRecord {
    pub(super) row: Mutex<Option<(String, Option<String>)>>,
    kids_stored: AtomicUsize,
}

impl MemoryRecord {
    fn kid(&self) -> Option<String> {
        self.row.lock().unwrap().clone()?.1
    }

    /// The row as it is after a crash between "key stored" and "registered".
    fn with_key_of(other: &MemoryRecord) -> Arc<Self> {
        let (key, _) = other.row.lock().unwrap().clone().unwrap();
        Arc::new(MemoryRecord { row: Mutex::new(Some((key, None))), ..Default::default() })
    }
}

#[async_trait]
impl AccountRecord for MemoryRecord {
    async fn load(&self) -> Result<Option<AcmeAccount>, StoreError> {
        let row = self.row.lock().unwrap().clone();
        Ok(row.map(|(pem, kid)| AcmeAccount { directory: String::new(), private_key_pem: Secret::new(pem), kid }))
    }

    async fn insert_key_if_absent(&self, private_key_pem: &Secret) -> Result<AcmeAccount, StoreError> {
        self.row.lock().unwrap().get_or_insert_with(|| (private_key_pem.expose().to_owned(), None));
        Ok(self.load().await?.unwrap())
    }

    async fn next_key(&self) -> Result<Option<Secret>, StoreError> {
        Ok(None)
    }

    async fn store_kid(&self, kid: &str) -> Result<(), StoreError> {
        self.row.lock().unwrap().as_mut().unwrap().1 = Some(kid.to_owned());
        self.kids_stored.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

struct Killed(Child);

impl Killed {
    /// Dies with this test, even when the test is killed.
    fn start(program: &str, arguments: &[&str], environment: &[(&str, String)]) -> Killed {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program])
            .args(arguments)
            .envs(environment.iter().cloned())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Killed(child.expect("setpriv (util-linux) starts Debian's pebble"))
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Pebble {
    folder: TempDir,
    directory: Url,
    roots: Url,
    dns: String,
    records: Url,
    nonce_reject: u32,
    http: reqwest::Client,
    running: Option<Killed>,
    _challtestsrv: Killed,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Pebble {
    async fn start(nonce_reject: u32, external_account_required: bool) -> Pebble {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem();
        std::fs::write(path("cert.pem"), &certificate).unwrap();
        std::fs::write(path("key.pem"), key.serialize_pem()).unwrap();
        let [acme, management, dns, records] = [(); 4].map(|()| free_port());
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{acme}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": path("cert.pem"),
            "privateKey": path("key.pem"),
            "httpPort": 5002,
            "tlsPort": 5001,
            "domainBlocklist": ["blocked.example"],
            "externalAccountBindingRequired": external_account_required,
            "externalAccountMACKeys": { "kid-1": BASE64URL.encode(MAC_KEY) },
        }});
        std::fs::write(path("config.json"), config.to_string()).unwrap();
        let (dns, management_of_dns) = (format!("127.0.0.1:{dns}"), format!("127.0.0.1:{records}"));
        let without = ["-http01", "", "-https01", "", "-tlsalpn01", ""];
        let used = ["-dns01", &dns, "-management", &management_of_dns];
        let root = reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap();
        let mut pebble = Pebble {
            directory: Url::parse(&format!("https://localhost:{acme}/dir")).unwrap(),
            roots: Url::parse(&format!("https://localhost:{management}/roots/0")).unwrap(),
            records: Url::parse(&format!("http://{management_of_dns}")).unwrap(),
            _challtestsrv: Killed::start("pebble-challtestsrv", &[&without[..], &used[..]].concat(), &[]),
            http: reqwest::Client::builder().tls_certs_merge([root]).build().unwrap(),
            folder,
            dns,
            nonce_reject,
            running: None,
        };
        pebble.restart().await;
        pebble.set_txt("ready.example", "x").await;
        pebble
    }

    /// Pebble keeps nothing: afterwards it knows no account and no order.
    async fn restart(&mut self) {
        drop(self.running.take());
        let config = self.folder.path().join("config.json");
        let environment = [
            ("PEBBLE_VA_NOSLEEP", "1".to_owned()),
            ("PEBBLE_WFE_NONCEREJECT", self.nonce_reject.to_string()),
            ("PEBBLE_AUTHZREUSE", "0".to_owned()),
        ];
        let arguments = ["-config", config.to_str().unwrap(), "-dnsserver", &self.dns];
        self.running = Some(Killed::start("pebble", &arguments, &environment));
        eventually(async || self.http.get(self.directory.clone()).send().await.ok()).await;
    }

    fn settings(&self) -> Settings {
        Settings {
            directory: self.directory.clone(),
            contact: Some("ops@example.com".to_owned()),
            ca_file: Some(self.folder.path().join("cert.pem")),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(20),
            new_order_limit: 1,
            external_account: None,
        }
    }

    fn acme(&self, record: &Arc<MemoryRecord>) -> Acme {
        Acme::with_record(self.settings(), Arc::clone(record) as _).unwrap()
    }

    async fn set_txt(&self, identifier: &str, value: &str) {
        let body = json!({ "host": format!("_acme-challenge.{identifier}."), "value": value });
        eventually(async || {
            let request = self.http.post(self.records.join("/set-txt").unwrap()).json(&body);
            request.send().await.ok()?.error_for_status().ok()
        })
        .await;
    }
}

/// Polls what has no event to wait for.
async fn eventually<T>(mut seen: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = seen().await {
            return value;
        }
        assert!(Instant::now() < deadline, "nothing within 30 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn an_order_becomes_a_certificate_and_the_ca_accepts_our_txt_values() {
    let pebble = Pebble::start(5, false).await;
    let record = Arc::default();
    let acme = pebble.acme(&record);
    let names = names(&["shop.example.com", "*.shop.example.com"]);

    let placed = acme.place_now(&names).await.unwrap();
    assert_eq!(placed.status, OrderStatus::Pending);
    for authorization in &placed.authorizations {
        assert_eq!(authorization.identifier, "shop.example.com");
        assert_eq!(authorization.status, AuthorizationStatus::Pending);
        let dns01 = authorization.dns01.as_ref().unwrap();
        pebble.set_txt(&authorization.identifier, &dns01.txt_value).await;
        acme.respond(&dns01.url).await.unwrap();
    }
    eventually(async || {
        let order = acme.order(&placed.url).await.unwrap();
        assert_eq!(order.problem, None);
        (order.status == OrderStatus::Ready).then_some(())
    })
    .await;

    let answered = &placed.authorizations[0];
    assert_eq!(acme.authorization(&answered.url).await.unwrap().status, AuthorizationStatus::Valid);
    let again = acme.respond(&answered.dns01.as_ref().unwrap().url).await;
    assert_eq!(again.unwrap_err().class, ErrorClass::LookAgain);
    assert_eq!(acme.download(&placed.url).await.unwrap_err().class, ErrorClass::LookAgain);

    let made = KeyMaker::new().make(KeyAlgorithm::Rsa2048, &names).await.unwrap();
    let csr = csr_der(&made.csr_pem).unwrap();
    acme.finalize(&placed.url, &csr).await.unwrap();
    let repeated = acme.finalize(&placed.url, &csr).await.unwrap();
    assert!(matches!(repeated.status, OrderStatus::Processing | OrderStatus::Valid));

    // Another process, which has only the order's URL.
    let other = pebble.acme(&record);
    let chain = eventually(async || other.download(&placed.url).await.unwrap()).await;
    let checked = check_chain(&chain, made.private_key_pem.expose(), &names).unwrap();
    assert!(checked.issuer.starts_with("Pebble Intermediate CA"), "{}", checked.issuer);
    let root = pebble.http.get(pebble.roots.clone()).send().await.unwrap().text().await.unwrap();
    check_chain(&format!("{chain}{root}"), made.private_key_pem.expose(), &names).unwrap();
    assert_eq!(acme.order(&placed.url).await.unwrap().status, OrderStatus::Valid);

    // A valid authorization is what must not be left for another tenant.
    acme.deactivate_authorization(&answered.url).await.unwrap();
    assert_eq!(acme.authorization(&answered.url).await.unwrap().status, AuthorizationStatus::Deactivated);
}

#[tokio::test]
async fn concurrent_first_calls_register_once_and_the_same_key_is_the_same_account() {
    let pebble = Pebble::start(5, false).await;
    let record = Arc::new(MemoryRecord::default());
    let acme = pebble.acme(&record);
    let (a, b) = (names(&["a.example.com"]), names(&["b.example.com"]));
    let (one, two) = tokio::join!(acme.place_now(&a), acme.place_now(&b));
    let (one, _) = (one.unwrap(), two.unwrap());
    assert_eq!(record.kids_stored.load(Ordering::SeqCst), 1);

    let crashed = MemoryRecord::with_key_of(&record);
    assert_eq!(pebble.acme(&crashed).order(&one.url).await.unwrap().status, OrderStatus::Pending);
    assert_eq!(crashed.kid().unwrap(), record.kid().unwrap());
    // A third process finds the KID stored, and registers nothing.
    assert_eq!(pebble.acme(&crashed).order(&one.url).await.unwrap().status, OrderStatus::Pending);
    assert_eq!(crashed.kids_stored.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_external_account_is_bound_to_our_rsa_key() {
    let pebble = Pebble::start(5, true).await;
    let unbound = pebble.acme(&Arc::default()).place_now(&names(&["a.example.com"])).await;
    assert_eq!(unbound.unwrap_err().class, ErrorClass::FatalForAccount);

    let with_mac_key = |hmac_key: &[u8]| {
        let external_account = Some(ExternalAccount { key_id: "kid-1".to_owned(), hmac_key: hmac_key.to_vec().into() });
        let settings = Settings { external_account, ..pebble.settings() };
        Acme::with_record(settings, Arc::<MemoryRecord>::default()).unwrap()
    };
    with_mac_key(MAC_KEY).place_now(&names(&["a.example.com"])).await.unwrap();
    let forged = with_mac_key(b"another key").place_now(&names(&["a.example.com"])).await;
    assert_eq!(forged.unwrap_err().class, ErrorClass::FatalForAccount);
}

#[tokio::test]
async fn an_account_that_the_ca_forgot_is_registered_again_with_the_same_key() {
    let mut pebble = Pebble::start(5, false).await;
    let record = Arc::new(MemoryRecord::default());
    let acme = pebble.acme(&record);
    let placed = acme.place_now(&names(&["a.example.com"])).await.unwrap();
    let key = record.row.lock().unwrap().clone().unwrap().0;
    pebble.restart().await;

    assert_eq!(acme.order(&placed.url).await.unwrap_err().class, ErrorClass::NewOrderNeeded);
    acme.place_now(&names(&["a.example.com"])).await.unwrap();
    assert_eq!(record.kids_stored.load(Ordering::SeqCst), 2);
    assert_eq!(record.row.lock().unwrap().clone().unwrap().0, key);
}

#[tokio::test]
async fn deactivation_looks_first_and_may_be_repeated() {
    let pebble = Pebble::start(5, false).await;
    let acme = pebble.acme(&Arc::default());
    let placed = acme.place_now(&names(&["a.example.com"])).await.unwrap();
    let url = &placed.authorizations[0].url;
    for _ in 0..2 {
        acme.deactivate_authorization(url).await.unwrap();
        assert_eq!(acme.authorization(url).await.unwrap().status, AuthorizationStatus::Deactivated);
    }
    acme.deactivate_authorization(&format!("{url}-unknown")).await.unwrap();
    let unknown = acme.order(&format!("{}-unknown", placed.url)).await.unwrap_err();
    assert_eq!((unknown.class, unknown.status), (ErrorClass::NewOrderNeeded, Some(404)));
}

#[tokio::test]
async fn what_the_ca_refuses_is_told_with_its_problem() {
    let pebble = Pebble::start(5, false).await;
    let acme = pebble.acme(&Arc::default());
    let blocked = acme.place_now(&names(&["blocked.example"])).await.unwrap_err();
    assert_eq!(blocked.class, ErrorClass::FatalForOrder, "{blocked}");
    assert!(blocked.to_string().contains("rejectedIdentifier"), "{blocked}");

    let placed = acme.place_now(&names(&["empty.example.com"])).await.unwrap();
    let csr = KeyMaker::new().make(KeyAlgorithm::EcdsaP256, &names(&["empty.example.com"])).await.unwrap();
    let too_early = acme.finalize(&placed.url, &csr_der(&csr.csr_pem).unwrap()).await.unwrap();
    assert_eq!(too_early.status, OrderStatus::Pending);

    let url = &placed.authorizations[0].url;
    acme.respond(&placed.authorizations[0].dns01.as_ref().unwrap().url).await.unwrap();
    let dead = eventually(async || {
        let seen = acme.authorization(url).await.unwrap();
        (seen.status == AuthorizationStatus::Invalid).then_some(seen)
    })
    .await;
    let problem = dead.dns01.unwrap().problem.unwrap();
    assert_eq!(class_of_authorization_problem(&problem), ErrorClass::NewOrderNeeded);
    acme.deactivate_authorization(url).await.unwrap();
    let gone = acme.download(&placed.url).await.unwrap_err();
    assert_eq!(gone.class, ErrorClass::NewOrderNeeded);
}

/// Eight tries leave 1 of 256 requests; three, as in the crate, would leave 5 of these 40.
#[tokio::test]
async fn half_of_all_nonces_may_be_rejected() {
    let pebble = Pebble::start(50, false).await;
    let acme = pebble.acme(&Arc::default());
    let placed = eventually(async || acme.place_now(&names(&["a.example.com"])).await.ok()).await;
    let mut failed = 0;
    for _ in 0..40 {
        if let Err(error) = acme.order(&placed.url).await {
            assert_eq!(error.class, ErrorClass::RetryLater);
            failed += 1;
        }
    }
    assert!(failed <= 3, "{failed} of 40 requests failed");
}
