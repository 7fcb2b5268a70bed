//! What customers of a stack do: domains on their way to a certificate, and the waiting for them.

use std::time::Duration;

use super::{Stack, waiting};
use crate::api_client::{Domain, Order};

impl Stack {
    /// Registers a domain, publishes its token, and verifies it.
    pub async fn verified_domain(&self, name: &str) -> Domain {
        let domain = self.api().register(name).await;
        self.publish(name, domain.verification_token.as_deref().expect("a new domain has a token")).await;
        self.api().verify(&domain.id).await
    }

    /// Registers and verifies a domain and orders its certificate; the TXT value is not published.
    pub async fn pending_domain(&self, name: &str) -> (Domain, Order) {
        let domain = self.verified_domain(name).await;
        let order = self.api().issue(&domain.id).await;
        (domain, order)
    }

    /// All the way to `active`.
    pub async fn active_domain(&self, name: &str) -> Domain {
        let (domain, order) = self.pending_domain(name).await;
        self.publish_value(&order).await;
        self.becomes_active(&domain.id).await
    }

    /// Publishes what an order waits for.
    pub async fn publish_value(&self, order: &Order) {
        let published = self.dns.set_txt(&order.challenge_domain, &order.expected_txt_value).await;
        published.unwrap_or_else(|error| self.fail(&format!("{error:#}")));
    }

    /// Waits up to 30 s until a domain is `active`.
    pub async fn becomes_active(&self, domain_id: &str) -> Domain {
        self.becomes(domain_id, "active", Duration::from_secs(30)).await
    }

    /// Waits until a domain has this status. An API that cannot answer meanwhile is asked again.
    pub async fn becomes(&self, domain_id: &str, status: &str, within: Duration) -> Domain {
        let mut seen = None;
        let reached = waiting::poll(within, async || {
            seen = Some(self.api().try_fetch(domain_id).await.map(|answer| answer.body));
            let body = seen.as_ref()?.as_ref().ok()?;
            (body["status"] == status).then(|| Domain::from_answer(body))
        });
        match reached.await {
            Some(domain) => domain,
            None => self.fail(&format!("waited {within:?} in vain until {domain_id} is {status}; last seen: {seen:?}")),
        }
    }

    async fn publish(&self, name: &str, token: &str) {
        let published = self.dns.set_txt(&format!("_acme-challenge.{name}"), token).await;
        published.unwrap_or_else(|error| self.fail(&format!("{error:#}")));
    }
}
