//! A Service as Kubernetes has it: each connection goes to one of the replicas that are ready, in turn, and stays there
//! until either side ends it. Whoever is not ready gets no new connections, and keeps those that it has.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_tests::stack::waiting::pause_until;
use countersign_tests::stack::{Stack, local_http};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A tenth of the SHUTDOWN_DELAY that the test gives its replicas.
const PROBE_EVERY: Duration = Duration::from_millis(100);

/// Gone when it is dropped, with all connections.
pub(super) struct Service {
    address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Service {
    /// Before these replicas of the API; some may not have been started yet.
    pub(super) async fn start(stack: &Stack, replicas: &[&str]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ready, mut is_ready) = watch::channel(Vec::new());
        let probed = replicas.iter().map(|replica| {
            (format!("{}/readyz", stack.admin_url(replica)), stack.plan().replicas[*replica].port.unwrap())
        });
        let mut serving = JoinSet::new();
        serving.spawn(probe(probed.collect(), ready));
        is_ready.wait_for(|ports| !ports.is_empty()).await.unwrap();
        serving.spawn(serve(listener, is_ready));
        Self { address, _serving: serving }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn probe(replicas: Vec<(String, u16)>, ready: watch::Sender<Vec<u16>>) {
    let client = local_http::client(None).unwrap();
    loop {
        let began = Instant::now();
        let mut ports = Vec::new();
        for (url, port) in &replicas {
            if local_http::answers(&client, url).await {
                ports.push(*port);
            }
        }
        ready.send_if_modified(|now| std::mem::replace(now, ports.clone()) != ports);
        pause_until(began + PROBE_EVERY).await;
    }
}

async fn serve(listener: TcpListener, ready: watch::Receiver<Vec<u16>>) {
    let (ready, mut connections) = (Arc::new(ready), JoinSet::new());
    for turn in 0.. {
        let (mut client, _) = listener.accept().await.unwrap();
        let ready = Arc::clone(&ready);
        connections.spawn(async move {
            let port = {
                let ports = ready.borrow();
                ports[turn % ports.len()]
            };
            // A replica that refuses is a failed request: the client sees its connection end.
            let Ok(mut replica) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
            drop(tokio::io::copy_bidirectional(&mut client, &mut replica).await);
        });
        while connections.try_join_next().is_some() {}
    }
}
