//! What the CA said when it said no, and what follows from it: the one table from problem type, HTTP status, transport
//! error and kind of request to a decision.
//!
//! It must not talk to anybody, and it holds no text for customers: that is `model::problem`.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use countersign_shared::store::StoreError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::transport::Failure;

/// RFC 8555 §6.7: the prefix of every problem type of the protocol.
const URN: &str = "urn:ietf:params:acme:error:";
/// Longest `detail` that is kept, in bytes.
const LONGEST_DETAIL: usize = 2048;
const MOST_SUBPROBLEMS: usize = 100;

/// What to do about an error. Ordered by gravity, so that a problem made of several is as grave as its worst part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorClass {
    /// Try again with jittered backoff: not the order's fault.
    RetryLater,
    /// The object is in another state than we thought: read it and branch.
    LookAgain,
    /// Hold back everything of this account and directory until Retry-After.
    RateLimited,
    /// This ACME order is dead; a new one may succeed.
    NewOrderNeeded,
    /// No order for these names can succeed.
    FatalForOrder,
    /// Nothing of this account can succeed: page a person.
    FatalForAccount,
}

/// Which request failed (newNonce counts as `Directory`). The same problem means different things to different resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    Directory,
    NewAccount,
    NewOrder,
    Order,
    Authorization,
    Deactivate,
    Challenge,
    Finalize,
    Certificate,
    RenewalInfo,
    /// The account itself: its status, its key.
    Account,
    Revoke,
}

/// A problem document (RFC 7807, RFC 8555 §6.7), cleaned for storage and for operators' eyes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The whole URN.
    #[serde(rename = "type")]
    pub problem_type: String,
    /// At most 2 KiB, without control characters.
    #[serde(default)]
    pub detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subproblems: Vec<Subproblem>,
}

/// RFC 8555 §6.7.1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subproblem {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifier: Option<String>,
    #[serde(rename = "type")]
    pub problem_type: String,
    #[serde(default)]
    pub detail: String,
}

/// Every failure of the facade. `Display` is readable alone and never holds key material.
#[derive(Debug)]
pub struct AcmeError {
    pub class: ErrorClass,
    pub problem: Option<Problem>,
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    pub retry_after: Option<Duration>,
    pub request: RequestKind,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The table. `status` is that of the HTTP answer, `problem` its document if it had one; neither means that no usable
/// answer came.
pub(super) fn class_of(request: RequestKind, status: Option<u16>, problem: Option<&Problem>) -> ErrorClass {
    use ErrorClass::*;
    use RequestKind as R;

    let name = problem.map(Problem::name);
    // An object of ours that the CA no longer wants to know; for a resource of the directory it is the CA that is wrong.
    let object_is_gone = match request {
        R::Order | R::Authorization | R::Challenge | R::Finalize | R::Certificate => NewOrderNeeded,
        R::Deactivate => LookAgain,
        // What the CA does not know it has nothing to suggest for.
        R::RenewalInfo | R::Revoke => FatalForOrder,
        R::Account => FatalForAccount,
        R::NewOrder | R::NewAccount | R::Directory => RetryLater,
    };
    match (status, name) {
        (_, Some("rateLimited")) | (Some(429), _) => RateLimited,
        (Some(500..), _) | (_, Some("badNonce" | "serverInternal")) => RetryLater,
        (_, Some("accountDoesNotExist" | "externalAccountRequired" | "userActionRequired")) => FatalForAccount,
        (_, Some("badPublicKey" | "badSignatureAlgorithm" | "invalidContact" | "unsupportedContact")) => {
            FatalForAccount
        }
        (_, Some("badCSR" | "rejectedIdentifier" | "caa" | "unsupportedIdentifier")) => FatalForOrder,
        (_, Some("alreadyRevoked" | "badRevocationReason")) => FatalForOrder,
        (_, Some("orderNotReady")) => LookAgain,
        (_, Some("dns" | "connection" | "incorrectResponse" | "tls")) => NewOrderNeeded,
        (_, Some("unauthorized")) => match request {
            R::NewAccount | R::NewOrder => FatalForAccount,
            _ => object_is_gone,
        },
        (_, Some("compound")) => problem
            .into_iter()
            .flat_map(|problem| &problem.subproblems)
            .map(|part| class_of(request, status, Some(&part.as_problem())))
            .max()
            .unwrap_or(FatalForOrder),
        (Some(404 | 410), _) => object_is_gone,
        (_, Some("malformed")) => match request {
            R::Challenge | R::Deactivate => LookAgain,
            R::Order | R::Authorization => NewOrderNeeded,
            R::NewAccount | R::Account => FatalForAccount,
            R::Directory => RetryLater,
            R::NewOrder | R::Finalize | R::Certificate | R::RenewalInfo | R::Revoke => FatalForOrder,
        },
        (Some(400..=499), Some(_)) => match request {
            R::NewAccount | R::Account => FatalForAccount,
            _ => FatalForOrder,
        },
        // No problem document: some proxy spoke, not the CA. A redirect, a cut connection, nonsense: likewise.
        _ => RetryLater,
    }
}

/// For a problem inside an `invalid` authorization, challenge or order: validation has failed for good, the question is only
/// whether a new order can do better.
pub fn class_of_authorization_problem(problem: &Problem) -> ErrorClass {
    class_inside(problem.deciding_name())
}

fn class_inside(name: &str) -> ErrorClass {
    match name {
        "caa" | "rejectedIdentifier" | "unsupportedIdentifier" | "badCSR" => ErrorClass::FatalForOrder,
        _ => ErrorClass::NewOrderNeeded,
    }
}

impl Problem {
    /// The type without the URN's prefix; the whole type if it is of somebody else.
    pub fn name(&self) -> &str {
        short_name(&self.problem_type)
    }

    /// The name to decide by: of several problems in one (RFC 8555 §6.7.1) that of the gravest, otherwise its own.
    pub fn deciding_name(&self) -> &str {
        let parts = self.subproblems.iter().map(|part| short_name(&part.problem_type));
        match self.name() {
            "compound" => parts.max_by_key(|name| class_inside(name)).unwrap_or("compound"),
            name => name,
        }
    }

    /// Whether a rate limit is one of these names' own: a subproblem or the text names one of them or a domain above it, or
    /// speaks of their set. RFC 8555 has no field for that; the words are Boulder's.
    pub fn is_about(&self, names: &[String]) -> bool {
        let above = |word: &str| {
            word.contains('.')
                && names
                    .iter()
                    .any(|name| name.strip_suffix(word).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
        };
        let says = |detail: &str| {
            let words = detail.split(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-');
            detail.contains("exact set of") || words.map(|word| word.trim_matches('.')).any(above)
        };
        says(&self.detail)
            || self.subproblems.iter().any(|part| part.identifier.as_deref().is_some_and(above) || says(&part.detail))
    }

    /// The problem document of an answer, if its body is one.
    ///
    /// By hand because nothing in an error answer may be relied on: one subproblem of an odd shape must not cost the rest.
    pub(super) fn from_body(body: &[u8]) -> Option<Problem> {
        let document: Value = serde_json::from_slice(body).ok()?;
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let problem_type = text(&document, "type");
        let detail = text(&document, "detail");
        if problem_type.is_none() && detail.is_none() {
            return None;
        }
        let subproblems = document.get("subproblems").and_then(Value::as_array);
        Some(Problem {
            // RFC 7807 §3.1: an absent type is about:blank.
            problem_type: cleaned(&problem_type.unwrap_or_else(|| "about:blank".to_owned()), 256),
            detail: cleaned(&detail.unwrap_or_default(), LONGEST_DETAIL),
            status: document.get("status").and_then(Value::as_u64).and_then(|status| u16::try_from(status).ok()),
            subproblems: subproblems
                .into_iter()
                .flatten()
                .take(MOST_SUBPROBLEMS)
                .map(|part| Subproblem {
                    identifier: part
                        .pointer("/identifier/value")
                        .and_then(Value::as_str)
                        .map(|value| cleaned(value, 256)),
                    problem_type: cleaned(&text(part, "type").unwrap_or_default(), 256),
                    detail: cleaned(&text(part, "detail").unwrap_or_default(), LONGEST_DETAIL),
                })
                .collect(),
        })
    }
}

/// Problems inside orders, authorizations and challenges are parsed by the crate.
impl From<&instant_acme::Problem> for Problem {
    fn from(problem: &instant_acme::Problem) -> Self {
        let text = |text: &Option<String>, longest| cleaned(text.as_deref().unwrap_or_default(), longest);
        Problem {
            problem_type: cleaned(problem.r#type.as_deref().unwrap_or("about:blank"), 256),
            detail: text(&problem.detail, LONGEST_DETAIL),
            status: problem.status,
            subproblems: problem
                .subproblems
                .iter()
                .take(MOST_SUBPROBLEMS)
                .map(|part| Subproblem {
                    identifier: part
                        .identifier
                        .as_ref()
                        .map(|identifier| cleaned(&identifier.authorized(false).to_string(), 256)),
                    problem_type: text(&part.r#type, 256),
                    detail: text(&part.detail, LONGEST_DETAIL),
                })
                .collect(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.problem_type)?;
        for part in &self.subproblems {
            let identifier = part.identifier.as_deref().unwrap_or("?");
            write!(f, "; {identifier}: {} ({})", part.detail, part.problem_type)?;
        }
        Ok(())
    }
}

impl Subproblem {
    fn as_problem(&self) -> Problem {
        Problem {
            problem_type: self.problem_type.clone(),
            detail: String::new(),
            status: None,
            subproblems: Vec::new(),
        }
    }
}

impl AcmeError {
    /// For a request that was not sent, because the CA has just limited our rate.
    pub(super) fn limited_before(request: RequestKind, left: Duration) -> Self {
        let class = ErrorClass::RateLimited;
        Self { class, problem: None, status: None, retry_after: Some(left), request, source: None }
    }

    pub(super) fn of_failure(request: RequestKind, failure: Failure) -> Self {
        let failure = match failure {
            // A newNonce that is 404 says nothing about the order that needed the nonce.
            Failure::NoNonce(Some(inner)) => return Self::of_failure(RequestKind::Directory, *inner),
            failure => failure,
        };
        let (status, problem, retry_after) = match &failure {
            Failure::Refused(answer) => (Some(answer.status), answer.problem(), answer.retry_after),
            _ => (None, None, None),
        };
        AcmeError {
            class: class_of(request, status, problem.as_ref()),
            problem,
            status,
            retry_after,
            request,
            source: Some(Box::new(failure)),
        }
    }

    /// For what the crate returns: our transport's failure travels through it and is taken out again here.
    pub(super) fn of_crate(request: RequestKind, error: instant_acme::Error) -> Self {
        match error {
            instant_acme::Error::Other(inner) => match inner.downcast::<Failure>() {
                Ok(failure) => Self::of_failure(request, *failure),
                Err(other) => Self::broken_protocol(request, other),
            },
            other => Self::broken_protocol(request, other),
        }
    }

    /// The CA answered with success and nonsense. Like a 5xx: its fault, and it may pass.
    pub(super) fn broken_protocol(request: RequestKind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::without_answer(request, ErrorClass::RetryLater, Some(source.into()))
    }

    pub(super) fn of_store(request: RequestKind, error: StoreError) -> Self {
        Self::without_answer(request, ErrorClass::RetryLater, Some(error.into()))
    }

    /// The account cannot sign as long as nobody repairs it.
    pub(super) fn unusable_account(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::without_answer(RequestKind::NewAccount, ErrorClass::FatalForAccount, Some(source.into()))
    }

    /// The object is not in the state that the request needs.
    pub(super) fn wrong_state(request: RequestKind, source: &'static str) -> Self {
        Self::without_answer(request, ErrorClass::LookAgain, Some(source.into()))
    }

    /// The ACME order ended `invalid` with this problem.
    pub(super) fn of_dead_order(request: RequestKind, problem: Option<Problem>) -> Self {
        let class = problem.as_ref().map_or(ErrorClass::NewOrderNeeded, class_of_authorization_problem);
        AcmeError { problem, ..Self::without_answer(request, class, None) }
    }

    /// The failure was not the CA's: our own database did not answer.
    pub fn store_failure(&self) -> Option<&StoreError> {
        self.source.as_deref()?.downcast_ref()
    }

    /// An error that no answer of the CA led to.
    pub fn without_answer(
        request: RequestKind,
        class: ErrorClass,
        source: Option<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        AcmeError { class, problem: None, status: None, retry_after: None, request, source }
    }

    /// What a CA says to a signature by a key that is not, or not any more, the account's: RFC 8555 has no problem for that.
    pub(super) fn may_be_of_another_key(&self) -> bool {
        self.problem.as_ref().is_some_and(|problem| matches!(problem.name(), "malformed" | "unauthorized"))
    }

    /// RFC 8555 §6.7: the CA does not know the account that signed.
    pub(super) fn account_is_unknown(&self) -> bool {
        self.problem.as_ref().is_some_and(|problem| problem.name() == "accountDoesNotExist")
    }
}

impl fmt::Display for AcmeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ACME {} failed", self.request)?;
        if let Some(status) = self.status {
            write!(f, " with HTTP {status}")?;
        }
        match &self.problem {
            Some(problem) => write!(f, ": {problem}"),
            None => Ok(()),
        }
    }
}

impl StdError for AcmeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        }
    }
}

impl fmt::Display for RequestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "directory",
            Self::NewAccount => "newAccount",
            Self::NewOrder => "newOrder",
            Self::Order => "order",
            Self::Authorization => "authorization",
            Self::Deactivate => "deactivation of an authorization",
            Self::Challenge => "challenge",
            Self::Finalize => "finalize",
            Self::Certificate => "certificate",
            Self::RenewalInfo => "renewalInfo",
            Self::Account => "account",
            Self::Revoke => "revocation",
        })
    }
}

fn short_name(problem_type: &str) -> &str {
    problem_type.strip_prefix(URN).unwrap_or(problem_type)
}

fn cleaned(text: &str, longest: usize) -> String {
    let mut cleaned = String::new();
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if cleaned.len() + c.len_utf8() > longest {
            break;
        }
        cleaned.push(c);
    }
    cleaned
}

#[cfg(test)]
mod tests;
