//! The one answer that each request gets.

use super::{
    Answer, Failure, Outcome,
    failure::shortened,
    forward::{FORWARDED, NOT_MASTER, UNDONE, VOID},
    side::Fence,
};
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
    /// Another member has handed the request on.
    is_from_member: bool,
    _permit: Option<Permit>,
}

impl Reply {
    pub(super) fn new(
        connection: &Arc<Connection>,
        header: &Header,
        permit: impl Into<Option<Permit>>,
        metrics: &Arc<RequestMetrics>,
        fence: Option<Fence>,
    ) -> Self {
        Self {
            connection: Arc::clone(connection),
            request: header.code,
            opaque: header.opaque,
            serialization: header.serialization,
            oneway: header.is_oneway(),
            begun: Instant::now(),
            metrics: Arc::clone(metrics),
            answered: false,
            is_from_member: fence.is_some() && header.ext.get(FORWARDED).is_some(),
            fence,
            _permit: permit.into(),
        }
    }

    /// Answers with what the request came to.
    pub(super) fn outcome(mut self, outcome: Outcome) {
        if self.is_void(&outcome) {
            let answer = self.void();
            return self.put(answer);
        }
        self.tell(outcome);
    }

    /// The same, and `instead` if this broker may not be master any more, so that what the request came to is not told.
    pub(super) fn outcome_or(mut self, outcome: Outcome, instead: impl FnOnce() -> Answer) {
        if self.is_void(&outcome) {
            return self.put(instead());
        }
        self.tell(outcome);
    }

    fn is_void(&self, outcome: &Outcome) -> bool {
        self.fence.as_ref().is_some_and(|fence| !fence.lets_through(outcome))
    }

    fn tell(mut self, outcome: Outcome) {
        match outcome {
            Ok(answer) => self.put(answer),
            Err(Failure { code, remark }) => self.put(Answer { code, remark: Some(shortened(remark)), ..Answer::success() }),
        }
    }

    fn void(&self) -> Answer {
        // What waits for the log and is void was not stored: producers of all languages send again on the code that says so.
        let is_undone = self.fence.as_ref().is_some_and(Fence::confirms_success);
        let (code, mark) = if is_undone { (ResponseCode::ServiceNotAvailable, UNDONE) } else { (ResponseCode::SystemBusy, VOID) };
        let mut answer = Answer { code, remark: Some("this broker may not be master any more; ask again".to_owned()), ..Answer::success() };
        if self.is_from_member {
            answer.ext.insert(NOT_MASTER, mark);
        }
        answer
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
