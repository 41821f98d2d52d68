//! `sluice bench idle`.

use super::runtime;
use crate::{Global, error::CliError, output};
use serde::Serialize;
use sluice_client::{Connection, Request};
use sluice_protocol::{RequestCode, TypedHeader, headers::GetRouteInfoRequest};
use std::time::{Duration, Instant};
use tokio::{task::JoinSet, time::sleep};

/// Connections that are made at the same time.
const CONNECTING_MAX: usize = 128;

/// Open connections that do nothing, and see how many stay.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    global: Global,
    /// Connections
    #[arg(long, short = 'c', default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// Connect to this address; without it to the first broker
    #[arg(long, value_name = "HOST:PORT")]
    broker: Option<String>,
    /// How long to hold them
    #[arg(long, default_value = "10", value_parser = super::produce::seconds)]
    seconds: f64,
    /// Seconds between two small requests on each connection, so that it is not idle for the server; without it none is sent
    #[arg(long, value_parser = super::produce::seconds)]
    heartbeat: Option<f64>,
}

#[derive(Serialize)]
struct Outcome {
    broker: String,
    asked: u32,
    opened: usize,
    failed: usize,
    first_failure: Option<String>,
    open_seconds: f64,
    held_seconds: f64,
    still_open: usize,
    heartbeats_failed: usize,
}

pub(super) fn run(args: Args) -> Result<(), CliError> {
    let outcome = runtime()?.block_on(Box::pin(hold(&args)))?;
    output::show(args.global.output, &outcome, |o| {
        output::line(&format!("broker       {}", o.broker))?;
        output::line(&format!("opened       {} of {} in {:.2} s", o.opened, o.asked, o.open_seconds))?;
        output::line(&format!("still open   {} after {:.0} s", o.still_open, o.held_seconds))?;
        output::line(&format!("heartbeats   {} failed", o.heartbeats_failed))
    })?;
    if outcome.opened == 0 {
        return Err(CliError::Unreachable(outcome.first_failure.unwrap_or_else(|| "no connection could be made".to_owned())));
    }
    match outcome.first_failure {
        Some(reason) => Err(CliError::Failed(format!("{} connections could not be made; the first: {reason}", outcome.failed))),
        None => Ok(()),
    }
}

async fn hold(args: &Args) -> Result<Outcome, CliError> {
    let broker = match &args.broker {
        Some(broker) => broker.clone(),
        None => {
            let (_, admin) = args.global.admin().await?;
            admin.masters(None).await?.swap_remove(0)
        }
    };
    let started = Instant::now();
    let (connections, failures) = Box::pin(open(args, &broker)).await;
    let open_seconds = started.elapsed().as_secs_f64();
    let end = Instant::now() + Duration::from_secs_f64(args.seconds);
    let mut heartbeats_failed = 0;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        let pause = args.heartbeat.map_or(left, |s| left.min(Duration::from_secs_f64(s)));
        sleep(pause).await;
        if args.heartbeat.is_some() {
            heartbeats_failed += Box::pin(beat(args, &connections)).await;
        }
    }
    Ok(Outcome {
        broker,
        asked: args.connections,
        opened: connections.len(),
        failed: failures.len(),
        first_failure: failures.into_iter().next(),
        open_seconds,
        held_seconds: args.seconds,
        still_open: connections.iter().filter(|c| c.is_open()).count(),
        heartbeats_failed,
    })
}

async fn open(args: &Args, broker: &str) -> (Vec<Connection>, Vec<String>) {
    let (mut connections, mut failures, mut connecting) = (Vec::new(), Vec::new(), JoinSet::new());
    let bar = output::progress(output::Total::Steps(args.connections.into()), "connections");
    let mut left = args.connections;
    while left > 0 || !connecting.is_empty() {
        while left > 0 && connecting.len() < CONNECTING_MAX {
            left -= 1;
            let (broker, options) = (broker.to_owned(), args.global.options());
            connecting.spawn(async move { Connection::open(&broker, &options, None).await });
        }
        match connecting.join_next().await {
            Some(Ok(Ok(connection))) => connections.push(connection),
            Some(Ok(Err(error))) => failures.push(error.to_string()),
            Some(Err(error)) => failures.push(error.to_string()),
            None => {}
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    (connections, failures)
}

/// Asks something small on every connection; whatever comes back is an answer. Returns how many got none.
async fn beat(args: &Args, connections: &[Connection]) -> usize {
    let ext = GetRouteInfoRequest { topic: "TBW102".into(), accept_standard_json_only: true }.encode();
    let mut failed = 0;
    for some in connections.chunks(CONNECTING_MAX) {
        let mut asked = JoinSet::new();
        for connection in some {
            let (connection, request, wait) =
                (connection.clone(), Request::new(RequestCode::GetRouteinfoByTopic, ext.clone()), args.global.options().request_timeout);
            asked.spawn(async move { connection.request(request, wait).await.is_err() });
        }
        while let Some(outcome) = asked.join_next().await {
            failed += usize::from(outcome.unwrap_or(true));
        }
    }
    failed
}
