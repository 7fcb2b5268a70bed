//! A route of axum's that answers a constant: what HTTP costs by itself.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::thread::JoinHandle;

use anyhow::Result;
use axum::Router;
use axum::routing::get;
use tokio::sync::oneshot;

use crate::wrk::{Answered, Load};

/// A running one, on threads of its own. It ends when it is dropped.
pub(super) struct Hello {
    url: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Hello {
    pub(super) fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("it was bound");
                let router = Router::new().route("/hello", get(async || "hello, world"));
                let stopped = async { drop(stopped.await) };
                // Nobody is left to be told.
                let _ = axum::serve(listener, router).with_graceful_shutdown(stopped).await;
            });
        });
        Ok(Self { url, stop: Some(stop), thread: Some(thread) })
    }

    pub(super) async fn load(&self, connections: usize, seconds: u64, folder: &Path) -> Result<Answered> {
        let lua = "function request() return wrk.format('GET', '/hello') end";
        Load { url: &self.url, lua, arguments: &[], connections, seconds }.run(folder).await
    }
}

impl Drop for Hello {
    fn drop(&mut self) {
        self.stop.take();
        // A panic there has been shown there.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
