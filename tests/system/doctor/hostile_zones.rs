//! Zones of strangers whose name servers are inside our network, or thousands: they lead us nowhere, and cost a few questions.

use std::net::{Ipv4Addr, SocketAddr};

use countersign_tests::api_client::ApiClient;
use countersign_tests::name_servers::Addresses;
use countersign_tests::name_servers::odd::{self, OddServer};
use countersign_tests::stack::{Stack, StackBuilder};
use reqwest::Method;
use serde_json::Value;

use super::diagnosis;

/// In the place of our processes' resolver, and of a name server inside our network.
fn servers(addresses: &Addresses) -> [OddServer; 2] {
    [1, 2].map(|server| OddServer::start(SocketAddr::new(addresses.of(server).into(), 53), Vec::new()).unwrap())
}

/// Two APIs and so many workers; the second API may ask servers inside our network, as a private CA needs it.
fn builder(addresses: &Addresses, workers: usize) -> StackBuilder {
    let resolver = format!("{}:53", addresses.of(1));
    let processes = ["api-1", "api-2", "worker-1"].into_iter().take(2 + workers);
    processes.fold(Stack::builder().apis(2).workers(workers), |builder, process| {
        builder
            .setting_of(process, "DNS_RESOLVERS", resolver.clone())
            .setting_of(process, "DNS_AUTHORITATIVE_CHECK", "on")
            .setting_of(process, "DNS_ALLOW_PRIVATE", if process == "api-2" { "true" } else { "false" })
    })
}

fn answers_of_servers(diagnosis: &Value) -> &Vec<Value> {
    diagnosis["walk"][0]["servers"].as_array().unwrap_or_else(|| panic!("no server: {diagnosis:#}"))
}

#[tokio::test]
#[ignore = "listens on port 53: make test-all"]
async fn name_servers_inside_our_network_are_not_asked() {
    const OWNER: &str = "_acme-challenge.shop.test.";
    let Some(addresses) = Addresses::free().unwrap() else { return };
    let [resolver, inside] = servers(&addresses);
    let zone = |value: &str| {
        let mut records = odd::zone("shop.test.", &[("ns1".to_owned(), vec![addresses.of(2)])]);
        records.push(odd::txt(OWNER, value));
        records
    };
    inside.change(zone("of the inside"));
    let stack = builder(&addresses, 1).start().await;
    let domain = stack.api().register("shop.test").await;
    resolver.change(zone(domain.verification_token.as_deref().unwrap()));

    let told = diagnosis(stack.api(), &domain.id).await;
    assert!(answers_of_servers(&told).iter().all(|server| server["result"] == "unreachable"), "{told:#}");
    stack.api().verify(&domain.id).await;
    let order = stack.api().issue(&domain.id).await;
    resolver.change(zone(&order.expected_txt_value));
    stack.publish_value(&order).await;
    stack.becomes_active(&domain.id).await;
    assert_eq!(inside.questions(), 0, "a stranger's NS record led us inside");

    // It would have answered.
    let told = diagnosis(stack.api_replica(2), &domain.id).await;
    assert_eq!(answers_of_servers(&told)[0]["values"][0], "of the inside", "{told:#}");
    assert!(inside.questions() > 0);
}

#[tokio::test]
#[ignore = "listens on port 53: make test-all"]
async fn thousands_of_name_servers_or_of_their_addresses_cost_a_few_questions() {
    let Some(addresses) = Addresses::free().unwrap() else { return };
    let [resolver, _inside] = servers(&addresses);
    // Nobody listens there, and closed ports are heard of at once.
    let closed = |number: u16| Ipv4Addr::new(127, 54, (number / 250) as u8, (number % 250) as u8 + 1);
    let many: Vec<_> = (0..2000).map(|number| (format!("n{number}"), vec![closed(number)])).collect();
    let wide = [("ns".to_owned(), (0..3500).map(closed).collect())];
    let mut records = [odd::zone("many.test.", &many), odd::zone("wide.test.", &wide)].concat();
    let stack = builder(&addresses, 0).start().await;
    let [of_many, of_wide] = [stack.api().register("many.test").await, stack.api().register("wide.test").await];
    for domain in [&of_many, &of_wide] {
        let owner = format!("_acme-challenge.{}.", domain.domain_name);
        records.push(odd::txt(&owner, domain.verification_token.as_deref().unwrap()));
    }
    resolver.change(records);

    let costs = async |api: &ApiClient, id: &str| {
        let before = resolver.questions();
        let answer = api.send(api.request(Method::GET, &format!("/domains/{id}/diagnosis"))).await.unwrap();
        let told = answer.expect(200);
        (resolver.questions() - before, answers_of_servers(&told).len(), told.to_string().len())
    };
    for (api, domain) in [(1, &of_many), (2, &of_many), (1, &of_wide), (2, &of_wide)] {
        let (questions, servers, length) = costs(stack.api_replica(api), &domain.id).await;
        let costs = format!("{} by API {api}: {questions} questions, {servers} answers", domain.domain_name);
        println!("{costs}, {length} bytes");
        assert!(questions < 60 && (1..=16).contains(&servers) && length < 16 << 10, "{costs}, {length} bytes");
    }
}
