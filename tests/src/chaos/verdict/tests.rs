//! Every check bites: a good end with one thing wrong is reported, under the right head, and nothing else is.

use std::time::Duration;

use super::*;
use crate::chaos::customers::Promise;

const SOON: Duration = Duration::from_secs(1);

fn order(name: &str, state: &str) -> OrderRow {
    OrderRow {
        public_id: format!("order-of-{name}"),
        name: name.to_owned(),
        state: state.to_owned(),
        code: (state == "failed").then(|| "record_not_seen".to_owned()),
        placed: true,
        cleaned_up: true,
        deadline_at: Some(100.0),
        txt_value: Some(format!("value-of-{name}")),
    }
}

fn domain(name: &str, status: &str) -> DomainRow {
    DomainRow {
        public_id: format!("domain-{name}"),
        name: name.to_owned(),
        status: status.to_owned(),
        shown: Some(status.to_owned()),
    }
}

fn story(name: &str, record: Record) -> Story {
    let promise = Promise { order_id: format!("order-of-{name}"), txt_value: format!("value-of-{name}") };
    Story { published_at: Some(50.0), ..Story::new(name, record, [promise]) }
}

/// One domain that got its certificate, after a first order that was never placed, and one whose value was wrong.
fn good() -> Evidence {
    let cancelled = OrderRow {
        public_id: "cancelled".to_owned(),
        code: Some("not_placed_in_time".to_owned()),
        placed: false,
        deadline_at: None,
        txt_value: None,
        ..order("good", "cancelled")
    };
    Evidence {
        stories: vec![story("good", Record::Right { after: SOON }), story("bad", Record::Wrong { after: SOON })],
        orders: vec![cancelled, order("good", "issued"), order("bad", "failed")],
        domains: vec![domain("good", "active"), domain("bad", "failed")],
        certificates: vec![CertificateRow { name: "good".to_owned(), serial: "1a".to_owned(), orders: 1 }],
        at_the_ca: vec![CaCertificate { name: "good".to_owned(), serial: "1a".to_owned() }],
        ..Evidence::default()
    }
}

/// What is reported after `damage`.
fn after(damage: impl FnOnce(&mut Evidence)) -> Verdict {
    let mut evidence = good();
    damage(&mut evidence);
    judge(&evidence)
}

#[track_caller]
fn reports_one(sentences: &[String], what: &str) {
    assert!(sentences.len() == 1 && sentences[0].contains(what), "{what:?} is not all of {sentences:?}");
}

/// Reported as inconsistent, once, and as nothing else.
#[track_caller]
fn is_inconsistent(what: &str, damage: impl FnOnce(&mut Evidence)) {
    let verdict = after(damage);
    reports_one(&verdict.inconsistent, what);
    assert!(verdict.lost.is_empty() && verdict.duplicated.is_empty(), "{verdict}");
}

#[test]
fn a_good_end_is_clean() {
    assert_eq!(judge(&good()), Verdict::default());
}

#[test]
fn a_promised_order_that_is_not_stored_is_lost() {
    let verdict = after(|evidence| evidence.stories[1].promises[0].order_id = "gone".to_owned());
    reports_one(&verdict.lost, "order gone of bad was promised and is not stored");
}

#[test]
fn an_order_that_never_ends_is_lost() {
    let verdict = after(|evidence| {
        evidence.orders[2] = OrderRow { cleaned_up: false, ..order("bad", "presented") };
        evidence.domains[1] = domain("bad", "certificate_pending");
    });
    reports_one(&verdict.lost, "order-of-bad for bad is presented and never ended");
    assert!(verdict.duplicated.is_empty() && verdict.inconsistent.is_empty(), "{verdict}");
}

#[test]
fn a_customer_without_an_order_is_lost() {
    let verdict = after(|evidence| {
        evidence.stories.push(Story { gave_up: Some("503".to_owned()), ..Story::new("nobody", Record::Never, []) });
    });
    reports_one(&verdict.lost, "nobody never got an order; the last answer was 503");
}

#[test]
fn two_promises_of_different_orders_are_a_duplicate() {
    let verdict = after(|evidence| {
        let promise = Promise { order_id: "second".to_owned(), txt_value: "value-of-bad".to_owned() };
        evidence.orders.push(OrderRow { public_id: "second".to_owned(), ..order("bad", "failed") });
        evidence.stories[1].promises.push(promise);
    });
    reports_one(&verdict.duplicated, "bad was promised the orders order-of-bad, second");
    let verdict = after(|evidence| {
        let again = evidence.stories[1].promises[0].clone();
        evidence.stories[1].promises.push(again);
    });
    assert!(verdict.is_clean(), "the same order twice is one order: {verdict}");
}

#[test]
fn two_open_orders_of_a_domain_are_a_duplicate() {
    let verdict = after(|evidence| {
        evidence.orders[2] = order("bad", "presented");
        evidence.orders.push(OrderRow { public_id: "second".to_owned(), ..order("bad", "accepted") });
        evidence.domains[1] = domain("bad", "certificate_pending");
    });
    reports_one(&verdict.duplicated, "bad has the open orders order-of-bad, second");
    assert_eq!(verdict.lost.len(), 2, "{verdict}");
}

#[test]
fn a_second_certificate_is_a_duplicate_wherever_it_is() {
    let second = |orders| CertificateRow { name: "good".to_owned(), serial: "2b".to_owned(), orders };
    let verdict = after(|evidence| evidence.certificates.push(second(1)));
    reports_one(&verdict.duplicated, "2 certificates are stored for good");
    assert_eq!(verdict.inconsistent.len(), 2, "neither an order nor the CA knows it: {verdict}");

    let verdict = after(|evidence| evidence.certificates[0].orders = 0);
    reports_one(&verdict.duplicated, "certificate 1a of good belongs to 0 issued orders");

    let verdict = after(|evidence| {
        evidence.at_the_ca.push(CaCertificate { name: "good".to_owned(), serial: "2b".to_owned() });
    });
    reports_one(&verdict.duplicated, "2 certificates are at the CA for good");
    reports_one(&verdict.inconsistent, "good has [\"1a\"] stored, and [\"1a\", \"2b\"] at the CA");

    let verdict = after(|evidence| {
        evidence.orders.push(OrderRow { public_id: "second".to_owned(), ..order("good", "issued") });
    });
    reports_one(&verdict.duplicated, "2 orders are issued for good");
}

#[test]
fn certificates_that_are_not_the_same_here_and_at_the_ca_are_inconsistent() {
    is_inconsistent("good has [\"1a\"] stored, and []", |evidence| evidence.at_the_ca.clear());
    is_inconsistent("stored, and [\"2b\"] at the CA", |evidence| evidence.at_the_ca[0].serial = "2b".to_owned());
    is_inconsistent("bad has [] stored, and [\"3c\"]", |evidence| {
        evidence.at_the_ca.push(CaCertificate { name: "bad".to_owned(), serial: "3c".to_owned() });
    });
}

#[test]
fn an_issued_order_without_a_stored_certificate_is_inconsistent() {
    let verdict = after(|evidence| evidence.certificates.clear());
    assert!(verdict.inconsistent.contains(&"good has 1 issued orders and 0 certificates".to_owned()), "{verdict}");
}

#[test]
fn a_status_that_is_not_the_newest_placed_orders_is_inconsistent() {
    is_inconsistent("good is failed, but order order-of-good for good is issued", |evidence| {
        evidence.domains[0] = domain("good", "failed");
    });
    is_inconsistent("good is active, but the API shows failed", |evidence| {
        evidence.domains[0].shown = Some("failed".to_owned());
    });
    is_inconsistent("new is active, but it has no order", |evidence| evidence.domains.push(domain("new", "active")));
    let verdict = after(|evidence| evidence.domains.push(domain("new", "verified")));
    assert!(verdict.is_clean(), "{verdict}");
}

#[test]
fn a_record_published_in_time_makes_every_other_end_inconsistent() {
    let failed = |evidence: &mut Evidence, code: &str| {
        evidence.orders[1] = OrderRow { code: Some(code.to_owned()), ..order("good", "failed") };
        evidence.domains[0] = domain("good", "failed");
        evidence.certificates.clear();
        evidence.at_the_ca.clear();
    };
    is_inconsistent("(record_not_seen), though its record was published in time", |evidence| {
        failed(evidence, "record_not_seen");
    });
    is_inconsistent("(internal), though its record was published in time", |evidence| failed(evidence, "internal"));
    is_inconsistent("(internal), unexpectedly", |evidence| {
        failed(evidence, "internal");
        evidence.stories[0].published_at = Some(100.5);
    });
    let verdict = after(|evidence| {
        failed(evidence, "record_not_seen");
        evidence.stories[0].published_at = Some(100.5);
    });
    assert!(verdict.is_clean(), "it was published after the deadline: {verdict}");
}

#[test]
fn a_certificate_or_another_reason_without_the_record_is_inconsistent() {
    for record in [Record::Never, Record::Wrong { after: SOON }] {
        is_inconsistent("is issued, though its value was never published", |evidence| {
            evidence.stories[0].record = record;
        });
        is_inconsistent("(internal), though its value was never published", |evidence| {
            evidence.stories[1].record = record;
            evidence.orders[2].code = Some("internal".to_owned());
        });
    }
}

#[test]
fn a_value_other_than_the_promised_one_is_inconsistent() {
    is_inconsistent("order-of-good for good is issued, but the customer was told another value", |evidence| {
        evidence.orders[1].txt_value = Some("another".to_owned());
    });
}

#[test]
fn what_is_left_over_or_unexplained_is_inconsistent() {
    is_inconsistent("was never cleaned up", |evidence| evidence.orders[1].cleaned_up = false);
    is_inconsistent("job 7 is left over", |evidence| evidence.jobs_left.push("job 7".to_owned()));
    is_inconsistent("api-1 ended by itself", |evidence| evidence.unexplained.push("api-1 ended by itself".to_owned()));
}
