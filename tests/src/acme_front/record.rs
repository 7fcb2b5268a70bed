//! What came, what reached the CA, and what the CA made of it: the front's memory, which it shows to tests.

use std::collections::BTreeMap;
use std::time::Instant;

use hyper::header::LOCATION;
use serde_json::Value;

use super::asked::{Asked, Kind, names};
use super::reply::Reply;

/// A request that came, also one that was held, or never reached the CA.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub kind: Kind,
    pub url: String,
    /// The URL of the CA's order that it is about, where an answer of the CA has said so.
    pub order: Option<String>,
    /// Of a newOrder: the certificate that it says it replaces.
    pub replaces: Option<String>,
    pub at: Instant,
    pub reached_ca: bool,
    /// Status of the CA's own answer, once it has come.
    pub answered: Option<u16>,
}

/// An order of the CA.
#[derive(Clone, Debug, Default)]
pub struct CaOrder {
    /// Sorted, in lower case.
    pub names: Vec<String>,
    /// SHA-256 of the CSR of each finalize that came, in their order; lower-case hex.
    pub csrs_sha256: Vec<String>,
    /// How many of them the CA answered with 2xx.
    pub finalizes_accepted: usize,
}

#[derive(Default)]
pub(super) struct Record {
    arrivals: Vec<Arrival>,
    orders: BTreeMap<String, CaOrder>,
    /// From the URL of an authorization, challenge, finalize or certificate to its order.
    order_of: BTreeMap<String, String>,
}

/// Names an arrival.
#[derive(Clone, Copy)]
pub(super) struct Number(usize);

impl Record {
    pub(super) fn arrived(&mut self, asked: &Asked) -> Number {
        let order = match asked.kind {
            Kind::Order => Some(asked.url.clone()),
            _ => self.order_of.get(&asked.url).cloned(),
        };
        if let (Some(order), Some(csr)) = (&order, asked.csr_sha256()) {
            self.orders.entry(order.clone()).or_default().csrs_sha256.push(csr);
        }
        let (kind, url) = (asked.kind, asked.url.clone());
        let replaces = asked.replaces();
        self.arrivals.push(Arrival {
            kind,
            url,
            order,
            replaces,
            at: Instant::now(),
            reached_ca: false,
            answered: None,
        });
        Number(self.arrivals.len() - 1)
    }

    pub(super) fn reaches_ca(&mut self, Number(number): Number) {
        self.arrivals[number].reached_ca = true;
    }

    /// `reply` is the CA's own.
    pub(super) fn answered(&mut self, Number(number): Number, reply: &Reply) {
        let arrival = &mut self.arrivals[number];
        arrival.answered = Some(reply.status);
        if !reply.is_success() {
            return;
        }
        let (kind, order) = (arrival.kind, arrival.order.clone());
        let body = reply.json();
        let location = || Some(reply.headers.get(LOCATION)?.to_str().ok()?.to_owned());
        match kind {
            Kind::NewOrder => self.links_of_order(location(), &body),
            Kind::Order => self.links_of_order(order, &body),
            Kind::Finalize => {
                if let Some(order) = &order {
                    self.orders.entry(order.clone()).or_default().finalizes_accepted += 1;
                }
                self.links_of_order(order, &body);
            }
            Kind::Authorization => {
                let challenges = body["challenges"].as_array().into_iter().flatten();
                self.link(order, challenges.map(|challenge| &challenge["url"]));
            }
            _ => {}
        }
    }

    /// An authorization that the CA uses for several orders counts for the newest.
    fn links_of_order(&mut self, order: Option<String>, body: &Value) {
        let Some(order) = order else { return };
        self.orders.entry(order.clone()).or_default().names = names(body);
        let authorizations = body["authorizations"].as_array().into_iter().flatten();
        self.link(Some(order), authorizations.chain([&body["finalize"], &body["certificate"]]));
    }

    fn link<'a>(&mut self, order: Option<String>, urls: impl Iterator<Item = &'a Value>) {
        let Some(order) = order else { return };
        self.order_of.extend(urls.filter_map(|url| Some((url.as_str()?.to_owned(), order.clone()))));
    }

    pub(super) fn arrivals(&self) -> &[Arrival] {
        &self.arrivals
    }

    pub(super) fn orders(&self) -> &BTreeMap<String, CaOrder> {
        &self.orders
    }
}
