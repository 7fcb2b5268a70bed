//! What can become of a request, and a constructor for each fault that a CA or the way to it is known for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::header::DATE;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::asked::Asked;
use super::reply::Reply;
use crate::certificate;

/// RFC 9110 section 5.6.7.
const HTTP_DATE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// The problem types of RFC 8555 section 6.7, without the prefix of the URN.
pub const PROBLEMS: [&str; 24] = [
    "accountDoesNotExist",
    "alreadyRevoked",
    "badCSR",
    "badNonce",
    "badPublicKey",
    "badRevocationReason",
    "badSignatureAlgorithm",
    "caa",
    "compound",
    "connection",
    "dns",
    "externalAccountRequired",
    "incorrectResponse",
    "invalidContact",
    "malformed",
    "orderNotReady",
    "rateLimited",
    "rejectedIdentifier",
    "serverInternal",
    "tls",
    "unauthorized",
    "unsupportedContact",
    "unsupportedIdentifier",
    "userActionRequired",
];

/// What becomes of a request.
#[derive(Clone)]
pub enum Fault {
    /// Nothing unusual: a request that the others shall be counted from.
    None,
    /// This answer; the CA is not asked.
    Answer(Reply),
    /// The connection is closed; the CA is not asked.
    HangUp,
    /// The CA's answer, changed; `None` closes the connection instead.
    Change(Change),
    /// So much later, the other.
    Late(Duration, Box<Fault>),
}

type Change = Arc<dyn Fn(&Asked, Reply) -> Option<Reply> + Send + Sync>;

/// How a CA says when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    Seconds(u32),
    /// So many seconds after the answer's own `Date`.
    HttpDate(u32),
}

impl Fault {
    pub fn change(change: impl Fn(Reply) -> Reply + Send + Sync + 'static) -> Self {
        Self::Change(Arc::new(move |_, reply| Some(change(reply))))
    }

    /// The CA's answers with success changed in their JSON; other answers stay.
    pub fn change_json(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::change(move |reply| if reply.is_success() { reply.with_json(&change) } else { reply })
    }

    /// The CA does what it was asked, and nobody hears of it.
    pub fn lose_answer() -> Self {
        Self::Change(Arc::new(|_, _| None))
    }

    /// The CA gets it late.
    pub fn late(by: Duration) -> Self {
        Self::Late(by, Box::new(Self::None))
    }

    /// 500, 502, 503: the proxy of a CA speaks.
    pub fn html(status: u16) -> Self {
        Self::Answer(Reply::html(status))
    }

    /// A CA that is busy (503) and says for how long.
    pub fn busy(retry_after: RetryAfter) -> Self {
        Self::Answer(Reply::html(503).retry_after(retry_after))
    }

    /// RFC 8555 section 6.6.
    pub fn rate_limited(retry_after: RetryAfter) -> Self {
        let detail = "too many requests of this account: see https://letsencrypt.org/docs/rate-limits/";
        Self::Answer(Reply::problem(429, "rateLimited", detail).retry_after(retry_after))
    }

    /// RFC 8555 section 6.5; the client finds no fresh nonce in the answer.
    pub fn bad_nonce() -> Self {
        Self::Answer(Reply::problem(400, "badNonce", "JWS has an invalid anti-replay nonce"))
    }

    /// For a finalize: RFC 8555 section 7.4.
    pub fn order_not_ready() -> Self {
        Self::Answer(Reply::problem(403, "orderNotReady", "Order's status (\"processing\") is not acceptable"))
    }

    /// For an order, finalize, authorization or challenge that the CA has thrown away.
    pub fn expired() -> Self {
        Self::Answer(Reply::problem(404, "malformed", "No order for ID; expired"))
    }

    /// For orders and finalizes: what the CA has issued already stays `processing`.
    pub fn stuck_in_processing() -> Self {
        Self::change_json(|order| {
            if order["status"] == "valid" {
                order["status"] = "processing".into();
                order.as_object_mut().map(|order| order.remove("certificate"));
            }
        })
    }

    /// For orders: they are `invalid`, and their authorizations say why.
    pub fn invalid_order() -> Self {
        Self::change_json(|order| order["status"] = "invalid".into())
    }

    /// For authorizations: they became `invalid` with a problem of this type, without the prefix of the URN.
    pub fn invalid_authorization(problem: &str, detail: &str) -> Self {
        Self::invalid_authorization_of(Reply::problem(403, problem, detail).json())
    }

    /// The same for several problems in one (section 6.7.1).
    pub fn invalid_authorization_of_several(problems: &[&str], detail: &str) -> Self {
        let mut compound = Reply::problem(403, "compound", detail).json();
        compound["subproblems"] = problems.iter().map(|problem| Reply::problem(403, problem, detail).json()).collect();
        Self::invalid_authorization_of(compound)
    }

    fn invalid_authorization_of(problem: Value) -> Self {
        Self::change_json(move |authorization| {
            authorization["status"] = "invalid".into();
            for challenge in authorization["challenges"].as_array_mut().into_iter().flatten() {
                challenge["status"] = "invalid".into();
                challenge["error"] = problem.clone();
            }
        })
    }

    /// For certificates: the very names, for a key that nobody here has.
    pub fn chain_for_another_key() -> Self {
        Self::change(|reply| {
            let chain = same_names_another_key(&reply.body).unwrap_or_default();
            Reply::of_ca(reply.status, reply.headers, chain.into())
        })
    }

    /// For certificates: the last one ends in the middle, and the answer is complete.
    pub fn truncated_chain() -> Self {
        Self::change(|mut reply| {
            reply.body.truncate(reply.body.len() - reply.body.len() / 8);
            reply
        })
    }

    /// The connection ends in the middle of the CA's answer.
    pub fn cut_answer() -> Self {
        Self::change(Reply::cut)
    }

    /// So many MiB of what begins like JSON, sent as they are read.
    pub fn huge_answer(mebibytes: u64) -> Self {
        let mut mebibyte = vec![b' '; 1 << 20];
        mebibyte[0] = b'{';
        Self::Answer(Reply::new(200, "application/json", mebibyte).repeated(mebibytes))
    }
}

impl Reply {
    #[must_use]
    pub fn retry_after(self, retry_after: RetryAfter) -> Self {
        let now = OffsetDateTime::from(SystemTime::now());
        let date = |at: OffsetDateTime| at.format(HTTP_DATE).expect("every date has this form");
        let value = match retry_after {
            RetryAfter::Seconds(seconds) => seconds.to_string(),
            RetryAfter::HttpDate(seconds) => date(now + Duration::from_secs(seconds.into())),
        };
        self.header(DATE.as_str(), &date(now)).header("retry-after", &value)
    }
}

/// PEM of a leaf with the names of the first certificate in `chain`, and of the CA that issued it.
fn same_names_another_key(chain: &[u8]) -> anyhow::Result<String> {
    let leaf = CertificateDer::from_pem_slice(chain)?;
    let (_, leaf) = X509Certificate::from_der(&leaf)?;
    let issuer_key = KeyPair::generate()?;
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name.push(DnType::CommonName, "Another CA");
    issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let leaf = CertificateParams::new(certificate::names(&leaf))?;
    let issuer_pem = issuer.self_signed(&issuer_key)?.pem();
    let leaf = leaf.signed_by(&KeyPair::generate()?, &Issuer::from_params(&issuer, &issuer_key))?;
    Ok(leaf.pem() + &issuer_pem)
}
