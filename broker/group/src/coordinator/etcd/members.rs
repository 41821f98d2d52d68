//! The members of an etcd cluster: one of them is asked, and the next one after a failure.

use super::super::causes;
use http::uri::PathAndQuery;
use prost::Message;
use sluice_env::sync::Mutex;
use std::error::Error;
use tokio::time::{Instant, timeout_at};
use tonic::{
    Request, Response,
    client::Grpc,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// What becomes of a request that was sent and not answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// The next member is asked the same: twice is as good as once.
    AskAgain,
    /// Nothing: it may have been carried out, and a second one would be answered as if it had not.
    GiveUp,
}

pub(super) struct Members {
    endpoints: Vec<Endpoint>,
    used: Mutex<Used>,
}

struct Used {
    /// How often a member has failed so far. It chooses the next one, and tells a failure of this connection from a late one of those before.
    turn: usize,
    channel: Option<Channel>,
}

impl Members {
    /// There must be at least one.
    pub(super) fn new(endpoints: Vec<Endpoint>) -> Self {
        Self { endpoints, used: Mutex::new(Used { turn: 0, channel: None }) }
    }

    /// What one of them answers, or what was wrong with each that was tried.
    pub(super) async fn ask<Q, A>(&self, method: &'static str, request: &Q, unanswered: Unanswered, deadline: Instant) -> Result<A, String>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let mut failures = Vec::new();
        for tried in 0..self.endpoints.len() {
            let left = u32::try_from(self.endpoints.len() - tried).unwrap_or(u32::MAX);
            let now = Instant::now();
            // One that hangs leaves the others their share of the time.
            let share = now + deadline.saturating_duration_since(now) / left;
            let turn = self.used.lock().turn;
            let connected = by(share, self.connect(turn)).await;
            let is_sent = connected.is_ok();
            let until = if unanswered == Unanswered::GiveUp { deadline } else { share };
            let answer = match connected {
                Ok(channel) => by(until, send(channel, method, request.clone())).await,
                Err(why) => Err(why),
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(why) => failures.push(format!("{}: {why}", self.failed(turn))),
            }
            if is_sent && unanswered == Unanswered::GiveUp {
                break;
            }
        }
        Err(failures.join("; "))
    }

    fn member(&self, turn: usize) -> &Endpoint {
        &self.endpoints[turn % self.endpoints.len()]
    }

    async fn connect(&self, turn: usize) -> Result<Channel, String> {
        let open = {
            let used = self.used.lock();
            used.channel.clone().filter(|_| used.turn == turn)
        };
        if let Some(channel) = open {
            return Ok(channel);
        }
        let channel = self.member(turn).connect().await.map_err(|error| causes(&error))?;
        let mut used = self.used.lock();
        if used.turn == turn {
            used.channel = Some(channel.clone());
        }
        Ok(channel)
    }

    /// The next one is asked from now on. Says which one it was.
    fn failed(&self, turn: usize) -> String {
        let mut used = self.used.lock();
        if used.turn == turn {
            *used = Used { turn: turn + 1, channel: None };
        }
        self.member(turn).uri().to_string().trim_end_matches('/').to_owned()
    }
}

async fn send<Q, A>(channel: Channel, method: &'static str, request: Q) -> Result<A, String>
where
    Q: Message + Clone + 'static,
    A: Message + Default + 'static,
{
    let mut request = Request::new(request);
    // A member that knows of no leader says so at once in place of waiting for one.
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| causes(&error))?;
    let answer = client.unary(request, PathAndQuery::from_static(method), ProstCodec::default()).await;
    // Either etcd has refused it, in words, or there was no answer, for a cause.
    answer.map(Response::into_inner).map_err(|status| status.source().map_or_else(|| status.message().to_owned(), causes))
}

async fn by<T>(until: Instant, done: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout_at(until, done).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}
