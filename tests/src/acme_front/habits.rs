//! What a CA does with every request as long as it is switched on, and Pebble does not: Boulder's order reuse. Its rate limits are in
//! `limits`.

use std::collections::BTreeMap;

use hyper::header::LOCATION;
use serde_json::Value;

use super::asked::{Asked, Kind, names};
use super::reply::Reply;

/// Something that the front does as if it were the CA. It sees all requests for which a test has planned nothing, and all answers.
pub trait Habit: Send {
    /// An answer instead of the CA's.
    fn before(&mut self, asked: &Asked) -> Option<Reply>;

    /// The CA's answer with what the CA would add to it.
    fn adding(&mut self, _asked: &Asked, reply: Reply) -> Reply {
        reply
    }

    /// `of_ca` is what the CA answered, `shown` what the client gets.
    fn after(&mut self, asked: &Asked, of_ca: &Reply, shown: &Reply);
}

/// The same order for the same names of the same account, as long as it is `pending` or `ready`. The body is the one that the CA last
/// gave for it, so a status that nobody has asked for since is an old one.
#[derive(Default)]
pub struct OrderReuse {
    orders: BTreeMap<Key, Known>,
}

/// The account and the names.
type Key = (String, Vec<String>);

struct Known {
    url: String,
    body: Value,
}

impl OrderReuse {
    fn forget(&mut self, mut is_dead: impl FnMut(&Known) -> bool) {
        self.orders.retain(|_, known| !is_dead(known));
    }
}

impl Habit for OrderReuse {
    fn before(&mut self, asked: &Asked) -> Option<Reply> {
        if asked.kind != Kind::NewOrder {
            return None;
        }
        let known = self.orders.get(&(asked.account.clone(), asked.names()))?;
        let reply = Reply::new(201, "application/json", known.body.to_string());
        Some(reply.header(LOCATION.as_str(), &known.url))
    }

    fn after(&mut self, asked: &Asked, of_ca: &Reply, _: &Reply) {
        let body = of_ca.json();
        let is_open = body["status"] == "pending" || body["status"] == "ready";
        match asked.kind {
            _ if !of_ca.is_success() => {}
            Kind::NewOrder => {
                if let Some(url) = of_ca.headers.get(LOCATION).and_then(|url| url.to_str().ok()) {
                    let known = Known { url: url.to_owned(), body: body.clone() };
                    self.orders.insert((asked.account.clone(), names(&body)), known);
                }
            }
            Kind::Order if is_open => {
                if let Some(known) = self.orders.values_mut().find(|known| known.url == asked.url) {
                    known.body = body;
                }
            }
            Kind::Order => self.forget(|known| known.url == asked.url),
            Kind::Finalize => self.forget(|known| known.body["finalize"] == asked.url),
            Kind::Authorization | Kind::Deactivation if body["status"] != "pending" && body["status"] != "valid" => {
                let authorization = Value::from(asked.url.as_str());
                self.forget(|known| {
                    known.body["authorizations"].as_array().is_some_and(|all| all.contains(&authorization))
                });
            }
            _ => {}
        }
    }
}
