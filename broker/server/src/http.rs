//! The HTTP endpoint: metrics, liveness, readiness. Read only.

mod bounded;

use crate::telemetry::Telemetry;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpListener;

/// Scrapes at one time; more are refused.
const SCRAPES_AT_ONCE_MAX: usize = 4;

/// How long one answer may take to be made.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// One reason why this process should get no traffic now.
pub type Check = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// Whether this process should get traffic, and if not, why not.
pub struct Readiness {
    /// What the start is at.
    starting: Box<dyn Fn() -> String + Send + Sync>,
    /// Set when all listeners are open.
    checks: OnceLock<Vec<Check>>,
    stopping: AtomicBool,
}

impl Readiness {
    /// Not serving yet, for the reason that `starting` tells; ready once [`Readiness::started`] was called and no check objects.
    #[must_use]
    pub fn new(starting: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { starting: Box::new(starting), checks: OnceLock::new(), stopping: AtomicBool::new(false) }
    }

    /// All listeners are open. What speaks against traffic from now on is asked of `checks`. A second call changes nothing.
    pub fn started(&self, checks: Vec<Check>) {
        let _ = self.checks.set(checks);
    }

    /// The process is about to stop: send nothing new.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Everything that speaks against traffic, in plain words; empty when ready.
    #[must_use]
    pub fn objections(&self) -> Vec<String> {
        let checks = self.checks.get();
        let mut reasons = Vec::new();
        if self.stopping.load(Ordering::Acquire) {
            reasons.push("the server is stopping".to_owned());
        } else if checks.is_none() {
            reasons.push((self.starting)());
        }
        reasons.extend(checks.into_iter().flatten().filter_map(|check| check()));
        reasons
    }
}

/// What the handlers need.
#[derive(Clone)]
struct Shared {
    telemetry: Arc<Telemetry>,
    readiness: Arc<Readiness>,
    permits: Arc<tokio::sync::Semaphore>,
}

/// Serves until `stop` resolves.
pub async fn serve(
    listener: TcpListener,
    telemetry: Arc<Telemetry>,
    readiness: Arc<Readiness>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let shared = Shared { telemetry, readiness, permits: Arc::new(tokio::sync::Semaphore::new(SCRAPES_AT_ONCE_MAX)) };
    let routes = Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(shared);
    axum::serve(bounded::Bounded::new(listener), routes).with_graceful_shutdown(stop).await
}

async fn index() -> &'static str {
    concat!(
        "Sluice ",
        env!("CARGO_PKG_VERSION"),
        "\n\n/metrics  numbers for Prometheus\n/healthz  200 while the process lives\n/readyz   200 when it takes traffic, else 503 and the reasons\n"
    )
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let Ok(_permit) = shared.permits.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at once; scrape less often\n").into_response();
    };
    // Snapshots take locks and may ask the file system: not on a task that carries connections.
    let encoded = tokio::task::spawn_blocking(move || shared.telemetry.encode());
    match tokio::time::timeout(ANSWER_DEADLINE, encoded).await {
        Ok(Ok(Ok(text))) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Ok(Ok(Err(error))) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics cannot be encoded: {error}\n")).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("collecting the metrics failed: {error}\n")).into_response(),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "collecting the metrics took too long\n").into_response(),
    }
}

async fn ready(State(shared): State<Shared>) -> Response {
    let objections = shared.readiness.objections();
    if objections.is_empty() { "ready\n".into_response() } else { (StatusCode::SERVICE_UNAVAILABLE, objections.join("\n") + "\n").into_response() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("listening");
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        answer
    }

    #[tokio::test]
    async fn readiness_says_in_words_why_it_is_not_ready() {
        let full = Arc::new(AtomicBool::new(false));
        let disk = Arc::clone(&full);
        let readiness = Arc::new(Readiness::new(|| "half of the log is read".to_owned()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let telemetry = Arc::new(Telemetry::new().expect("fresh"));
        let server = tokio::spawn(serve(listener, telemetry, Arc::clone(&readiness), std::future::pending()));

        assert!(fetch(address, "/readyz").await.ends_with("half of the log is read\n"));
        readiness.started(vec![Box::new(move || disk.load(Ordering::Relaxed).then(|| "the disk is full".to_owned()))]);
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        full.store(true, Ordering::Relaxed);
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("the disk is full\n"), "{answer}");
        readiness.stopping();
        assert!(fetch(address, "/readyz").await.contains("stopping"));
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/metrics").await.contains("sluice_build_info"));
        assert!(fetch(address, "/").await.contains("/metrics"));
        server.abort();
    }
}
