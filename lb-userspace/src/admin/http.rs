//! /metrics, /healthz and /readyz.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};

use crate::{
    event::{Request, Snapshot},
    metrics::Metrics,
};

/// A controller that takes longer than this is not well.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Shared {
    requests: mpsc::Sender<Request>,
    metrics: Arc<Metrics>,
}

/// Binds the address.
///
/// # Errors
///
/// If it is taken or not this host's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot bind {address} for metrics; change metrics.listen"))
}

/// Serves until the process ends.
///
/// # Errors
///
/// If the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    requests: mpsc::Sender<Request>,
    metrics: Arc<Metrics>,
) -> Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Shared { requests, metrics });
    axum::serve(listener, router).await.context("the metrics server has failed")
}

async fn metrics_page(State(shared): State<Shared>) -> impl IntoResponse {
    let Some(snapshot) = snapshot(&shared).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, [("content-type", "text/plain")], String::new());
    };
    match shared.metrics.render(&snapshot) {
        Ok(text) => (StatusCode::OK, [("content-type", prometheus::TEXT_FORMAT)], text),
        Err(cause) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [("content-type", "text/plain")],
            format!("{cause:#}\n"),
        ),
    }
}

/// Alive: the controller's loop answers.
async fn healthz(State(shared): State<Shared>) -> impl IntoResponse {
    match snapshot(&shared).await {
        Some(_) => (StatusCode::OK, "ok\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the controller does not answer\n"),
    }
}

/// Ready: attached, and the maps say what the configuration wants.
async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    match snapshot(&shared).await {
        Some(snapshot) if snapshot.ready => (StatusCode::OK, "ready\n"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "the maps are not written yet\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the controller does not answer\n"),
    }
}

async fn snapshot(shared: &Shared) -> Option<Snapshot> {
    let (reply, answer) = oneshot::channel();
    let ask = async {
        shared.requests.send(Request::Snapshot(reply)).await.ok()?;
        answer.await.ok()
    };
    tokio::time::timeout(PATIENCE, ask).await.ok().flatten()
}
