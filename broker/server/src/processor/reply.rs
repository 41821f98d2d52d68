//! The one answer that each request gets.

use super::{Answer, Failure, Outcome, failure::shortened, side::Fence};
use crate::{
    net::{Connection, Permit, SendFailed},
    telemetry::RequestMetrics,
};
use sluice_protocol::{Header, ResponseCode, Serialization};
use std::{sync::Arc, time::Instant};

/// Where a request's answer goes. It keeps nothing of the request's bytes, so that a request held for long does not hold its receive buffer; and it makes
/// sure that there is an answer, and only one: dropped without one, it says so to the client.
pub(super) struct Reply {
    connection: Arc<Connection>,
    request: i32,
    opaque: i32,
    serialization: Serialization,
    oneway: bool,
    begun: Instant,
    metrics: Arc<RequestMetrics>,
    answered: bool,
    /// Of a master: what is only right while it is master is not told when it is none any more.
    fence: Option<Fence>,
    _permit: Permit,
}

impl Reply {
    pub(super) fn new(connection: &Arc<Connection>, header: &Header, permit: Permit, metrics: &Arc<RequestMetrics>, fence: Option<Fence>) -> Self {
        Self {
            connection: Arc::clone(connection),
            request: header.code,
            opaque: header.opaque,
            serialization: header.serialization,
            oneway: header.is_oneway(),
            begun: Instant::now(),
            metrics: Arc::clone(metrics),
            answered: false,
            fence,
            _permit: permit,
        }
    }

    /// Answers with what the request came to.
    pub(super) fn outcome(mut self, outcome: Outcome) {
        let is_void = self.fence.as_ref().is_some_and(|fence| !fence.lets_through(&outcome));
        let outcome = if is_void { Err(Failure::new(ResponseCode::SystemBusy, "this broker may not be master any more; ask again")) } else { outcome };
        match outcome {
            Ok(answer) => self.put(answer),
            Err(Failure { code, remark }) => self.put(Answer { code, remark: Some(shortened(remark)), ..Answer::success() }),
        }
    }

    /// Answers that nobody here knows such a request.
    pub(super) fn not_supported(self) {
        let remark = format!(" request type {} not supported", self.request);
        self.outcome(Err(Failure::new(ResponseCode::RequestCodeNotSupported, remark)));
    }

    fn put(&mut self, answer: Answer) {
        self.answered = true;
        self.metrics.answered(self.request, answer.code.to_wire(), self.begun.elapsed());
        if self.oneway {
            return;
        }
        let request = Header { opaque: self.opaque, serialization: self.serialization, ..Header::default() };
        let mut header = Header::response_to(&request, answer.code).with_ext(answer.ext);
        header.remark = answer.remark.map(Into::into);
        match self.connection.reply(&header, answer.body) {
            Ok(()) | Err(SendFailed::Closed(_)) => {}
            Err(SendFailed::Encode(error)) => {
                tracing::error!(request = self.request, %error, "an answer can't be written");
                let header = Header::response_to(&request, ResponseCode::SystemError).with_remark("the answer does not fit into a frame");
                // Small: if this fails the connection has ended.
                let _ = self.connection.reply(&header, Vec::new());
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // Held requests of a connection that has ended are dropped, and rightly so.
        if !self.answered && !self.connection.is_closed() {
            tracing::error!(request = self.request, peer = %self.connection.peer(), "a request was dropped without an answer; this is a defect");
            self.put(Answer {
                code: ResponseCode::SystemError,
                remark: Some("the broker has dropped the request; this is a defect, see its log".to_owned()),
                ..Answer::success()
            });
        }
    }
}
