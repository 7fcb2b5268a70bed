//! `POST /domains`.

use super::*;

#[test]
fn registering_answers_201_with_the_token_and_what_to_do() {
    on_stack(async |client| {
        let name = client.name();
        let body = client.register_name(&name).await.expect(201);
        assert_eq!(fields(&body), ["domain_name", "id", "instructions", "status", "verification_token"]);
        let text = |field: &str| body[field].as_str().unwrap();
        assert!(is_hex(text("id"), 32) && is_hex(text("verification_token"), 64), "{body}");
        assert_eq!((text("domain_name"), text("status")), (name.as_str(), "pending"));
        let instructions = text("instructions");
        assert!(instructions.contains(&owner(&name)) && instructions.contains(text("verification_token")), "{body}");

        let other = client.register_name(&client.name()).await.expect(201);
        assert!(other["id"] != body["id"] && other["verification_token"] != body["verification_token"]);

        let seen = client.get(text("id")).await.expect(200);
        assert_eq!(fields(&seen), ["created_at", "domain_name", "id", "instructions", "status", "updated_at"]);
        assert_eq!(at(&seen["created_at"]), at(&seen["updated_at"]));
    });
}

#[test]
fn a_name_is_echoed_as_supplied_and_asked_for_as_normalised() {
    on_stack(async |client| {
        let name = client.name();
        for (supplied, normalised) in [
            (format!("bücher.{name}"), format!("xn--bcher-kva.{name}")),
            (format!("dot.{name}."), format!("dot.{name}")),
            (format!("UPPER.{}", name.to_uppercase()), format!("upper.{name}")),
            (format!("xn--mnchen-3ya.{name}"), format!("xn--mnchen-3ya.{name}")),
        ] {
            let body = client.register_name(&supplied).await.expect(201);
            assert_eq!(body["domain_name"], supplied);
            assert!(body["instructions"].as_str().unwrap().contains(&owner(&normalised)), "{body}");
            let seen = client.get(body["id"].as_str().unwrap()).await.expect(200);
            assert_eq!(seen["domain_name"], supplied);
        }
    });
}

#[test]
fn a_name_that_is_registered_already_is_500_in_every_spelling() {
    on_stack(async |client| {
        let name = client.name();
        client.register_name(&name).await.expect(201);
        client.register_name(&format!("bücher.{name}")).await.expect(201);
        for again in [
            name.clone(),
            format!("{}.", name.to_uppercase()),
            format!("BÜCHER.{name}"),
            format!("xn--bcher-kva.{name}."),
        ] {
            let error = refused(client.register_name(&again).await, 500);
            assert!(error.contains("already registered"), "{again}: {error}");
        }
    });
}

#[test]
fn a_body_that_is_no_registration_is_400() {
    on_stack(async |client| {
        let (name, json) = (client.name(), Some("application/json"));
        let valid = json!({"domain_name": name}).to_string();
        let bad = [
            "",
            "{",
            "null",
            "42",
            "\"example.com\"",
            "[]",
            "{}",
            "domain_name=example.com",
            r#"{"domain_name": null}"#,
            r#"{"domain_name": 1}"#,
            r#"{"domain_name": ["a.example.com"]}"#,
            r#"{"domain_name": {"name": "a.example.com"}}"#,
            r#"{"domain_name": true}"#,
            r#"{"domain_name": ""}"#,
            r#"{"Domain_Name": "a.example.com"}"#,
            r#"{"domain_name": "a.example.com",}"#,
            r#"{'domain_name': 'a.example.com'}"#,
            r#"{"domain_name": "a.example.com", "domain_name": "b.example.com"}"#,
            r#"{"domain_name": "a.example.com"} {}"#,
            r#"{"domain_name": "a.example.com"}x"#,
            r#"{"domain_name": "\ud800.example.com"}"#,
            r#"{"domain_name": "a.example.com"#,
        ];
        for body in bad {
            let answer = client.register(json, body).await;
            assert_eq!(answer.status, 400, "{body}: {}", answer.body);
        }
        assert_eq!(client.register(json, "[".repeat(60_000)).await.status, 400);
        assert_eq!(client.register(json, b"{\"domain_name\": \"\xff.example.com\"}".to_vec()).await.status, 400);

        for content_type in
            [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonp"), Some("")]
        {
            let error = refused(client.register(content_type, valid.clone()).await, 400);
            assert!(error.contains("Content-Type"), "{content_type:?}: {error}");
        }
        let more = json!({"domain_name": name, "id": 7, "status": "active"}).to_string();
        let body = client.register(Some("Application/JSON; charset=utf-8"), more).await.expect(201);
        assert_eq!(body["status"], "pending", "unknown fields are ignored");
    });
}

#[test]
fn a_json_array_is_no_registration() {
    on_stack(async |client| {
        let body = json!([client.name()]).to_string();
        refused(client.register(Some("application/json"), body).await, 400);
    });
}

#[test]
fn a_name_that_no_public_ca_certifies_is_400_with_the_reason() {
    on_stack(async |client| {
        let public = client.guarded(Some(TOKEN));
        let (long_label, long_name) =
            (format!("{}.com", "a".repeat(64)), format!("{}example.com", "abcdef.".repeat(33)));
        let refusals = [
            (".", "empty"),
            ("192.0.2.1", "IP address"),
            ("192.0.2.1.", "IP address"),
            ("2001:db8::1", "IP address"),
            ("[2001:db8::1]", "IP address"),
            ("*.example.com", "wildcard"),
            ("*", "wildcard"),
            ("a.*.example.com", "wildcard"),
            ("a..example.com", "empty label"),
            (".example.com", "empty label"),
            ("example.com..", "empty label"),
            (&long_label, "63"),
            (&long_name, "237"),
            ("-a.example.com", "hyphen"),
            ("a-.example.com", "hyphen"),
            ("a_b.example.com", "letters"),
            ("a b.example.com", "letters"),
            (" example.com", "letters"),
            ("example.com ", "letters"),
            ("a\u{0}b.example.com", "letters"),
            ("a\r\n.example.com", "letters"),
            ("https://example.com", "letters"),
            ("example.com/path", "letters"),
            ("example.com:443", "letters"),
            ("me@example.com", "letters"),
            ("ab--cd.example.com", "internationalised"),
            ("xn--zzzzzzzzz.example.com", "internationalised"),
            ("a\u{202e}b.example.com", "internationalised"),
            ("localhost", "two labels"),
            ("com", "two labels"),
            ("example.123", "numeric"),
            ("co.uk", "public suffix"),
            ("shop.test", ".test"),
            ("printer.local", ".local"),
            ("api.internal", ".internal"),
            ("shop.invalid", ".invalid"),
            ("a.localhost", ".localhost"),
            ("a.example", ".example"),
            ("abc.onion", ".onion"),
            ("nas.home.arpa", ".home.arpa"),
        ];
        for (name, reason) in refusals {
            let error = refused(public.register_name(name).await, 400);
            assert!(error.starts_with("domain_name ") && error.contains(reason), "{name:?}: {error}");
        }
        let name = client.name();
        client.register_name(&name.replace(".com", ".test")).await.expect(201);
        let fill = 237 - name.len() - 1;
        let longest = format!("{}{name}", "a.".repeat(fill.div_ceil(2)));
        let longest = &longest[longest.len() - 237..].replacen('.', "a", usize::from(fill % 2 == 0));
        assert_eq!(longest.len(), 237);
        public.register_name(longest).await.expect(201);
    });
}

#[test]
fn a_body_may_have_64_kib_and_no_more() {
    on_stack(async |client| {
        let valid = json!({"domain_name": client.name()}).to_string();
        let padded = |length: usize| format!("{valid}{}", " ".repeat(length - valid.len()));
        let json = Some("application/json");
        assert!(refused(client.register(json, padded(65_537)).await, 413).contains("64 KiB"));
        refused(client.register(json, "x".repeat(300_000)).await, 413);
        let head = "POST /domains HTTP/1.1\r\nHost: api\r\nConnection: close\r\nContent-Type: application/json\r\n";
        let chunk = padded(65_537);
        let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{chunk}\r\n0\r\n\r\n", chunk.len());
        assert_eq!(client.raw(&chunked).0, 413);
        client.register(json, padded(65_536)).await.expect(201);
    });
}
