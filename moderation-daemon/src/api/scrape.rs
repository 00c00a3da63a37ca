//! Metrics over TCP, for a Prometheus on this host that cannot read a Unix socket. On the
//! loopback alone, for metrics say how a host defends itself; bounded, for everybody on
//! the host can ask.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Method, Request, Response, StatusCode, header},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{Context, HEAD_TIMEOUT, Stop, kernel, socket::recover};
use crate::{clock, telemetry::Throttle};

/// Connections at once; beyond, they are closed.
const MAX_CONNECTIONS: usize = 8;
/// How long one may take, from its first byte to its last.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A bound port.
#[derive(Debug)]
pub struct Scrape(TcpListener);

impl Scrape {
    /// Binds it.
    ///
    /// # Errors
    ///
    /// If it is taken, or may not be bound.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        TcpListener::bind(address).await.map(Self)
    }

    /// Answers `GET /metrics` until told to stop.
    pub async fn serve(self, context: Context, mut stop: Stop) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut lines = Throttle::default();
        loop {
            let accepted = tokio::select! {
                () = stop.asked() => return,
                accepted = self.0.accept() => accepted,
            };
            let refused = match accepted {
                Ok((stream, _)) => match Arc::clone(&places).try_acquire_owned() {
                    Ok(place) => {
                        tokio::spawn(connection(stream, context.clone(), place));
                        continue;
                    }
                    Err(_) => "too many connections at once".to_owned(),
                },
                Err(error) => {
                    recover().await;
                    error.to_string()
                }
            };
            context.metrics.problem("scrape-refused");
            if let Some(suppressed) = lines.permit(clock::now().boot_ms) {
                tracing::warn!(refused, suppressed, "metrics were asked for in vain");
            }
        }
    }
}

async fn connection(stream: TcpStream, context: Context, _place: OwnedSemaphorePermit) {
    let service = service_fn(|request| answer(request, context.clone()));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "whoever asked for metrics went away"),
        Err(_) => tracing::debug!("whoever asked for metrics took too long"),
    }
}

async fn answer(
    request: Request<Incoming>,
    context: Context,
) -> Result<Response<Body>, Infallible> {
    let is_right = request.method() == Method::GET && request.uri().path() == "/metrics";
    let status = match is_right {
        true => StatusCode::OK,
        false => StatusCode::NOT_FOUND,
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if is_right {
        match kernel::metrics_text(context).await {
            Ok(text) => {
                let kind = header::HeaderValue::from_static(kernel::OPEN_METRICS);
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                *response.body_mut() = Body::from(text);
            }
            Err(_) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
    Ok(response)
}
