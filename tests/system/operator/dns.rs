//! `countersignctl dns`: what is set is tried first, shown without its secret, and replaced without a trace of the old one.

use std::path::Path;

use countersign_tests::dns_software::{KEY_NAME, SECRET, Software};
use countersign_tests::primary::{NameServer, Zone};
use countersign_tests::receiver::{Manner, Receiver};
use countersign_tests::stack::Stack;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};
use tempfile::TempDir;

use super::{Said, command, ctl, ctl_on, domain};
use crate::databases::{connect, migrated};

const NEEDS: &str = "the server was skipped or started";

const ZONES: [Zone; 3] = [
    Zone {
        name: "example.com.",
        records: "_acme-challenge.alias.example.com. CNAME next.example.com.\n\
                  next.example.com. CNAME target.dyn.test.\n\
                  _acme-challenge.away.example.com. CNAME target.elsewhere.test.\n\
                  _acme-challenge.circle.example.com. CNAME circle.example.com.\n\
                  circle.example.com. CNAME _acme-challenge.circle.example.com.\n\
                  _acme-challenge.shop.example.com. TXT \"the customer's own\"",
        is_dynamic: true,
    },
    Zone { name: "dyn.test.", records: "", is_dynamic: true },
    Zone { name: "static.test.", records: "", is_dynamic: false },
];

async fn text(conn: &mut PgConnection, query: &str) -> Option<String> {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(conn).await.unwrap()
}

/// `dns set` for a domain, of a server that takes updates.
async fn set(url: &str, domain: &str, server: &str, secret: &Path, more: &[&str]) -> Said {
    let mut args = vec!["dns", "set", "--domain", domain, "rfc2136", "--server", server];
    args.extend(["--secret-file", secret.to_str().unwrap()]);
    if !more.contains(&"--key-name") {
        args.extend(["--key-name", KEY_NAME]);
    }
    ctl(url, &[args, more.to_vec()].concat()).await
}

async fn a_server_that_takes_updates(kind: Software) {
    let Some(kind) = kind.if_installed() else {
        return;
    };
    let server = NameServer::start(kind, &ZONES).await.expect(NEEDS);
    let address = server.address().to_string();
    let url = migrated().await;
    let mut conn = connect(&url).await;
    for name in ["shop", "alias", "away", "circle"] {
        domain(&mut conn, &format!("{name}.example.com"), "pending").await;
    }
    for name in ["static.test", "nowhere.test"] {
        domain(&mut conn, name, "pending").await;
    }
    let secret = server.secret_file();

    for more in
        [&["--transport", "udp"][..], &["--transport", "tcp"], &["--zone", "example.com."], &["--zone", "example.com"]]
    {
        let said = set(&url, "shop.example.com", &address, &secret, more).await.ended(0);
        assert_eq!(said.out, "shop.example.com: rfc2136: a value was written, seen and removed\n", "{more:?}");
        assert_eq!(server.values("_acme-challenge.shop.example.com.").await.unwrap(), ["the customer's own"]);
    }
    ctl(&url, &["dns", "try", "--domain", "shop.example.com"]).await.ended(0);
    // Where the alias leads, in another zone of that server; by both transports.
    for more in [&[][..], &["--transport", "udp"], &["--zone", "dyn.test."]] {
        set(&url, "alias.example.com", &address, &secret, more).await.ended(0);
    }

    let wrong = TempDir::new().unwrap();
    let file = wrong.path().join("secret");
    std::fs::write(&file, "YW5vdGhlciBzZWNyZXQsIGFuZCBsb25nIGVub3VnaCE=").unwrap();
    let shop = "shop.example.com";
    let closed = "127.0.0.1:1".to_owned();
    let cases = [
        (shop, &address, &file, vec![], vec!["does not accept the TSIG key countersign-key.", "BADSIG"]),
        (
            shop,
            &address,
            &file,
            vec!["--transport", "udp"],
            vec!["does not accept the TSIG key countersign-key.", "BADSIG"],
        ),
        (shop, &address, &secret, vec!["--key-name", "other."], vec!["does not accept the TSIG key other.", "BADKEY"]),
        (shop, &address, &secret, vec!["--algorithm", "hmac-sha512"], vec!["does not accept the TSIG key"]),
        (
            shop,
            &address,
            &secret,
            vec!["--zone", "dyn.test."],
            vec!["_acme-challenge.shop.example.com. is not in the zone dyn.test."],
        ),
        (shop, &address, &secret, vec!["--zone", "com."], vec!["not authoritative for com."]),
        ("nowhere.test", &address, &secret, vec![], vec!["is not authoritative for _acme-challenge.nowhere.test."]),
        ("away.example.com", &address, &secret, vec![], vec!["is not authoritative for target.elsewhere.test."]),
        ("circle.example.com", &address, &secret, vec![], vec!["circle.example.com"]),
        (shop, &closed, &secret, vec![], vec!["the DNS server 127.0.0.1:1 cannot be reached"]),
    ];
    let stored = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM presenter_configs";
    let before = text(&mut conn, stored).await;
    for (name, server, secret, more, expected) in cases {
        let said = set(&url, name, server, secret, &more).await.ended(4);
        assert!(said.err.starts_with("countersignctl: nothing was set: "), "{said:?}");
        assert!(expected.iter().all(|part| said.err.contains(part)), "{expected:?} is not in {said:?}");
    }
    // The server does not let this key write there.
    let said = set(&url, "static.test", &address, &secret, &[]).await.ended(4);
    assert!(said.err.contains("the value could not be written"), "{said:?}");
    assert_eq!(text(&mut conn, stored).await, before, "what does not work is not stored");
    assert_eq!(server.values("_acme-challenge.shop.example.com.").await.unwrap(), ["the customer's own"]);
}

#[tokio::test]
#[ignore = "needs bind9: make test-all"]
async fn bind_takes_updates_and_every_refusal_says_why() {
    a_server_that_takes_updates(Software::Bind).await;
}

#[tokio::test]
#[ignore = "needs knot: make test-all"]
async fn knot_takes_updates_and_every_refusal_says_why() {
    a_server_that_takes_updates(Software::Knot).await;
}

#[tokio::test]
async fn what_is_set_is_shown_without_its_secret_replaced_and_removed() {
    let url = migrated().await;
    let mut conn = connect(&url).await;
    let id = domain(&mut conn, "shop.example.com", "pending").await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let file = file.to_str().unwrap();
    let show = async |more: &[&str]| {
        let said = ctl(&url, &[&["dns", "show", "--json"], more].concat()).await.ended(0);
        assert!(!said.out.contains(SECRET), "{said:?}");
        said.json()
    };
    assert_eq!(show(&[]).await, json!({ "presenters": [], "published_by": null }));
    assert_eq!(show(&["--domain", "shop.example.com"]).await["published_by"], "manual");

    let webhook = ["webhook", "--url", "https://dns.example/api", "--secret-file", file, "--header", "X-Zone: a"];
    let of_account = [&["dns", "set", "--account", "1", "--without-trial"][..], &webhook].concat();
    let said = ctl(&url, &of_account).await.ended(0);
    assert_eq!(said.out, "account 1: webhook, untried\n");
    let rfc2136 = [
        "rfc2136",
        "--server",
        "[2001:db8::1]:53",
        "--key-name",
        "k.",
        "--algorithm",
        "hmac-sha512",
        "--secret-file",
        file,
    ];
    let of_domain =
        [&["dns", "set", "--domain", "shop.example.com", "--without-trial", "--json"][..], &rfc2136].concat();
    let said = ctl(&url, &of_domain).await.ended(0).json();
    assert_eq!((&said["presenter"], &said["is_tried"]), (&json!("rfc2136"), &json!(false)));
    let shown = show(&["--domain", &id.to_string()]).await;
    assert_eq!(shown["published_by"], "rfc2136");
    let presenters = shown["presenters"].as_array().unwrap();
    let settings = json!({ "kind": "webhook", "url": "https://dns.example/api", "headers": { "X-Zone": "a" } });
    assert_eq!((&presenters[0]["settings"], &presenters[0]["domain"]), (&settings, &Value::Null));
    assert_eq!(presenters[0]["has_secret"], true);
    assert_eq!((&presenters[1]["domain"], &presenters[1]["account_id"]), (&json!("shop.example.com"), &json!(1)));
    let stored = "SELECT string_agg(secret, ' ') FROM presenter_configs";
    assert_eq!(
        text(&mut conn, stored).await.unwrap(),
        format!("{SECRET} {SECRET}"),
        "without the line end of the file"
    );
    let table = ctl(&url, &["dns", "show"]).await.ended(0).out;
    assert!(
        table.contains("account 1") && table.contains("server=[2001:db8::1]:53") && !table.contains(SECRET),
        "{table}"
    );

    // Another in its place; the old one stays for the orders that began with it.
    ctl(&url, &["dns", "set", "--domain", "shop.example.com", "manual"]).await.ended(0);
    assert_eq!(show(&["--domain", "shop.example.com"]).await["published_by"], "manual");
    assert_eq!(
        text(&mut conn, "SELECT count(*)::text FROM presenter_configs WHERE replaced_at IS NOT NULL").await.unwrap(),
        "1"
    );
    ctl(&url, &["dns", "remove", "--domain", "shop.example.com"]).await.ended(0);
    assert_eq!(show(&["--domain", "shop.example.com"]).await["published_by"], "webhook");
    ctl(&url, &["dns", "remove", "--domain", "shop.example.com"]).await.ended(3);
    ctl(&url, &["dns", "try", "--account", "9"]).await.ended(3);
}

#[tokio::test]
async fn what_makes_no_sense_is_wrong_usage_and_what_is_not_there_is_not_found() {
    let url = migrated().await;
    domain(&mut connect(&url).await, "shop.example.com", "pending").await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "this is no base64").unwrap();
    let file = file.to_str().unwrap();
    let shop = ["dns", "set", "--domain", "shop.example.com"];
    let server = ["--server", "192.0.2.1:53", "--key-name", "k.", "--secret-file", file];
    let hook = ["webhook", "--url"];
    for (args, expected) in [
        ([&["dns", "set"][..], &["manual"]].concat(), "--account or --domain"),
        ([&["dns", "set", "--account", "1"][..], &shop[2..], &["manual"]].concat(), "cannot be used with"),
        ([&shop[..], &["rfc2136"], &server].concat(), "secret must be the TSIG key in base64"),
        ([&shop[..], &["rfc2136", "--zone", "a..b"], &server].concat(), "zone must be a DNS name"),
        ([&shop[..], &hook, &["http://dns.example"]].concat(), "url must begin with https://"),
        ([&shop[..], &hook, &["https://dns.example", "--username", "u"]].concat(), "secret can't be blank"),
        ([&shop[..], &hook, &["https://dns.example", "--header", "Authorization: x"]].concat(), "headers must be"),
        ([&["dns", "set", "--account", "1"][..], &hook, &["https://dns.example"]].concat(), "--trial-name"),
        (
            [&shop[..], &hook, &["https://dns.example", "--trial-name", "x"]].concat(),
            "--trial-name goes with --account",
        ),
    ] {
        let said = ctl(&url, &args).await.ended(2);
        assert!(said.err.contains(expected), "{args:?}: {expected:?} is not in {said:?}");
    }
    for args in [
        vec!["dns", "show", "--account", "9"],
        vec!["dns", "show", "--domain", "nobody.example.com"],
        vec!["dns", "set", "--domain", "nobody.example.com", "manual"],
        vec![
            "dns",
            "set",
            "--account",
            "1",
            "--trial-name",
            "nobody.example.com",
            "webhook",
            "--url",
            "https://dns.example",
        ],
        vec!["dns", "remove", "--account", "1"],
        vec!["dns", "try", "--domain", "shop.example.com"],
    ] {
        ctl(&url, &args).await.ended(3);
    }
}

#[tokio::test]
async fn a_webhook_is_set_once_it_has_written_and_removed_what_dns_shows() {
    let receiver = Receiver::start().unwrap();
    let stack = Stack::builder().apis(0).workers(0).start().await;
    ctl_on(&stack, &["migrate"]).await.ended(0);
    let url = stack.database_url();
    let mut conn = connect(&url).await;
    domain(&mut conn, "shop.example.com", "pending").await;
    let (resolver, root) = (stack.plan().resolver_address(), receiver.root_file());
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "p4ss\n").unwrap();
    let set = async |path: &str, allow_private: &str| {
        let hook = receiver.url(path);
        let args = ["dns", "set", "--account", "1", "--trial-name", "shop.example.com", "webhook", "--url", &hook];
        let mut command =
            command(&url, &[&args[..], &["--username", "u", "--secret-file", file.to_str().unwrap()]].concat());
        command
            .env("DNS_RESOLVERS", &resolver)
            .env("WEBHOOK_CA_FILE", &root)
            .env("WEBHOOK_ALLOW_PRIVATE", allow_private);
        super::said(command).await
    };
    // It answers 200 and writes nothing: that takes its 30 s.
    let (idle, ()) = tokio::join!(set("/idle", "true"), async {
        receiver.behave("/angry/present", Manner::Answer(500, "p4ss".to_owned()));
        receiver.behave("/away/present", Manner::Redirect(receiver.url("/good/present")));
        for (path, allow_private, expected) in [
            ("/angry", "true", "the DNS webhook answered 500"),
            ("/away", "true", "the DNS webhook answered 307"),
            ("/good", "false", "not a public address"),
        ] {
            let said = set(path, allow_private).await.ended(4);
            assert!(said.err.contains(expected) && !said.err.contains("p4ss"), "{said:?}");
        }
    });
    let idle = idle.ended(4);
    assert!(
        idle.err.contains("the value was written and is not seen at _acme-challenge.shop.example.com."),
        "{idle:?}"
    );
    assert_eq!(receiver.received("/idle/cleanup").len(), 1, "what was written is removed all the same");
    assert!(receiver.received("/good/present").is_empty());

    receiver.publish_at(stack.dns(), "/good");
    set("/good/", "true").await.ended(0);
    let (written, removed) = (receiver.received("/good/present"), receiver.received("/good/cleanup"));
    assert_eq!((written.len(), removed.len()), (1, 1));
    assert_eq!(written[0].header("authorization"), "Basic dTpwNHNz");
    assert_eq!(written[0].json(), removed[0].json());
    assert_eq!(written[0].json()["fqdn"], "_acme-challenge.shop.example.com.");
    assert_eq!(written[0].json().as_object().unwrap().len(), 2, "as lego sends it");
    let shown = ctl_on(&stack, &["dns", "show", "--json"]).await.ended(0);
    assert!(!shown.out.contains("p4ss"), "{shown:?}");
}
