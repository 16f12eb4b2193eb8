//! Connections: how many there may be, and how long a request may take to say what it wants.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use adir::{Error, Result};
use axum::body::Body;
use axum::extract::Request;
use axum::middleware;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;

use super::api::{self, Shared};
use super::guard::{self, Guard, Reached};
use super::{Notice, Tell};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 512;
/// The time for the headers of a request, and for the next request of a connection.
const HEADERS: Duration = Duration::from_secs(10);
/// Bytes of headers.
const MOST_HEADERS: usize = 64 << 10;
/// How often it is looked whether to end.
const LOOK: Duration = Duration::from_millis(50);
/// After a failure to accept (too many open files), it is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// An open port.
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

/// Opens the port.
pub fn open(address: SocketAddr) -> Result<Listening> {
    let failed = |e: std::io::Error| Error::Io { path: address.to_string().into(), source: e };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Listening { listener, address })
}

impl Listening {
    /// Answers until `stop` says so.
    pub fn serve(self, shared: Shared, guard: Arc<Guard>, stop: &impl Fn() -> bool, tell: &Tell) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|e| Error::Limits(format!("no threads to answer on: {e}")))?;
        let mut shown = self.address;
        if shown.ip().is_unspecified() {
            // It listens at every address of this machine: this one can be opened here.
            shown.set_ip(if shown.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        let address = match &guard.token {
            Some(token) => format!("http://{shown}/?token={token}"),
            None => format!("http://{shown}/"),
        };
        let router = api::router(shared).layer(middleware::from_fn_with_state(guard, guard::check));
        let done = runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(self.listener);
            let listener = listener.map_err(|e| Error::Io { path: self.address.to_string().into(), source: e })?;
            tell(&Notice::Listening { address });
            let places = Arc::new(Semaphore::new(CONNECTIONS));
            let mut look = tokio::time::interval(LOOK);
            loop {
                let accepted = tokio::select! {
                    _ = look.tick() => {
                        if stop() {
                            return Ok(());
                        }
                        continue;
                    }
                    accepted = accept(&listener, &places) => accepted,
                };
                let Ok((stream, place)) = accepted else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                let Ok(reached) = stream.local_addr() else { continue };
                let service = TowerToHyperService::new(router.clone());
                let service = service_fn(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(Reached(reached));
                    hyper::service::Service::call(&service, request.map(Body::new))
                });
                tokio::spawn(async move {
                    let _place = place;
                    // Small answers are not held back; a system that cannot do so is slower.
                    let _ = stream.set_nodelay(true);
                    let mut http = http1::Builder::new();
                    http.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(MOST_HEADERS);
                    // The client may break off at any time.
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        // Streams of events have no end of their own.
        runtime.shutdown_timeout(Duration::from_millis(500));
        done
    }
}

type Accepted = (tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &tokio::net::TcpListener, places: &Arc<Semaphore>) -> std::io::Result<Accepted> {
    let place = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    Ok((listener.accept().await?.0, place))
}
