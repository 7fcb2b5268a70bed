//! Calls that come at the same moment, to several replicas.

use countersign_tests::stack::Stack;

use crate::facts::{all, all_become_active, names, verified_domains};

#[tokio::test]
async fn of_two_issue_calls_for_one_domain_one_gets_the_order_and_the_other_400() {
    let stack = Stack::builder().apis(2).workers(2).start().await;
    let domains = verified_domains(&stack, &names(6)).await;
    for domain in &domains {
        let calls = [1, 2].map(|number| {
            let (api, id) = (stack.api_replica(number).clone(), domain.id.clone());
            async move { api.try_issue(&id).await.unwrap() }
        });
        let mut answers = all(calls).await;
        answers.sort_by_key(|answer| answer.status);
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [202, 400], "{answers:?}");
        let shown = stack.api().fetch(&domain.id).await;
        assert_eq!(shown.more["order_id"], answers[0].body["order_id"]);
        assert_eq!(shown.more["expected_txt_value"], answers[0].body["expected_txt_value"]);
    }
    let orders: i64 = sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(stack.pool()).await.unwrap();
    assert_eq!((orders, stack.ca().orders_placed().unwrap()), (6, 6), "one order each, here and at the CA");
    for domain in &domains {
        stack.api().delete(&domain.id).await;
    }
}

#[tokio::test]
async fn twenty_first_calls_at_once_make_one_account_at_the_ca() {
    let stack = Stack::builder().apis(3).workers(3).setting("PLACE_WAIT", "25s").setting("POLL_TIMEOUT", "5m");
    let stack = stack.start().await;
    let domains = verified_domains(&stack, &names(20)).await;
    let calls = domains.iter().enumerate().map(|(index, domain)| {
        let (api, id) = (stack.api_replica(index % 3 + 1).clone(), domain.id.clone());
        async move { api.issue(&id).await }
    });
    let orders = all(calls).await;

    assert_eq!(stack.ca().accounts().unwrap(), 1);
    assert_eq!(stack.ca().orders_placed().unwrap(), 20);
    let accounts: i64 = sqlx::query_scalar("SELECT count(*) FROM acme_accounts WHERE kid IS NOT NULL")
        .fetch_one(stack.pool())
        .await
        .unwrap();
    assert_eq!(accounts, 1);
    for order in &orders {
        stack.publish_value(order).await;
    }
    all_become_active(&stack, &domains.into_iter().zip(orders).collect::<Vec<_>>()).await;
}
