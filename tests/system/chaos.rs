//! A small run of `make chaos`, and that its verdict finds what somebody has damaged.

use std::time::Duration;

use countersign_tests::aloud;
use countersign_tests::chaos::customers::{Promise, Story};
use countersign_tests::chaos::evidence::gather;
use countersign_tests::chaos::plan::Record;
use countersign_tests::chaos::verdict::{Verdict, judge};
use countersign_tests::chaos::{Options, run};
use countersign_tests::stack::Stack;

use crate::facts::{SOON, all_become_active, names, pending_domains};

async fn survive(options: &Options) {
    let report = run(options).await.unwrap();
    assert!(report.verdict.is_clean(), "\n{report}");
    assert!(report.promised >= options.orders, "every customer has an order\n{report}");
    assert_eq!(report.orders("issued") + report.orders("failed"), report.promised, "\n{report}");
    assert!(report.orders("failed") >= 2, "one value was wrong, and one was never published\n{report}");
    assert_eq!(report.at_the_ca, report.orders("issued"), "\n{report}");
    for role in ["worker", "api", "postgres"] {
        assert!(report.blows.keys().any(|(of, _)| of == role), "no blow to {role}\n{report}");
    }
    aloud::say(&format!("\n{report}"));
}

#[tokio::test]
async fn a_small_storm_loses_no_order_and_doubles_none() {
    survive(&Options::small(15, 20_261_121)).await;
}

/// A minute and a half.
#[tokio::test]
#[ignore = "three storms: make test-all"]
async fn three_storms_lose_no_order_and_double_none() {
    for seed in [1, 2, 3] {
        survive(&Options {
            arrivals_for: Duration::from_secs(12),
            storm_for: Duration::from_secs(24),
            ..Options::small(60, seed)
        })
        .await;
    }
}

#[tokio::test]
async fn the_verdict_finds_a_lost_order_a_second_certificate_and_a_wrong_status() {
    let stack = Stack::builder().leftovers_allowed().start().await;
    let domains = pending_domains(&stack, &names(3)).await;
    let mut stories = Vec::new();
    for (domain, order) in &domains {
        stack.publish_value(order).await;
        let promise = Promise { order_id: order.order_id.clone(), txt_value: order.expected_txt_value.clone() };
        stories.push(Story::new(&domain.domain_name, Record::Right { after: Duration::ZERO }, [promise]));
    }
    all_become_active(&stack, &domains).await;
    let verdict = async || judge(&gather(&stack, stories.clone(), Vec::new()).await.unwrap());
    let damage = async |statement: &'static str| {
        let damaged = sqlx::raw_sql(statement).execute(stack.pool()).await.unwrap();
        assert!(damaged.rows_affected() > 0, "{statement}");
    };
    let mentions = |sentences: &[String], what: &str, name: &str| {
        assert!(sentences.iter().any(|sentence| sentence.contains(what) && sentence.contains(name)), "{sentences:?}");
    };
    let is_clean = async || (verdict().await == Verdict::default()).then_some(());
    stack.wait_until("the verdict is clean", SOON, is_clean).await;
    // Whatever is damaged from here on stays so.
    stack.kill("worker-1");

    damage(
        "INSERT INTO certificates (public_id, domain_id, origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at,
                                   not_before, not_after, serial_number, fingerprint_sha256, issuer)
         SELECT md5(c.public_id), domain_id, c.origin, state, algorithm, csr, private_key_pem, certificate_pem, issued_at, not_before,
                not_after, 'abc', repeat('ab', 32), issuer
           FROM certificates c JOIN domains d ON d.id = c.domain_id WHERE d.name = 'shop-1.example.com'",
    )
    .await;
    let found = verdict().await;
    assert!(found.lost.is_empty(), "{found}");
    mentions(&found.duplicated, "2 certificates are stored", "shop-1.example.com");
    mentions(&found.inconsistent, "abc", "at the CA");

    damage("DELETE FROM orders WHERE domain_id = (SELECT id FROM domains WHERE name = 'shop-2.example.com')").await;
    let found = verdict().await;
    mentions(&found.lost, &domains[1].1.order_id, "not stored");
    mentions(&found.inconsistent, "shop-2.example.com", "is active");

    damage("UPDATE domains SET status = 'verified' WHERE name = 'shop-3.example.com'").await;
    mentions(&verdict().await.inconsistent, "shop-3.example.com", "is verified");

    damage("UPDATE orders SET state = 'finalizing', ended_at = NULL, cleaned_up_at = NULL WHERE state = 'issued'")
        .await;
    let found = verdict().await;
    mentions(&found.lost, &domains[2].1.order_id, "never ended");
}
