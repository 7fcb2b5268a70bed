//! The name servers of the challenge zone in a stack, and the resolver that leads there.

use std::net::SocketAddr;

use anyhow::Result;
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpStream;

use super::plan::Plan;
use super::processes::{Launch, Processes};
use super::{Stack, StackBuilder, ports, ready};
use crate::api_client::Domain;
use crate::{checkout, dns_wire};

pub(crate) const NAME: &str = "recursor";

/// What our name servers answer for in a stack.
pub const ZONE: &str = "acme.countersign.example";

/// Where the resolver listens; it survives the process that started it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecursorPlan {
    port: u16,
}

impl RecursorPlan {
    pub fn new() -> Result<Self> {
        Ok(Self { port: ports::free()? })
    }

    /// `host:port`, by UDP and TCP.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) async fn start(&self, plan: &Plan, processes: &Processes) -> Result<()> {
        let mut launch = Launch::new(NAME, checkout::binary("countersign-stack")?).args([
            NAME,
            "--port",
            &self.port.to_string(),
            "--upstream",
            &plan.dns.address(),
            "--zone",
            ZONE,
        ]);
        for address in plan.name_servers() {
            launch = launch.args(["--name-server", &address.to_string()]);
        }
        processes.start(&launch)?;
        ready(processes, NAME, async || TcpStream::connect(self.address()).await.is_ok()).await
    }
}

impl StackBuilder {
    /// Starts `count` name servers for [`ZONE`], `dns-1` and so on, and a resolver before the stack's DNS server that knows them.
    #[must_use]
    pub fn responders(mut self, count: usize) -> Self {
        self.responders = count;
        self
    }
}

impl Stack {
    /// The address of `dns-<number>`, from 1.
    ///
    /// # Panics
    /// If the stack has no such name server.
    pub fn responder(&self, number: usize) -> SocketAddr {
        self.plan().name_servers()[number - 1]
    }

    /// What a server answers, by UDP with EDNS, and in full; None when it does not answer.
    pub async fn asked(&self, server: SocketAddr, name: &str, record_type: RecordType) -> Option<Message> {
        let mut question = Message::query();
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).expect("a test asks for names");
        question.add_query(Query::query(name, record_type)).set_edns(edns);
        let answer = tokio::time::timeout(super::waiting::ANSWER, dns_wire::ask_in_full(server, &question)).await;
        answer.ok()?.ok()
    }

    /// The TXT values that `dns-<number>` answers at a name, sorted; None when it does not answer.
    pub async fn txt_at(&self, number: usize, name: &str) -> Option<Vec<String>> {
        let answer = self.asked(self.responder(number), name, RecordType::TXT).await?;
        let values = answer.answers.iter().filter_map(|record| match &record.data {
            RData::TXT(txt) => Some(txt.txt_data.iter().map(|part| String::from_utf8_lossy(part)).collect::<String>()),
            _ => None,
        });
        let mut values: Vec<String> = values.collect();
        values.sort();
        Some(values)
    }

    /// Makes the challenge name of a domain an alias of its target, as its customer does, once.
    pub async fn delegate(&self, domain: &Domain) {
        let owner = format!("_acme-challenge.{}", domain.domain_name);
        let set = self.dns().set_cname(&owner, target(domain)).await;
        set.unwrap_or_else(|error| self.fail(&format!("{error:#}")));
    }

    /// Registers, delegates and verifies a domain; no TXT record is set.
    pub async fn delegated_domain(&self, name: &str) -> Domain {
        let domain = self.api().register(name).await;
        self.delegate(&domain).await;
        self.api().verify(&domain.id).await
    }
}

/// Where the customer of a domain is told to delegate to, with the final dot.
///
/// # Panics
/// If the answer does not say.
pub fn target(domain: &Domain) -> &str {
    let target = domain.more.get("delegation").and_then(|delegation| delegation["cname_target"].as_str());
    target.unwrap_or_else(|| panic!("no delegation target in {}", Value::from(domain.more.clone())))
}
