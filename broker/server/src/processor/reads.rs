//! The port at which a member of a group is read from while it is a replica. What comes here is meant for this very member: pulls and messages by their place are answered from
//! its own log, its readers' heartbeats are its own business. Everything else, and everything while it is master, goes the way that it goes at the broker's other ports.

use super::{
    Answer, Code, Processor, Reply, Request,
    clients::{heartbeat_of_client, leave_of_client},
    failure::Outcome,
    send::{pull_request, pulled},
    side::BrokerSide,
};
use crate::net::{Connection, Permit, Service};
use sluice_delivery::{PullRequest, ReplicaReads};
use sluice_protocol::{Frame, headers::ViewMessageRequest};
use std::sync::Arc;

/// Stands behind that port.
pub struct ReadProcessor {
    side: Arc<BrokerSide>,
    reads: Arc<ReplicaReads>,
    others: Arc<Processor>,
}

impl ReadProcessor {
    /// Answers by `reads` what it can, and by `others` the rest.
    #[must_use]
    pub fn new(side: Arc<BrokerSide>, reads: Arc<ReplicaReads>, others: Arc<Processor>) -> Arc<Self> {
        Arc::new(Self { side, reads, others })
    }

    /// The pull, if it is to be answered here: one that commits an offset is the master's, as is everything while this broker is master.
    fn pull_here(&self, request: &Request<'_>) -> Option<PullRequest> {
        pull_request(request).ok().filter(|pull| pull.commit_offset.is_none() && self.side.master().is_none())
    }

    fn view_here(&self, request: &Request<'_>) -> Option<Answer> {
        let header: ViewMessageRequest = request.fields().ok()?;
        let record = self.reads.view_message(&*self.side.member()?.store()?, header.offset)?;
        Some(Answer { body: vec![record], ..Answer::success() })
    }

    fn answer(&self, code: Option<Code>, request: &Request<'_>) -> Option<Outcome> {
        match code? {
            Code::PullMessage | Code::LitePullMessage => {
                let pull = self.pull_here(request)?;
                let store = self.side.member().and_then(|member| member.store());
                Some(pulled(Ok(self.reads.pull(store.as_ref(), &pull))))
            }
            Code::ViewMessageById => self.view_here(request).map(Ok),
            // Not handed on: the reader tells the master itself, at the group's address, and would be there twice.
            Code::HeartBeat => Some(heartbeat_of_client(request).map(|(client, _, consumers)| {
                self.reads.heartbeat(&client, consumers);
                Answer::success()
            })),
            Code::UnregisterClient => Some(leave_of_client(request).map(|(client, _, consumer)| {
                if let Some(consumer) = consumer {
                    self.reads.unregister(&client, &consumer);
                }
                Answer::success()
            })),
            _ => None,
        }
    }
}

impl Service for ReadProcessor {
    fn on_frame(&self, connection: &Arc<Connection>, frame: Frame, permit: Permit) {
        let code = frame.header.request_code().filter(|_| !frame.header.is_response());
        let answer = self.answer(code, &Request { header: &frame.header, body: frame.body.clone(), connection });
        match answer {
            Some(outcome) => Reply::new(connection, &frame.header, permit, &self.others.metrics, None).outcome(outcome),
            None => self.others.on_frame(connection, frame, permit),
        }
    }

    fn on_read(&self, body: &mut dyn FnMut()) {
        self.others.on_read(body);
    }

    fn on_close(&self, connection: &Arc<Connection>) {
        self.reads.connection_closed(connection.id());
        self.others.on_close(connection);
    }
}
