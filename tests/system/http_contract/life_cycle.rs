//! From `verify` to the certificate, and to the end of a domain.

use super::*;

#[test]
fn verifying_sees_the_token_or_says_what_it_saw_instead() {
    on_stack(async |client| {
        let name = client.name();
        let registered = client.register_name(&name).await.expect(201);
        let (id, token) = (registered["id"].as_str().unwrap(), registered["verification_token"].as_str().unwrap());
        let dns = client.stack.dns();

        let error = refused(client.post(id, "verify").await, 400);
        assert!(error.contains("no TXT record") && error.contains(&owner(&name)) && error.contains(token), "{error}");
        dns.set_txt(&owner(&name), "a value of somebody else's").await.unwrap();
        dns.set_txt(&owner(&name), &token.to_uppercase()).await.unwrap();
        let error = refused(client.post(id, "verify").await, 400);
        assert!(error.contains("a value of somebody else's"), "{error}");
        dns.set_servfail(&owner(&name)).await.unwrap();
        let error = refused(client.post(id, "verify").await, 424);
        assert!(error.contains(&owner(&name)) && error.contains("SERVFAIL"), "{error}");
        dns.clear_servfail(&owner(&name)).await.unwrap();
        let unchanged = client.get(id).await.expect(200);
        assert_eq!(fields(&unchanged), ["created_at", "domain_name", "id", "instructions", "status", "updated_at"]);
        assert_eq!(unchanged["status"], "pending");

        dns.set_txt(&owner(&name), token).await.unwrap();
        let verified = client.post(id, "verify").await.expect(200);
        assert_eq!(fields(&verified), ["created_at", "domain_name", "id", "status", "updated_at", "verified_at"]);
        assert_eq!((&verified["status"], &verified["id"]), (&json!("verified"), &json!(id)));
        assert!(at(&verified["verified_at"]) >= at(&verified["created_at"]));
        assert_eq!(client.get(id).await.expect(200), verified);
    });
}

#[test]
fn verifying_follows_a_cname_and_asks_nothing_once_verified() {
    on_stack(async |client| {
        let (name, target) = (client.name(), client.name());
        let registered = client.register_name(&name).await.expect(201);
        let id = registered["id"].as_str().unwrap();
        let dns = client.stack.dns();
        dns.set_cname(&owner(&name), &owner(&target)).await.unwrap();
        dns.set_txt(&owner(&target), registered["verification_token"].as_str().unwrap()).await.unwrap();
        let verified = client.post(id, "verify").await.expect(200);

        let asked = dns.questions_about(&owner(&name)).await.unwrap();
        assert!(asked > 0);
        dns.clear_cname(&owner(&name)).await.unwrap();
        assert_eq!(client.post(id, "verify").await.expect(200), verified);
        assert_eq!(dns.questions_about(&owner(&name)).await.unwrap(), asked, "a verified domain was looked up");
    });
}

#[test]
fn issuing_answers_202_with_the_value_and_get_shows_what_is_awaited() {
    on_stack(async |client| {
        let domain = client.in_status("verified").await;
        let body = client.post(&domain.id, "issue-certificate").await.expect(202);
        assert_eq!(fields(&body), ["challenge_domain", "expected_txt_value", "instructions", "order_id", "status"]);
        let text = |field: &str| body[field].as_str().unwrap();
        assert!(is_hex(text("order_id"), 32), "{body}");
        assert_eq!(
            (text("status"), text("challenge_domain")),
            ("certificate_pending", owner(&domain.domain_name).as_str())
        );
        let value = text("expected_txt_value");
        assert!(value.len() == 43 && value.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)), "{body}");
        assert!(
            text("instructions").contains(value) && text("instructions").contains(text("challenge_domain")),
            "{body}"
        );

        let looked = async || {
            let seen = client.get(&domain.id).await.expect(200);
            (seen["last_check"]["result"] == "other_value").then_some(seen)
        };
        let seen = client.stack.wait_until("a look-up saw the old token", SOON, looked).await;
        let expected = [
            "challenge_domain",
            "created_at",
            "deadline_at",
            "domain_name",
            "expected_txt_value",
            "id",
            "instructions",
            "last_check",
            "next_check_at",
            "order_id",
            "status",
            "updated_at",
            "verified_at",
        ];
        assert_eq!(fields(&seen), expected);
        for same in ["order_id", "status", "challenge_domain", "expected_txt_value"] {
            assert_eq!(seen[same], body[same], "{same}");
        }
        assert_eq!(at(&seen["deadline_at"]) - at(&seen["updated_at"]), time::Duration::minutes(10));
        at(&seen["next_check_at"]);
        let check = &seen["last_check"];
        assert_eq!(fields(check), ["at", "detail", "result", "values"]);
        at(&check["at"]);
        assert_eq!(check["values"].as_array().unwrap().len(), 1, "the ownership token is still there: {check}");

        let promised = client.post(&domain.id, "check").await.expect(202);
        assert_eq!(fields(&promised), ["next_check_at", "status"]);
        assert_eq!(promised["status"], "certificate_pending");
        at(&promised["next_check_at"]);
    });
}

#[test]
fn a_body_of_an_issuance_is_ignored_whatever_it_is() {
    on_stack(async |client| {
        let bodies = [
            (None, "garbage".to_owned()),
            (Some("application/json"), "{".to_owned()),
            (Some("text/plain"), "x".repeat(100_000)),
        ];
        for (content_type, body) in bodies {
            let domain = client.in_status("verified").await;
            let mut request =
                client.api.request(Method::POST, &format!("/domains/{}/issue-certificate", domain.id)).body(body);
            if let Some(content_type) = content_type {
                request = request.header(CONTENT_TYPE, content_type);
            }
            client.answer(request).await.expect(202);
        }
    });
}

#[test]
fn an_order_that_nobody_places_is_500_and_the_call_can_be_repeated() {
    on_stack(async |client| {
        let domain = client.in_status("verified").await;
        // The job of this one request is not due while its caller waits.
        let hide = "CREATE FUNCTION hide() RETURNS trigger LANGUAGE plpgsql AS
                        $$ BEGIN NEW.due_at := now() + interval '1 hour'; RETURN NEW; END $$;
                    CREATE TRIGGER hide BEFORE INSERT ON jobs FOR EACH ROW
                        WHEN (NEW.trace_context ->> 'request_id' = 'hidden-from-workers') EXECUTE FUNCTION hide()";
        sqlx::raw_sql(hide).execute(client.stack.pool()).await.unwrap();
        let impatient = client.guarded(Some(TOKEN));
        let issue = impatient.api.request(Method::POST, &format!("/domains/{}/issue-certificate", domain.id));
        let answer = impatient.answer(issue.header("X-Request-Id", "hidden-from-workers")).await;
        assert_eq!(refused(answer, 500), "the order could not be placed: no worker took it");
        assert_eq!(client.get(&domain.id).await.expect(200)["status"], "verified");
        client.post(&domain.id, "issue-certificate").await.expect(202);
    });
}

#[test]
fn each_status_allows_its_calls_and_a_refusal_names_it() {
    on_stack(async |client| {
        // Status of the domain; what issue, check, retry and certificate answer then.
        for (status, issue, check, retry, certificate) in [
            ("pending", 400, 400, 400, 404),
            ("certificate_pending", 400, 202, 400, 404),
            ("active", 400, 400, 400, 200),
            ("failed", 400, 400, 202, 404),
            ("verified", 202, 400, 400, 404),
        ] {
            let domain = client.in_status(status).await;
            let path = format!("/domains/{}/certificate", domain.id);
            assert_eq!(client.ask(Method::GET, &path).await.status, certificate, "certificate of {status}");
            assert_eq!(client.post(&domain.id, "check").await.status, check, "check of {status}");
            // The one that is allowed comes last.
            let mut calls = [("retry", retry), ("issue-certificate", issue)];
            calls.sort_by_key(|(_, expected)| *expected != 400);
            for (call, expected) in calls {
                if (status, call) == ("failed", "retry") {
                    client.retryable(&domain.id).await;
                }
                let answer = client.post(&domain.id, call).await;
                assert_eq!(answer.status, expected, "{call} from {status}: {}", answer.body);
                if expected == 400 {
                    assert!(answer.error().unwrap().ends_with(&format!("status is {status}")), "{}", answer.body);
                    assert_eq!(client.get(&domain.id).await.expect(200)["status"], status);
                }
            }
        }
        let (domain, _) = client.pending().await;
        let error = refused(client.post(&domain.id, "verify").await, 400);
        assert!(error.contains("certificate_pending"), "{error}");
    });
}

#[test]
fn a_failed_domain_says_why_and_can_be_verified_again() {
    on_stack(async |client| {
        let domain = client.in_status("failed").await;
        let seen = client.retryable(&domain.id).await;
        let expected = ["created_at", "domain_name", "failure", "id", "status", "updated_at", "verified_at"];
        assert_eq!(fields(&seen), expected);
        let failure = &seen["failure"];
        assert_eq!(fields(failure), ["at", "code", "detail", "findings", "retryable"]);
        for finding in failure["findings"].as_array().unwrap() {
            assert!(finding["code"].is_string() && finding["detail"].is_string(), "{finding}");
        }
        assert_eq!(failure["code"], "record_not_seen");
        assert!(failure["detail"].as_str().unwrap().contains(&owner(&domain.domain_name)), "{failure}");
        assert!(at(&failure["at"]) >= at(&seen["verified_at"]));

        // The ownership token is still in DNS.
        let verified = client.post(&domain.id, "verify").await.expect(200);
        assert_eq!(fields(&verified), ["created_at", "domain_name", "id", "status", "updated_at", "verified_at"]);
        client.post(&domain.id, "issue-certificate").await.expect(202);
    });
}

#[test]
fn a_certificate_is_described_and_never_shown() {
    on_stack(async |client| {
        let domain = client.in_status("active").await;
        let path = format!("/domains/{}/certificate", domain.id);
        let shown = client.ask(Method::GET, &path).await.expect(200);
        let expected = [
            "created_at",
            "domain_id",
            "expires_at",
            "fingerprint_sha256",
            "id",
            "issued_at",
            "issuer",
            "not_after",
            "not_before",
            "serial_number",
        ];
        assert_eq!(fields(&shown), expected);
        assert!(is_hex(shown["id"].as_str().unwrap(), 32) && shown["id"] != domain.id.as_str());
        assert_eq!(shown["domain_id"], domain.id);
        assert_eq!(at(&shown["expires_at"]) - at(&shown["issued_at"]), time::Duration::days(90));
        assert!(at(&shown["created_at"]) >= at(&shown["issued_at"]), "{shown}");

        let pem: String = sqlx::query_scalar("SELECT certificate_pem FROM certificates WHERE public_id = $1")
            .bind(shown["id"].as_str().unwrap())
            .fetch_one(client.stack.pool())
            .await
            .unwrap();
        let leaf = Description::of_leaf(&pem).unwrap();
        assert_eq!(shown["fingerprint_sha256"], leaf.fingerprint_sha256);
        assert_eq!(
            shown["serial_number"].as_str().unwrap().trim_start_matches('0'),
            leaf.serial_number.trim_start_matches('0')
        );
        assert_eq!((&shown["not_before"], &shown["not_after"]), (&json!(leaf.not_before), &json!(leaf.not_after)));
        assert!(leaf.issuer.contains(shown["issuer"].as_str().unwrap()), "{} {shown}", leaf.issuer);

        let seen = client.get(&domain.id).await.expect(200);
        let expected = ["certificate", "created_at", "domain_name", "id", "status", "updated_at", "verified_at"];
        assert_eq!(fields(&seen), expected);
        // The customer publishes the records of its renewal: that takes a person.
        let not_after = &shown["not_after"];
        let note = json!({"serial_number": shown["serial_number"], "not_after": not_after, "act_by": not_after});
        assert_eq!(seen["certificate"], note);

        // Verified again, it waits for the next issuance; the certificate stays.
        let verified = client.post(&domain.id, "verify").await.expect(200);
        assert_eq!((&verified["status"], &verified["certificate"]), (&json!("verified"), &note));
        refused(client.ask(Method::GET, &path).await, 404);
    });
}

#[test]
fn a_deleted_domain_is_unknown_everywhere_and_its_name_is_free() {
    on_stack(async |client| {
        for status in ["pending", "verified", "certificate_pending", "active", "failed"] {
            let domain = client.in_status(status).await;
            let path = format!("/domains/{}", domain.id);
            client.ask(Method::DELETE, &path).await.expect(204);
            for (method, verb) in [
                (Method::GET, ""),
                (Method::DELETE, ""),
                (Method::GET, "/certificate"),
                (Method::POST, "/verify"),
                (Method::POST, "/issue-certificate"),
                (Method::POST, "/check"),
                (Method::POST, "/retry"),
            ] {
                let error = refused(client.ask(method.clone(), &format!("{path}{verb}")).await, 404);
                assert_eq!(error, "domain not found", "{method} {verb} after {status}");
            }
            let again = client.register_name(&domain.domain_name).await.expect(201);
            assert_ne!(again["id"], domain.id);
            assert_eq!(client.get(again["id"].as_str().unwrap()).await.expect(200)["status"], "pending");
        }
    });
}
