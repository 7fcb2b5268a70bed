//! What must be true after every cell: of the orders, of their rows, and of what the CA saw.

use std::collections::BTreeSet;

use countersign_tests::api_client::{Domain, Order};
use countersign_tests::stack::Stack;
use sha2::{Digest as _, Sha256};
use x509_parser::pem::parse_x509_pem;

use super::cells::EVENTS;
use crate::facts::{events, is_cleaned_up};

/// All rows about one domain.
#[derive(Debug, sqlx::FromRow)]
struct Rows {
    status: String,
    states: Vec<String>,
    certificates: Vec<String>,
    cleaned_up: bool,
    jobs: i64,
    acme_url: String,
    csr: String,
}

const ROWS: &str = "
    SELECT d.status, array_agg(o.state) AS states, array_agg(c.state) AS certificates,
           bool_and(o.cleaned_up_at IS NOT NULL) AS cleaned_up, count(j.id) AS jobs,
           min(o.acme_url) AS acme_url, min(c.csr) AS csr
    FROM domains d JOIN orders o ON o.domain_id = d.id FULL JOIN certificates c ON c.id = o.certificate_id
        LEFT JOIN jobs j ON j.order_id = o.id
    WHERE d.public_id = $1 GROUP BY d.id";

/// One order, one certificate, each event once and in its order; the CA took one CSR for it, the stored one, and saw no other.
pub(super) async fn each_order_has_one_certificate(stack: &Stack, domains: &[(Domain, Order)]) {
    let ca_orders = stack.front().orders();
    for (domain, order) in domains {
        is_cleaned_up(stack, &domain.id).await;
        let name = &domain.domain_name;
        let rows: Rows = sqlx::query_as(ROWS).bind(&domain.id).fetch_one(stack.pool()).await.unwrap();
        assert_eq!(rows.status, "active", "{rows:?}");
        assert_eq!(
            (rows.states.as_slice(), rows.certificates.as_slice()),
            (&["issued".to_owned()][..], &["issued".to_owned()][..])
        );
        assert!(rows.cleaned_up && rows.jobs == 0, "{rows:?}");

        let story = events(stack, &order.order_id).await;
        assert_eq!(story[0], "accepted", "{name}");
        assert_eq!(story[1..], EVENTS, "{name}: every event once");

        let (_, csr) = parse_x509_pem(rows.csr.as_bytes()).unwrap();
        let csr: String = Sha256::digest(&csr.contents).iter().map(|byte| format!("{byte:02x}")).collect();
        for (url, ca_order) in ca_orders.iter().filter(|(_, ca_order)| ca_order.names.contains(name)) {
            let accepted = usize::from(*url == rows.acme_url);
            assert_eq!(ca_order.finalizes_accepted, accepted, "{name}: finalizes that the CA accepted for {url}");
            assert!(ca_order.csrs_sha256.iter().all(|sent| *sent == csr), "{name}: another CSR than the stored one");
        }
        assert!(ca_orders.contains_key(&rows.acme_url), "{name}: an order that the CA never made");
    }
}

/// The certificates at the CA are those in our table, by serial number and name.
pub(super) async fn ca_and_we_have_the_same(stack: &Stack) {
    stack.finish().await;
    let issued = stack.ca().issued().await.unwrap();
    let at_the_ca: BTreeSet<(String, String)> =
        issued.iter().map(|(serial, names)| (serial.clone(), names.join(","))).collect();
    let query = "SELECT ltrim(c.serial_number, '0'), d.name FROM certificates c JOIN domains d ON d.id = c.domain_id
                 WHERE c.state = 'issued'";
    let stored: Vec<(String, String)> = sqlx::query_as(query).fetch_all(stack.pool()).await.unwrap();
    assert_eq!(stored.len(), issued.len());
    assert_eq!(stored.into_iter().collect::<BTreeSet<_>>(), at_the_ca);
}
