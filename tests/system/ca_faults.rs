//! What CAs are known to do to their clients: answers without end, orders that never finish or come twice, chains that do not fit, limits.
//! No order is lost or blamed for it, nobody asks more often than the schedule says, and everybody keeps to a limit.

use std::time::{Duration, Instant};

use countersign_shared::model::problem::ProblemCode;
use countersign_tests::acme_front::{Arrival, Fault, Kind, Limits, Moment, OrderReuse, PROBLEMS, RetryAfter, Rule};
use countersign_tests::api_client::{Domain, Order};
use countersign_tests::stack::Stack;

use crate::facts::{
    SOON, all_become_active, has_one_certificate_each, is_cleaned_up, names, pending_domains, verified_domains,
    wait_until_order,
};
use crate::failures::{a_retry_leads_to_a_certificate, fails, fronted, is_refused, publish_alone, refusal};

/// When requests of a kind came that were about an order of ours.
async fn asked_about(stack: &Stack, order: &Order, kind: Kind) -> Vec<Instant> {
    let query = "SELECT acme_url FROM orders WHERE public_id = $1";
    let url: String = sqlx::query_scalar(query).bind(&order.order_id).fetch_one(stack.pool()).await.unwrap();
    let is_about = |arrival: &Arrival| arrival.kind == kind && arrival.order.as_ref() == Some(&url);
    stack.front().arrivals().iter().filter(|arrival| is_about(arrival)).map(|arrival| arrival.at).collect()
}

/// Waits until the CA was asked about each order so often.
async fn all_asked(stack: &Stack, domains: &[(Domain, Order)], kind: Kind, times: usize) {
    for (_, order) in domains {
        let asked = async || (asked_about(stack, order, kind).await.len() >= times).then_some(());
        stack.wait_until(&format!("{kind:?} came {times} times"), 2 * SOON, asked).await;
    }
}

/// No order had a certificate made twice.
fn no_order_was_finalized_twice(stack: &Stack) {
    for (url, order) in stack.front().orders() {
        assert!(order.finalizes_accepted <= 1, "{url}: {order:?}");
        assert!(order.csrs_sha256.iter().all(|csr| *csr == order.csrs_sha256[0]), "{url} got another CSR: {order:?}");
    }
}

#[tokio::test]
async fn a_gigabyte_for_an_answer_fails_no_order_and_is_not_read() {
    let stack = fronted().setting("PLACE_WAIT", "25s").start().await;
    let before = stack.peak_memory("worker-1");
    let huge = |kinds: &[Kind]| {
        kinds.iter().for_each(|&kind| stack.front().next(1, kind, Fault::huge_answer(1 << 10)));
    };
    huge(&[Kind::Directory, Kind::NewNonce, Kind::NewAccount]);
    let mut domains = vec![stack.pending_domain("first.example.com").await];
    huge(&[Kind::NewOrder, Kind::Authorization]);
    domains.push(stack.pending_domain("second.example.com").await);
    huge(&[Kind::Challenge, Kind::Order, Kind::Finalize, Kind::Certificate]);
    for (_, order) in &domains {
        stack.publish_value(order).await;
    }
    all_become_active(&stack, &domains).await;
    assert!(stack.front().unused().is_empty(), "never asked for: {:?}", stack.front().unused());
    // An answer may have 1 MiB.
    let grown = stack.peak_memory("worker-1").saturating_sub(before);
    assert!(grown < 64 << 20, "the worker has grown by {grown} bytes");
    has_one_certificate_each(&stack, &domains).await;
}

#[tokio::test]
async fn an_order_that_stays_processing_is_asked_about_ever_more_rarely_and_then_issued() {
    let stack = fronted().workers(2).start().await;
    let domains = pending_domains(&stack, &names(2)).await;
    let kinds = [Kind::Order, Kind::Finalize];
    kinds.into_iter().for_each(|kind| stack.front().always(kind, Fault::stuck_in_processing()));
    for (_, order) in &domains {
        stack.publish_value(order).await;
    }
    all_asked(&stack, &domains, Kind::Order, 16).await;
    stack.front().heal();
    all_become_active(&stack, &domains).await;
    for (_, order) in &domains {
        let sent = asked_about(&stack, order, Kind::Finalize).await[0];
        let asked = asked_about(&stack, order, Kind::Order).await;
        for pair in asked.windows(2).filter(|pair| pair[0] > sent + Duration::from_secs(1)) {
            // A quarter of the time since the CSR was taken.
            let (waited, pause) = (pair[0] - sent, pair[1] - pair[0]);
            assert!(pause >= waited / 12, "asked again after {pause:?} when {waited:?} had passed");
        }
    }
    no_order_was_finalized_twice(&stack);
    has_one_certificate_each(&stack, &domains).await;
}

#[tokio::test]
async fn a_ca_that_hands_out_the_same_order_again_makes_one_order_and_no_foreign_proof() {
    let stack = fronted().setting("POLL_TIMEOUT", "3s").start().await;
    stack.front().habit(OrderReuse::default());
    // The answer is lost; the order that the CA made for it is the one that is used.
    stack.front().next(1, Kind::NewOrder, Fault::lose_answer());
    let (domain, order) = stack.pending_domain("shop.example.com").await;
    assert_eq!((stack.front().arrived(Kind::NewOrder), stack.ca().orders_placed().unwrap()), (2, 1));

    // The same domain again: the same order, and so the same value.
    stack.becomes(&domain.id, "failed", SOON).await;
    is_cleaned_up(&stack, &domain.id).await;
    stack.api().verify(&domain.id).await;
    let again = stack.api().issue(&domain.id).await;
    assert_ne!(again.order_id, order.order_id);
    assert_eq!(again.expected_txt_value, order.expected_txt_value);
    assert_eq!(stack.ca().orders_placed().unwrap(), 1);

    // Another registration of the name: nothing of the former one counts, though the CA offers it and clean-up never came to it.
    stack.kill("worker-1");
    stack.api().delete(&domain.id).await;
    for statement in ["DELETE FROM jobs WHERE kind = 'poll-challenge'", "UPDATE orders SET cleaned_up_at = now()"] {
        sqlx::query(statement).execute(stack.pool()).await.unwrap();
    }
    stack.restart("worker-1").await;
    stack.dns().clear_txt(&order.challenge_domain).await.unwrap();
    let (stranger, new) = stack.pending_domain("shop.example.com").await;
    assert_ne!(new.expected_txt_value, order.expected_txt_value);
    assert_eq!(stack.ca().orders_placed().unwrap(), 2);
    publish_alone(&stack, &new).await;
    stack.becomes_active(&stranger.id).await;
    no_order_was_finalized_twice(&stack);
    has_one_certificate_each(&stack, &[(stranger, new)]).await;
}

#[tokio::test]
async fn a_chain_that_does_not_fit_is_never_stored_and_a_cut_one_is_fetched_again() {
    let stack = fronted().start().await;
    let (domain, order) = stack.pending_domain("foreign.example.com").await;
    stack.front().next(1, Kind::Certificate, Fault::chain_for_another_key());
    stack.publish_value(&order).await;
    fails(&stack, &domain, ProblemCode::ChainRefused).await;
    assert!(!a_retry_leads_to_a_certificate(&stack, &domain, &order).await, "the order of a chain that was refused");
    let cut = stack.pending_domain("cut.example.com").await;
    stack.front().next(3, Kind::Certificate, Fault::cut_answer());
    stack.publish_value(&cut.1).await;
    stack.becomes_active(&cut.0.id).await;
    assert!(stack.front().unused().is_empty());
    no_order_was_finalized_twice(&stack);
}

#[tokio::test]
async fn an_answer_that_is_lost_long_after_the_ca_has_acted_costs_no_second_certificate() {
    let stack = fronted().start().await;
    let domains = pending_domains(&stack, &names(1)).await;
    stack.front().hold_answers(Kind::Finalize);
    stack.publish_value(&domains[0].1).await;
    let held = async || (stack.front().held(Kind::Finalize, Moment::After) == 1).then_some(());
    stack.wait_until("the CA has the CSR", SOON, held).await;
    stack.front().lose_held();
    stack.front().release();
    all_become_active(&stack, &domains).await;
    no_order_was_finalized_twice(&stack);
    has_one_certificate_each(&stack, &domains).await;
}

/// More than one call of ours bears: each run gives up on it, and the order does not.
#[tokio::test]
async fn a_long_storm_of_bad_nonces_only_delays() {
    let stack = fronted().workers(2).start().await;
    let domains = pending_domains(&stack, &names(2)).await;
    for kind in [Kind::Challenge, Kind::Order, Kind::Finalize, Kind::Certificate] {
        stack.front().next(25, kind, Fault::bad_nonce());
    }
    for (_, order) in &domains {
        stack.publish_value(order).await;
    }
    all_become_active(&stack, &domains).await;
    assert!(stack.front().unused().is_empty(), "never asked for: {:?}", stack.front().unused());
    for worker in ["worker-1", "worker-2"] {
        assert!(!stack.log(worker).contains(r#""counted":true"#), "an order was blamed for the CA's fault");
    }
    no_order_was_finalized_twice(&stack);
    has_one_certificate_each(&stack, &domains).await;
}

#[tokio::test]
async fn an_authorization_that_became_invalid_with_each_problem_of_rfc_8555() {
    let stack = fronted().workers(2).start().await;
    let names = PROBLEMS.map(|problem| format!("{}.example.com", problem.to_lowercase()));
    let domains = pending_domains(&stack, &names).await;
    stack.front().always(Kind::Order, Fault::invalid_order());
    for (problem, (domain, order)) in PROBLEMS.into_iter().zip(&domains) {
        stack.front().next(1, Kind::Authorization, Fault::invalid_authorization(problem, "not this one"));
        stack.publish_value(order).await;
        let code = match problem {
            "caa" => ProblemCode::CaaForbids,
            "rejectedIdentifier" | "unsupportedIdentifier" => ProblemCode::NameRefused,
            "badCSR" => ProblemCode::CaRefused,
            _ => ProblemCode::ChallengeRefused,
        };
        let (_, acme) = fails(&stack, domain, code).await;
        assert_eq!(acme["type"], format!("urn:ietf:params:acme:error:{problem}"));
    }
    // Several in one: the gravest decides, and all are kept.
    let several: [(&str, &[&str], ProblemCode); 3] = [
        ("several-caa", &["dns", "caa"], ProblemCode::CaaForbids),
        ("several-rejected", &["rejectedIdentifier", "unauthorized"], ProblemCode::NameRefused),
        ("several-dns", &["dns"], ProblemCode::ChallengeRefused),
    ];
    for (label, parts, code) in several {
        let (domain, order) = stack.pending_domain(&format!("{label}.example.com")).await;
        let fault = Fault::invalid_authorization_of_several(parts, "not this one");
        stack.front().next(1, Kind::Authorization, fault);
        stack.publish_value(&order).await;
        let (_, acme) = fails(&stack, &domain, code).await;
        assert_eq!(acme["subproblems"].as_array().map(Vec::len), Some(parts.len()), "{acme}");
    }
    stack.front().heal();
    for (domain, order) in &domains {
        let failure = &stack.api().fetch(&domain.id).await.more["failure"];
        if failure["retryable"] == true {
            assert!(!a_retry_leads_to_a_certificate(&stack, domain, order).await, "the value of a dead order");
        }
    }
    no_order_was_finalized_twice(&stack);
}

#[tokio::test]
async fn an_order_that_the_ca_calls_not_ready_or_has_thrown_away_ends_where_only_the_customer_can_go_on() {
    let stack = fronted().start().await;
    let (domain, order) = stack.pending_domain("not-ready.example.com").await;
    stack.front().next(2, Kind::Finalize, Fault::order_not_ready());
    stack.publish_value(&order).await;
    stack.becomes_active(&domain.id).await;
    for kind in [Kind::Challenge, Kind::Order, Kind::Authorization, Kind::Finalize, Kind::Certificate] {
        let (domain, order) = stack.pending_domain(&format!("expired-{kind:?}.example.com").to_lowercase()).await;
        if kind == Kind::Authorization {
            // Its authorizations are asked why.
            stack.front().next(1, Kind::Order, Fault::invalid_order());
        }
        stack.front().next(1, kind, Fault::expired());
        stack.publish_value(&order).await;
        fails(&stack, &domain, ProblemCode::CaOrderLost).await;
        a_retry_leads_to_a_certificate(&stack, &domain, &order).await;
    }
    no_order_was_finalized_twice(&stack);
}

/// When the CA said so, nobody of the fleet asks it anything until the time is over.
#[tokio::test]
async fn retry_after_in_either_form_holds_back_both_workers() {
    const ORDERS: usize = 5;
    const IS_OVER: &str = "SELECT coalesce(bool_and(held_until <= now()), true) FROM acme_accounts";
    let stack = fronted().workers(2).setting("WORKER_SLOTS", "4").start().await;
    let is_over = async || sqlx::query_scalar::<_, bool>(IS_OVER).fetch_one(stack.pool()).await.unwrap();
    let waits = [
        (RetryAfter::Seconds(4), Duration::from_secs(4)),
        // The date has whole seconds.
        (RetryAfter::HttpDate(5), Duration::from_secs(4)),
    ];
    for (round, (form, at_least)) in waits.into_iter().enumerate() {
        let names: Vec<String> = (0..=ORDERS).map(|number| format!("shop-{round}-{number}.example.com")).collect();
        let domains = pending_domains(&stack, &names).await;
        let (first, others) = domains.split_first().unwrap();
        stack.front().next(1, Kind::Challenge, Fault::rate_limited(form));
        stack.publish_value(&first.1).await;
        let held = async || (!is_over().await).then_some(());
        stack.wait_until("the CA's limit is stored", SOON, held).await;

        let asked = stack.front().arrivals();
        let told_at = asked.last().unwrap().at;
        for (_, order) in others {
            stack.publish_value(order).await;
        }
        for (_, order) in others {
            wait_until_order(&stack, &order.order_id, "o.state = 'confirmed'").await;
        }
        assert!(!is_over().await, "{form:?} was over before all values were seen");
        assert_eq!(stack.front().arrivals().len(), asked.len(), "the CA was asked in spite of {form:?}");
        all_become_active(&stack, &domains).await;
        let next_at = stack.front().arrivals()[asked.len()].at;
        assert!(next_at - told_at >= at_least, "{form:?} was kept for {:?} only", next_at - told_at);
    }
    let query = "SELECT count(DISTINCT actor) FROM order_events WHERE event IN ('confirmed', 'responded')";
    let workers: i64 = sqlx::query_scalar(query).fetch_one(stack.pool()).await.unwrap();
    assert_eq!(workers, 2, "one worker did all the work, so the other proves nothing");
}

#[tokio::test]
async fn no_order_contacts_a_busy_ca_more_often_than_its_backoff_says() {
    const ASKED: usize = 4;
    let stack = fronted().workers(2).start().await;
    let domains = pending_domains(&stack, &names(3)).await;
    stack.front().always(Kind::Challenge, Fault::html(503));
    for (_, order) in &domains {
        stack.publish_value(order).await;
    }
    all_asked(&stack, &domains, Kind::Challenge, ASKED).await;
    stack.front().heal();
    for (_, order) in &domains {
        let asked = asked_about(&stack, order, Kind::Challenge).await;
        for (nth, pair) in asked.windows(2).take(ASKED - 1).enumerate() {
            // 1, 2, 4 s, times a half at least.
            let (pause, least) = (pair[1] - pair[0], Duration::from_millis(500 << nth));
            assert!(pause >= least, "pause {nth} was {pause:?}");
        }
    }
    all_become_active(&stack, &domains).await;

    // A longer pause that the CA asks for is kept, in either form; the date has whole seconds.
    let domains = pending_domains(&stack, &["one.example.com", "other.example.com"].map(ToOwned::to_owned)).await;
    for form in [RetryAfter::Seconds(4), RetryAfter::HttpDate(4)] {
        stack.front().next(1, Kind::Finalize, Fault::busy(form));
    }
    for (_, order) in &domains {
        stack.publish_value(order).await;
    }
    all_become_active(&stack, &domains).await;
    for (_, order) in &domains {
        let asked = asked_about(&stack, order, Kind::Finalize).await;
        assert!(asked[1] - asked[0] >= Duration::from_secs(3), "Retry-After was kept for {:?}", asked[1] - asked[0]);
    }
    no_order_was_finalized_twice(&stack);
}

#[tokio::test]
async fn a_limit_of_new_orders_only_delays_those_who_can_wait() {
    const WINDOW: Duration = Duration::from_secs(3);
    let stack = fronted().workers(2).setting("PLACE_WAIT", "25s").start().await;
    stack.front().habit(Limits::within(WINDOW).at_most(2, Rule::NewOrdersPerAccount));
    let domains = pending_domains(&stack, &names(5)).await;
    let arrivals = stack.front().arrivals();
    let new_orders: Vec<&Arrival> = arrivals.iter().filter(|arrival| arrival.kind == Kind::NewOrder).collect();
    let refused = new_orders.iter().filter(|arrival| !arrival.reached_ca).count();
    assert!(refused >= 1, "the limit was never met");
    // One question finds out, and the two workers may ask it at the same time; then everybody waits.
    assert!(refused <= 2 * 2, "the CA was asked {refused} times in spite of its limit");
    for (_, order) in &domains {
        stack.publish_value(order).await;
    }
    all_become_active(&stack, &domains).await;
    has_one_certificate_each(&stack, &domains).await;
}

#[tokio::test]
async fn a_limit_of_the_account_that_lasts_is_told_to_callers_and_the_ca_is_left_alone() {
    let stack = fronted().start().await;
    stack.front().habit(Limits::within(Duration::from_secs(3600)).at_most(1, Rule::NewOrdersPerAccount));
    let domains = verified_domains(&stack, &names(3)).await;
    let order = stack.api().issue(&domains[0].id).await;
    for domain in &domains[1..] {
        is_refused(&stack, domain, ProblemCode::RateLimited, "limits how many certificates").await;
    }
    assert_eq!(stack.front().arrived(Kind::NewOrder), 2, "the CA was asked again in spite of its limit");
    let because = sqlx::query_scalar("SELECT held_because FROM acme_accounts").fetch_one(stack.pool()).await;
    let because: String = because.unwrap();
    assert!(because.contains("too many new orders (1) from this account"), "{because}");
    let over = "UPDATE acme_accounts SET held_until = now() - interval '1 second'";
    sqlx::query(over).execute(stack.pool()).await.unwrap();
    stack.publish_value(&order).await;
    stack.becomes_active(&domains[0].id).await;
}

#[tokio::test]
async fn a_limit_of_a_name_is_told_to_its_caller_and_holds_nobody_else() {
    let stack = fronted().start().await;
    let names = ["twice.example.com", "failed.example.com", "fresh.example.org"].map(ToOwned::to_owned);
    let [twice, failed, fresh] = <[Domain; 3]>::try_from(verified_domains(&stack, &names).await).unwrap();
    let limits = |rule| Limits::within(Duration::from_secs(3600)).at_most(1, rule);
    let issued = async |domain: &Domain| {
        let order = stack.api().issue(&domain.id).await;
        stack.publish_value(&order).await;
        stack.becomes_active(&domain.id).await;
    };
    let is_limited = async |domain: &Domain, text: &str| {
        stack.api().verify(&domain.id).await;
        let acme = is_refused(&stack, domain, ProblemCode::RateLimited, "limits how many certificates").await;
        assert!(acme["detail"].as_str().is_some_and(|detail| detail.contains(text)), "{acme}");
        let held = sqlx::query_scalar("SELECT held_until IS NOT NULL FROM acme_accounts").fetch_one(stack.pool()).await;
        assert!(!held.unwrap_or(true), "everybody waits for {}", domain.domain_name);
    };
    for (rule, text) in [
        (Rule::CertificatesPerExactNames, "too many certificates (1) already issued for this exact set of identifiers"),
        (Rule::CertificatesPerRegisteredDomain, r#"too many certificates (1) already issued for "example.com""#),
    ] {
        stack.front().drop_habits();
        stack.front().habit(limits(rule));
        issued(&twice).await;
        is_limited(&twice, text).await;
    }

    stack.front().drop_habits();
    stack.front().habit(limits(Rule::FailedAuthorizationsPerName));
    let order = stack.api().issue(&failed.id).await;
    stack.front().next(1, Kind::Challenge, refusal(400, "malformed"));
    stack.front().next(1, Kind::Authorization, Fault::invalid_authorization("dns", "SERVFAIL"));
    stack.publish_value(&order).await;
    fails(&stack, &failed, ProblemCode::ChallengeRefused).await;
    is_limited(&failed, r#"too many failed authorizations (1) for "failed.example.com""#).await;
    issued(&fresh).await;
}
