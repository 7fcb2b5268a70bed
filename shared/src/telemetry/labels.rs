//! What the labels of metrics may say: closed sets, so that no name and no id can become one.

use strum::{EnumIter, IntoStaticStr};

/// How an order ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum OrderOutcome {
    Issued,
    Failed,
    Cancelled,
}

/// What became of a caller's wait for its order to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum PlaceOutcome {
    Placed,
    TimedOut,
    Failed,
    Cancelled,
}

/// How a run of a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum JobOutcome {
    /// Nothing is wrong, it was only too early.
    Waited,
    Retried,
    Released,
    Done,
    Parked,
    /// Beside the outcome that was written for it.
    Panicked,
    /// Refused: the lease was somebody else's by then.
    Lost,
}

/// A request to the CA, by the resource it is for (RFC 8555, RFC 9773).
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum AcmeResource {
    Directory,
    NewNonce,
    NewAccount,
    NewOrder,
    Order,
    Authorization,
    Deactivation,
    Challenge,
    Finalize,
    Certificate,
    RenewalInfo,
    Account,
    Revocation,
    Other,
}

/// Who was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum Resolver {
    Recursive,
    /// One server of a zone.
    Authoritative,
}

/// What a look-up came to. `Failed` and `TimedOut` say nothing about the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum LookupOutcome {
    Found,
    Absent,
    Failed,
    TimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum DeliveryOutcome {
    Acknowledged,
    /// Tried, and tried again later.
    Failed,
    GivenUp,
}

/// What the header of an answer says (RFC 1035 section 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumIter)]
#[strum(serialize_all = "UPPERCASE")]
pub enum Rcode {
    NoError,
    FormErr,
    ServFail,
    NxDomain,
    NotImp,
    Refused,
    Other,
}

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum DnsTransport {
    Udp,
    Tcp,
}

/// The methods that a request is counted by; any other is `_OTHER`, as OpenTelemetry has it.
pub fn http_method(method: &str) -> &'static str {
    const KNOWN: [&str; 8] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("_OTHER")
}
