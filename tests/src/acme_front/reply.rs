//! An answer of the CA, real or made up, and how its body is sent: whole, many times over, or cut in the middle.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::{io, mem};

use hyper::Response;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Value, json};

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    sent: Sent,
}

#[derive(Clone, Copy, Debug)]
enum Sent {
    /// So often, one copy after the other, without ever being held as a whole.
    Times(u64),
    /// The head announces all of it, and the connection ends after so many bytes.
    Part(usize),
}

impl Reply {
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        Self::of_ca(status, headers, body.into())
    }

    pub(super) fn of_ca(status: u16, headers: HeaderMap, body: Bytes) -> Self {
        Self { status, headers, body, sent: Sent::Times(1) }
    }

    /// A problem document (RFC 8555 section 6.7); `name` without the prefix of the URN.
    pub fn problem(status: u16, name: &str, detail: &str) -> Self {
        let problem = json!({"type": format!("urn:ietf:params:acme:error:{name}"), "detail": detail, "status": status});
        Self::new(status, "application/problem+json", problem.to_string())
    }

    /// What a proxy in front of a CA says.
    pub fn html(status: u16) -> Self {
        Self::new(status, "text/html", "<html><body>Our servers are <b>busy</b>.</body></html>")
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().expect("a header's value"));
        self
    }

    /// The same answer with its JSON changed.
    #[must_use]
    pub fn with_json(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let mut body = self.json();
        change(&mut body);
        self.body = body.to_string().into();
        self
    }

    /// The body `times` times in a row.
    #[must_use]
    pub fn repeated(self, times: u64) -> Self {
        Self { sent: Sent::Times(times), ..self }
    }

    /// The connection ends in the middle of the body.
    #[must_use]
    pub fn cut(self) -> Self {
        Self { sent: Sent::Part(self.body.len() / 2), ..self }
    }

    /// The body; `null` if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(super) fn into_response(self) -> hyper::http::Result<Response<ReplyBody>> {
        let whole = self.body.len() as u64;
        let (copy, copies, cut) = match self.sent {
            Sent::Times(times) => (self.body, times, false),
            Sent::Part(length) => (self.body.slice(..length), 1, true),
        };
        let announced = if cut { whole } else { whole * copies };
        let body = ReplyBody { copy, copies, announced, cut, flushed: false };
        let mut response = Response::builder().status(self.status).body(body)?;
        *response.headers_mut() = self.headers;
        Ok(response)
    }
}

pub(super) struct ReplyBody {
    copy: Bytes,
    copies: u64,
    /// What is left of the length in the head.
    announced: u64,
    cut: bool,
    flushed: bool,
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.copies == 0 || self.copy.is_empty() {
            if self.cut && !mem::replace(&mut self.flushed, true) {
                // What was sent so far leaves first.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(self.cut.then(|| Err(io::ErrorKind::ConnectionAborted.into())));
        }
        self.copies -= 1;
        self.announced -= self.copy.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(self.copy.clone()))))
    }

    fn is_end_stream(&self) -> bool {
        !self.cut && (self.copies == 0 || self.copy.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.announced)
    }
}
