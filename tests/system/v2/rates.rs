//! How much an account may ask for in an hour: counted over all its tokens and all API processes.

use countersign_tests::api_client::Answer;
use countersign_tests::stack::Stack;
use countersign_tests::stack::accounts::ALL_SCOPES;
use reqwest::Method;

use super::{Caller, message};
use crate::facts::SOON;

fn header(answer: &Answer, name: &str) -> u64 {
    answer.headers[name].to_str().unwrap().parse().unwrap()
}

async fn whoami(caller: &Caller<'_>) -> Answer {
    caller.ask(Method::GET, "/v2/whoami").await
}

#[tokio::test]
async fn an_account_is_served_as_often_as_its_quota_says_with_all_its_tokens() {
    let stack = Stack::builder().workers(0).setting("RATE_LIMIT", "5").start().await;
    let (caller, other) = (Caller::new(&stack, "shop", "manual"), Caller::new(&stack, "other", "manual"));
    let second_token = Caller::of(&stack, caller.account, "certificates:read");
    // What is refused counts too, but not the calls of strangers.
    caller.with_token(None).ask(Method::GET, "/v2/whoami").await.expect(401);
    for (number, status, answer) in [
        (1, 200, whoami(&caller).await),
        (2, 200, whoami(&second_token).await),
        (3, 404, caller.get("nothing").await),
        (4, 403, second_token.get("domains").await),
        (5, 405, caller.ask(Method::PUT, "/v2/whoami").await),
    ] {
        assert_eq!(answer.status, status, "{}", answer.body);
        assert_eq!((header(&answer, "x-ratelimit-limit"), header(&answer, "x-ratelimit-remaining")), (5, 5 - number));
    }
    for caller in [&caller, &second_token] {
        for path in ["/v2/whoami".to_owned(), caller.path("domains"), "/v2/nothing".to_owned()] {
            let answer = caller.ask(Method::GET, &path).await;
            let (left, reset) = (header(&answer, "retry-after"), header(&answer, "x-ratelimit-reset"));
            assert!((1..=3600).contains(&left) && reset % 3600 == 0, "{left} {reset}");
            assert_eq!(header(&answer, "x-ratelimit-remaining"), 0);
            assert_eq!(message(answer, 429), "quota exceeded");
        }
    }
    // Nobody else is hurt.
    whoami(&other).await.expect(200);
    caller.with_token(Some("nobody")).ask(Method::GET, "/v2/whoami").await.expect(401);
    stack.api().try_list("").await.unwrap().expect(200);
}

#[tokio::test]
async fn replicas_share_their_counts_within_a_moment() {
    let stack = Stack::builder().apis(2).workers(0).setting("RATE_LIMIT", "1000").start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    let token = stack.token(caller.account, ALL_SCOPES).secret;
    let second = Caller { api: stack.api_replica(2).with_token(Some(&token)), ..caller };
    for _ in 0..999 {
        whoami(&caller).await.expect(200);
    }
    let mut own = 0;
    let refused = async || {
        own += 1;
        let answer = whoami(&second).await;
        (answer.status == 429).then(|| message(answer, 429))
    };
    // The second one tells and hears only while it is asked itself.
    assert_eq!(stack.wait_until("the second replica has heard of it", SOON, refused).await, "quota exceeded");
    assert!((2..1000).contains(&own), "only its own count stopped it: {own}");
}

#[tokio::test]
async fn without_a_limit_everything_is_served_and_the_headers_are_there_all_the_same() {
    let stack = Stack::builder().workers(0).setting("RATE_LIMIT", "0").start().await;
    let caller = Caller::new(&stack, "shop", "manual");
    for _ in 0..30 {
        let answer = whoami(&caller).await;
        assert_eq!((answer.status, header(&answer, "x-ratelimit-remaining")), (200, 1_000_000));
    }
}
