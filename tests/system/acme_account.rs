//! `countersignctl acme-account`: another key for the account; and `import`: what it takes, what it refuses, and that the imported account is the one used.

mod replacing;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use countersign_tests::stack::Stack;
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;

use crate::databases::{connect, migrated};
use crate::schema::Programs;

const DIRECTORY: &str = "https://ca.example/directory";
const KID: &str = "https://ca.example/account/1";

/// RSA with 1024 bits, made for this test and used nowhere else.
const SHORT_RSA_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIICdgIBADANBgkqhkiG9w0BAQEFAASCAmAwggJcAgEAAoGBALQEq460Wpa+vogP
PMgMkBNdFUcErUoPKsl8dQ/+rstlkXRLP12S+gZ2o72OcP1XsZp/BuUGSOJH1hvg
4ojtCRIrmZYvULb0Wmqrlnf/UaIVy+cNqEfOsZPRq3Mgbi2VQuDK2/uRsW8aPhLy
AGelwwSzNRLJPGQXp9KEuiUKXfZzAgMBAAECgYEAmQ1/bw0YGCKEi9moq81CkbQK
ax8m1lie4D/Yp4i5xGTOjjmL3lsgCG7GOFvq5PqyHdDyY7Y8MWcyOvGwqQofMs5l
gbbQ77dTODB+31dD7d69uE3KQ1r6vBVk4X6ljyIapRQiZrZSpKpU6M8JwYPA5818
YoQEBozCBtpmNKNGGwECQQDeu5PqF5WAENc8nBQ0x/mgbqFOorPT7xLFNvPtpAHE
y7OCa5SKGZ4U9j9k7qGXnvQHZEhnLoV67bzsPD98j86jAkEAzufb12Ltl2lx5Uwi
VrUBbjejto5pk6Ip8C+WAdYNo8y/K4PeoLWAPyBDam8qhMaLJZpkkbt9R+Sqw8Qj
67PF8QJAZ8oK7BufS7UNRy4H8Gx7Mzo6KpWArLKMEaBA3Kz/MgAmHxEYf53eXzA8
bEESxb+JQWSGpKY2Bwl/bqnIf7fXdwJAXFNh6g6e7n2C8Uqz1/UVGlWBnCiYO+SU
yjSxv0gA9iKa+5Pwd84F2CVRb+EDHBRsau8mCVGcacRD3u9bCAZEQQJAQikmITRT
9wwG+pfPubA3kkktv0p4ULK/KEx/hY+N8D/NcjktGENCVGHU4y8bbZgcNF8EIj27
kzPJcl0j3JTHnw==
-----END PRIVATE KEY-----
";

fn rsa_key() -> String {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap().serialize_pem()
}

fn pem_block(label: &str, der: &[u8]) -> String {
    let lines: Vec<String> = BASE64_STANDARD
        .encode(der)
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8(line.to_vec()).unwrap())
        .collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// The same RSA key of 2048 bits in its older form (RFC 8017 appendix A.1.2), which PKCS#8 wraps.
fn as_pkcs1(pkcs8_pem: &str) -> String {
    const WRAPPING: usize = 26;
    let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(pkcs8_pem.as_bytes()).unwrap();
    let pkcs1 = &pkcs8.secret_pkcs8_der()[WRAPPING..];
    assert_eq!(pkcs1[..7], [0x30, 0x82, pkcs1[2], pkcs1[3], 0x02, 0x01, 0x00], "not an RSA key of 2048 bits");
    pem_block("RSA PRIVATE KEY", pkcs1)
}

/// One `acme-account import` at a time, into one database.
struct Importer {
    programs: Programs,
    settings: Vec<(&'static str, String)>,
}

impl Importer {
    fn new(database_url: &str, directory: &str) -> Self {
        let settings = vec![("DATABASE_URL", database_url.to_owned()), ("ACME_DIRECTORY", directory.to_owned())];
        Self { programs: Programs::new(), settings }
    }

    /// Exit code and output. What it says never has a line of the key.
    async fn import(&self, name: &str, key: &str, kid: &str) -> (Option<i32>, String) {
        let file = self.programs.file(name, key);
        let args = ["acme-account", "import", "--key-file", &file, "--kid", kid];
        let (code, said) = self.programs.ctl(name, &args, &self.settings).await;
        let secret = key.lines().filter(|line| line.len() > 30 && !line.starts_with("-----"));
        for line in secret {
            assert!(!said.contains(line), "the key is shown: {said}");
        }
        (code, said)
    }
}

/// Directory, key and KID of every stored account.
async fn accounts(url: &str) -> Vec<(String, String, Option<String>)> {
    let stored =
        "SELECT directory, private_key_pem, kid FROM acme_accounts WHERE registered_at IS NOT NULL ORDER BY directory";
    sqlx::query_as(stored).fetch_all(&mut connect(url).await).await.unwrap()
}

fn account(key: &str) -> (String, String, Option<String>) {
    (DIRECTORY.to_owned(), key.to_owned(), Some(KID.to_owned()))
}

#[tokio::test]
async fn an_account_comes_in_from_pkcs8_and_pkcs1_and_is_stored_as_pkcs8() {
    let pkcs8 = rsa_key().replace("\r\n", "\n");
    for (name, key) in [("pkcs8", pkcs8.clone()), ("pkcs1", as_pkcs1(&pkcs8))] {
        let url = migrated().await;
        let (code, said) = Importer::new(&url, DIRECTORY).import(name, &key, KID).await;
        assert_eq!(code, Some(0), "{name}: {said}");
        assert!(said.contains(KID) && said.contains(DIRECTORY), "{said}");
        assert!(accounts(&url).await == [account(&pkcs8)], "{name}: another row is stored");
    }
}

#[tokio::test]
async fn an_account_is_never_replaced() {
    let url = migrated().await;
    let importer = Importer::new(&url, DIRECTORY);
    let (first, second) = (rsa_key(), rsa_key());
    assert_eq!(importer.import("first", &first, KID).await.0, Some(0));
    let stored = accounts(&url).await;
    for (name, key, kid) in [("other", &second, "https://ca.example/account/2"), ("same", &first, KID)] {
        let (code, said) = importer.import(name, key, kid).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("has an account already"), "{said}");
        assert!(accounts(&url).await == stored, "{name} changed the stored account");
    }
    let elsewhere = Importer { programs: importer.programs, ..Importer::new(&url, "https://other.example/directory") };
    assert_eq!(elsewhere.import("elsewhere", &second, KID).await.0, Some(0), "one account per directory");
}

#[tokio::test]
async fn keys_that_are_of_no_use_are_refused_with_the_reason() {
    let url = migrated().await;
    let importer = Importer::new(&url, DIRECTORY);
    let ec = KeyPair::generate().unwrap();
    let rsa = rsa_key();
    let cut = &rsa[..rsa.len() / 2];
    let broken = rsa.replacen("MII", "AAA", 1);
    let certificate = pem_block("CERTIFICATE", b"no certificate");
    for (name, key, reason) in [
        ("ec", ec.serialize_pem(), "RSA"),
        ("sec1", pem_block("EC PRIVATE KEY", &ec.serialize_der()), "RSA"),
        ("short", SHORT_RSA_KEY.to_owned(), "2048"),
        ("garbage", "not a key at all".to_owned(), "PEM"),
        ("empty", String::new(), "PEM"),
        ("cut", cut.to_owned(), "PEM"),
        ("broken", broken, "RSA"),
        ("certificate", certificate, "PEM"),
        ("encrypted", pem_block("ENCRYPTED PRIVATE KEY", b"whatever"), "PEM"),
    ] {
        let (code, said) = importer.import(name, &key, KID).await;
        assert_eq!(code, Some(1), "{name}: {said}");
        assert!(said.starts_with("countersignctl: ") && said.contains(reason) && said.contains(name), "{name}: {said}");
        assert_eq!(said.lines().count(), 1, "{name}: {said}");
    }
    assert!(accounts(&url).await.is_empty());
}

#[tokio::test]
async fn a_wrong_call_says_so_with_exit_code_2_and_a_missing_file_with_1() {
    let url = migrated().await;
    let importer = Importer::new(&url, DIRECTORY);
    let key = importer.programs.file("key", &rsa_key());
    let missing = "/nowhere/key.pem";
    for (number, (args, expected, named)) in [
        (vec!["--key-file", &key], 2, "--kid"),
        (vec!["--kid", KID], 2, "--key-file"),
        (vec!["--key-file", &key, "--kid", "not a URL"], 2, "--kid"),
        (vec!["--key-file", missing, "--kid", KID], 1, missing),
    ]
    .into_iter()
    .enumerate()
    {
        let args = [vec!["acme-account", "import"], args].concat();
        let (code, said) = importer.programs.ctl(&format!("call-{number}"), &args, &importer.settings).await;
        assert_eq!(code, Some(expected), "{args:?}: {said}");
        assert!(said.contains(named), "{args:?}: {said}");
    }
    let args = ["acme-account", "import", "--key-file", &key, "--kid", KID];
    let (code, said) = importer.programs.ctl("no-database", &args, &importer.settings[1..]).await;
    assert_eq!((code, said.contains("DATABASE_URL")), (Some(1), true), "{said}");
    assert!(accounts(&url).await.is_empty());
}

#[tokio::test]
async fn an_imported_account_is_the_one_that_orders() {
    let stack = Stack::builder().start().await;
    stack.active_domain("before-the-import.test").await;
    let registered = accounts(&stack.database_url()).await;
    let [(directory, key, Some(kid))] = &registered[..] else { panic!("{} accounts", registered.len()) };
    assert_eq!(stack.ca().accounts().unwrap(), 1);

    // A worker keeps its account in memory, so it goes too.
    stack.terminate("worker-1", std::time::Duration::from_secs(20)).await;
    sqlx::query("TRUNCATE acme_accounts").execute(stack.pool()).await.unwrap();
    let importer = Importer::new(&stack.database_url(), directory);
    let (code, said) = importer.import("import", &as_pkcs1(key), kid).await;
    assert_eq!(code, Some(0), "{said}");
    stack.restart("worker-1").await;

    stack.active_domain("after-the-import.test").await;
    assert_eq!(stack.ca().accounts().unwrap(), 1, "a second account was made at the CA");
    assert!(accounts(&stack.database_url()).await == registered, "the imported row was changed");
    assert_eq!(stack.ca().certificates_issued_for("after-the-import.test").await.unwrap(), 1);
    stack.finish().await;
}

#[test]
fn the_short_key_is_a_key() {
    let der = PrivatePkcs8KeyDer::from_pem_slice(SHORT_RSA_KEY.as_bytes()).unwrap();
    assert!((600..680).contains(&der.secret_pkcs8_der().len()));
}
