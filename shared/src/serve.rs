//! How every listener serves: connections with limits, headers for browsers and caches, and a stop that lets answers finish.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::response::Response;
use axum::{Router, middleware};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

/// For the head of a request, from the connection's start or the end of the answer before. An idle connection is closed
/// after it.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
const LARGEST_HEAD: usize = 32 * 1024;
/// A client that takes nothing of its answer for this long is cut off.
const TAKE_WITHIN: Duration = Duration::from_secs(30);
/// Pause after the system has refused a connection (no file descriptors left, for example).
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// When a listener stops.
#[derive(Clone)]
pub struct Until {
    /// From here on every answer asks its client to use the connection no more.
    pub leaving: CancellationToken,
    /// From here on nobody is let in.
    pub stop: CancellationToken,
    /// For the answers under way then.
    pub grace: Duration,
}

/// Serves until `stop`, then ends idle connections and waits for answers under way, at most `grace`. Beyond
/// `max_connections` new ones wait in the system's queue.
pub async fn serve(listener: TcpListener, router: Router, max_connections: usize, until: Until) {
    let Until { leaving, stop, grace } = until;
    let router = router.layer(middleware::map_response(set_security_headers));
    let router = router.layer(middleware::map_response_with_state(leaving, ask_to_leave));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_header_size(LARGEST_HEAD);
    let slots = Arc::new(Semaphore::new(max_connections));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let accept = async {
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                    continue;
                }
            };
            // A small answer must not wait for the client's acknowledgement of the one before.
            drop(stream.set_nodelay(true));
            let service = TowerToHyperService::new(router.clone());
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(TAKE_WITHIN));
            let connection = graceful.watch(http.serve_connection(TokioIo::new(Box::pin(stream)), service));
            connections.spawn(async move {
                // A client that breaks off or stays silent is no event: requests are logged where they are answered.
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection ended");
                }
                drop(slot);
            });
            while connections.try_join_next().is_some() {}
        }
    };
    stop.run_until_cancelled(accept).await;
    drop(listener);
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("SHUTDOWN_GRACE is over: dropping the requests still under way");
    }
}

/// For the day somebody opens an answer in a browser, or a cache stands in between.
async fn set_security_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(nothing);
    response
}

/// So that the next request takes a connection of its own, which leads to another process.
async fn ask_to_leave(State(leaving): State<CancellationToken>, mut answer: Response) -> Response {
    if leaving.is_cancelled() {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}
