//! What Prometheus reads: `GET /metrics`, and `GET /healthz` beside it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::StatusCode;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::Client;
use crate::server::{ServeError, accept_tcp, health_answer};
use crate::{Shared, server};

/// What [`text`] is written in.
pub const CONTENT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics in the text format of Prometheus.
///
/// # Errors
/// When a metric cannot be written; the text says which.
pub fn text(registry: &Registry) -> Result<String, String> {
    let mut out = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut out).map_err(|e| e.to_string())?;
    String::from_utf8(out).map_err(|e| e.to_string())
}

/// Serves the two pages at `address` until `stop`; answers the address with its real port. Anybody who reaches the port
/// may read them: they hold counts and host names, never addresses or content of mail.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve(
    address: SocketAddr,
    shared: Shared,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> Result<SocketAddr, ServeError> {
    let pages = Router::new()
        .route("/metrics", get(|State(shared): State<Shared>| async move { current(&shared) }))
        .route("/healthz", get(|State(shared): State<Shared>| async move { health_answer(&shared) }))
        .fallback(server::no_such_path)
        .method_not_allowed_fallback(server::method_not_allowed)
        .with_state(shared);
    listen(address, pages, stop, tasks)
}

/// Serves the same two pages at `address` from a daemon behind its control socket: for `posternctl metrics --listen`.
///
/// # Errors
/// When the address cannot be listened on.
pub fn proxy(
    address: SocketAddr,
    client: Client,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> Result<SocketAddr, ServeError> {
    async fn forward(client: Arc<Client>, path: &str) -> Response {
        match client.page(path).await {
            Ok((status, kind, body)) => (status, [(CONTENT_TYPE, kind)], body).into_response(),
            Err(error) => (StatusCode::BAD_GATEWAY, format!("{error}\n")).into_response(),
        }
    }
    let pages = Router::new()
        .route(
            "/metrics",
            get(|State(client): State<Arc<Client>>| async move { forward(client, "/metrics").await }),
        )
        .route(
            "/healthz",
            get(|State(client): State<Arc<Client>>| async move { forward(client, "/healthz").await }),
        )
        .fallback(server::no_such_path)
        .method_not_allowed_fallback(server::method_not_allowed)
        .with_state(Arc::new(client));
    listen(address, pages, stop, tasks)
}

fn listen(
    address: SocketAddr,
    pages: Router,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> Result<SocketAddr, ServeError> {
    let (listener, address) = server::listen(address)?;
    tasks.spawn(accept_tcp(listener, pages, stop, tasks.clone()));
    Ok(address)
}

/// The page of all metrics as they are now: the queue's gauges are taken at this moment. They are 0 while it is loaded.
pub(crate) fn current(shared: &Shared) -> Response {
    if let Some(queue) = shared.door.now() {
        queue.update_metrics();
    }
    page(text(&shared.registry))
}

/// The page of [`text`].
fn page(text: Result<String, String>) -> Response {
    match text {
        Ok(text) => ([(CONTENT_TYPE, CONTENT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use prometheus::IntCounter;

    use super::*;

    #[test]
    fn metrics_are_written_as_prometheus_reads_them() {
        let registry = Registry::new();
        let counter = IntCounter::new("postern_test_total", "A test").unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        counter.inc();
        let expected =
            "# HELP postern_test_total A test\n# TYPE postern_test_total counter\npostern_test_total 1\n";
        assert_eq!(text(&registry).unwrap(), expected);
    }
}
