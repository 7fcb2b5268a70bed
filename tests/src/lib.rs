//! Countersign's test stack: a private Postgres, Pebble as the CA, a DNS server whose records tests write, and our real binaries.
//!
//! The same code serves `make demo` ([`demo`]), `make up` and `make down` ([`up`]), `make chaos` ([`chaos`]), the system tests
//! ([`stack`]).
//! It knows Countersign from the outside only, through HTTP, DNS, the database and signals: it depends on none of our other crates.

pub mod acme_front;
pub mod aloud;
pub mod api_client;
pub mod certificate;
pub mod chaos;
pub mod checkout;
pub mod demo;
pub mod dns_front;
pub mod dns_software;
pub mod dns_wire;
pub mod name_servers;
pub mod observe;
pub mod postgres_front;
pub mod primary;
pub mod prometheus;
pub mod queries;
pub mod receiver;
pub mod recursor;
pub mod release;
pub mod sql_metadata;
pub mod stack;
pub mod up;
