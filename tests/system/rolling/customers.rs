//! Customers who come one after the other, keep their connections, and take nothing but the documented answers of a
//! healthy service.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use countersign_tests::api_client::{Answer, ApiClient};
use countersign_tests::stack::Stack;
use countersign_tests::stack::dns::Dns;
use countersign_tests::stack::waiting::pause_until;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::facts::SOON;

/// At once; the others wait for these.
const AT_ONCE: usize = 6;
/// How often somebody looks whether the certificate is there. More often than SHUTDOWN_DELAY is long, so that every
/// client hears in time, in an answer, that its connection will end.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Come until they are told to finish, or one of them meets a failure.
pub(super) struct Customers {
    enough: Arc<AtomicBool>,
    failed: Arc<AtomicBool>,
    coming: JoinSet<(Vec<String>, Option<String>)>,
}

impl Customers {
    pub(super) fn start(stack: &Stack, url: String) -> Self {
        let (enough, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut coming = JoinSet::new();
        for number in 0..AT_ONCE {
            let (api, dns) = (ApiClient::new(&url, None).unwrap(), stack.dns().clone());
            let (enough, failed) = (Arc::clone(&enough), Arc::clone(&failed));
            coming.spawn(async move {
                let mut served = Vec::new();
                while !enough.load(Ordering::Relaxed) {
                    let name = format!("shop-{number}-{}.example.com", served.len());
                    // Every other one has delegated its challenges to our name servers.
                    let delegated = (number + served.len()) % 2 == 0;
                    if let Err(error) = visit(&api, &dns, &name, delegated).await {
                        enough.store(true, Ordering::Relaxed);
                        failed.store(true, Ordering::Relaxed);
                        return (served, Some(format!("{name}: {error:#}")));
                    }
                    served.push(name);
                }
                (served, None)
            });
        }
        Self { enough, failed, coming }
    }

    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// The names that have a certificate, or the failures, once all who have come are served.
    pub(super) async fn finish(self) -> Result<Vec<String>, Vec<String>> {
        self.enough.store(true, Ordering::Relaxed);
        let (names, failures): (Vec<_>, Vec<_>) = self.coming.join_all().await.into_iter().unzip();
        let failures: Vec<String> = failures.into_iter().flatten().collect();
        if failures.is_empty() { Ok(names.into_iter().flatten().collect()) } else { Err(failures) }
    }
}

/// From the registration to the certificate.
async fn visit(api: &ApiClient, dns: &Dns, name: &str, delegated: bool) -> Result<()> {
    let domain = body(api.try_register(name).await?, 201)?;
    let id = text(&domain["id"]);
    let record = format!("_acme-challenge.{name}");
    if delegated {
        dns.set_cname(&record, &text(&domain["delegation"]["cname_target"])).await?;
    } else {
        dns.set_txt(&record, &text(&domain["verification_token"])).await?;
    }
    body(api.try_verify(&id).await?, 200)?;
    let order = body(api.try_issue(&id).await?, 202)?;
    if !delegated {
        dns.set_txt(&text(&order["challenge_domain"]), &text(&order["expected_txt_value"])).await?;
    }
    let began = Instant::now();
    loop {
        let shown = body(api.try_fetch(&id).await?, 200)?;
        match shown["status"].as_str() {
            Some("active") => break,
            Some("certificate_pending") => ensure!(began.elapsed() < 3 * SOON, "no certificate comes: {shown}"),
            _ => anyhow::bail!("{shown}"),
        }
        pause_until(Instant::now() + LOOK_EVERY).await;
    }
    body(api.try_certificate(&id).await?, 200)?;
    Ok(())
}

fn body(answer: Answer, status: u16) -> Result<Value> {
    ensure!(answer.status == status, "{} and not {status}: {}", answer.status, answer.body);
    Ok(answer.body)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
