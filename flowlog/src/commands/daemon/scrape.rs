//! Answers Prometheus: a small HTTP server on the runtime of the receiving side.
//!
//! The number of connections and their time are bounded, and nothing here waits for a client: a slow one
//! costs a slot for some seconds, and flows are read meanwhile.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use crate::commands::metrics::Exposition;

/// Connections at a time. Those that come later wait in the backlog of the socket.
const MAX_CONNECTIONS: usize = 8;

/// The head of a request has less than 1 KiB.
const MAX_REQUEST_BYTES: usize = 16 << 10;

/// How long a connection may take from its first to its last byte; an answer takes less than a millisecond.
const CONNECTION_TIME: Duration = Duration::from_secs(5);

/// How long no connection is taken after one could not be, as where there are no descriptors left.
const PAUSE: Duration = Duration::from_secs(1);

/// Listens on the address, and answers from when the runtime runs.
pub(super) fn serve(address: SocketAddr, exposition: Exposition) -> Result<()> {
    let listen = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok::<_, std::io::Error>((listener.local_addr()?, TcpListener::from_std(listener)?))
    };
    let (bound, listener) = listen()
        .with_context(|| format!("cannot serve metrics on {address}; choose another with --metrics"))?;
    info!("metrics are at http://{bound}/metrics");
    tokio::spawn(accept(listener, Arc::new(exposition)));
    Ok(())
}

async fn accept(listener: TcpListener, exposition: Arc<Exposition>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _client)) => {
                let exposition = Arc::clone(&exposition);
                tokio::spawn(async move {
                    answer(stream, &exposition).await;
                    drop(slot);
                });
            }
            Err(error) => {
                warn!("cannot accept a connection for metrics: {error}; flows are not affected");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, exposition: &Exposition) {
    let service = service_fn(async |request| Ok::<_, Infallible>(respond(&request, exposition)));
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(MAX_REQUEST_BYTES);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("a connection for metrics failed: {error}"),
        Err(_elapsed) => debug!("a connection for metrics took too long"),
    }
}

fn respond<B>(request: &Request<B>, exposition: &Exposition) -> Response<String> {
    let mut response = Response::new(String::new());
    if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
        "metrics are at /metrics\n".clone_into(response.body_mut());
    } else if request.method() != Method::GET {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    } else {
        let content_type = HeaderValue::from_static(Exposition::CONTENT_TYPE);
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        *response.body_mut() = exposition.text();
    }
    response
}
