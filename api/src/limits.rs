//! What every request is held to before a handler sees it: a body that comes in time and fits, a place among those being
//! answered, and an answer in time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;

use crate::lifecycle::error::ApiError;

const LARGEST_BODY: usize = 64 * 1024;
const BODY_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The body of a request, read before anything else is done for it: a client that sends slowly holds nothing but its own
/// connection. What was wrong with it is the handler's to say, in its turn.
#[derive(Clone)]
pub(crate) struct Received(Result<Bytes, BodyFault>);

#[derive(Clone, Copy)]
enum BodyFault {
    TooLarge,
    TooSlow,
    Broken,
}

impl Received {
    pub(crate) fn bytes(&self) -> Result<&Bytes, ApiError> {
        self.0.as_ref().map_err(|fault| match fault {
            BodyFault::TooLarge => ApiError::TooLarge,
            BodyFault::TooSlow => ApiError::BadRequest("the body was not sent within 10 s".to_owned()),
            BodyFault::Broken => ApiError::BadRequest("the body could not be read".to_owned()),
        })
    }

    /// Reads on and throws away what is too much: a connection that is closed while the client sends takes the answer with
    /// it.
    async fn read(mut body: Body) -> Self {
        let mut bytes = Vec::new();
        let mut is_too_large = false;
        let whole = async {
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|_| BodyFault::Broken)?.into_data() else { continue };
                is_too_large |= bytes.len() + data.len() > LARGEST_BODY;
                if !is_too_large {
                    bytes.extend_from_slice(&data);
                }
            }
            Ok(())
        };
        let read = tokio::time::timeout(BODY_WITHIN, whole).await;
        Self(match read {
            _ if is_too_large => Err(BodyFault::TooLarge),
            Ok(Ok(())) => Ok(bytes.into()),
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(BodyFault::TooSlow),
        })
    }
}

impl<S: Sync> FromRequestParts<S> for Received {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(parts.extensions.get::<Self>().cloned().expect("limits::hold runs before every handler"))
    }
}

/// Requests answered at once by this process.
#[derive(Clone)]
pub(crate) struct Places(Arc<Semaphore>);

impl Places {
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)))
    }
}

/// How a surface says that something is wrong.
pub(crate) type Say = fn(ApiError) -> Response;

pub(crate) async fn hold(State((places, say)): State<(Places, Say)>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(Received::read(body).await);
    let Ok(_place) = places.0.try_acquire() else {
        return say(ApiError::Unavailable("too many requests are being answered; try again"));
    };
    let answer = next.run(Request::from_parts(parts, Body::empty()));
    match tokio::time::timeout(ANSWER_WITHIN, answer).await {
        Ok(response) => response,
        Err(_) => say(ApiError::Unavailable("the request could not be answered in time")),
    }
}
