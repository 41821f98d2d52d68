//! Looking messages up.

use super::{Answer, BrokerProcessor, Failure, Outcome, Reply, Request};
use sluice_delivery::Delivery;
use sluice_protocol::{
    ResponseCode,
    headers::{QueryMessageRequest, QueryMessageResponse, ViewMessageRequest},
};
use std::sync::Arc;

impl BrokerProcessor {
    pub(super) fn query_message(&self, request: &Request<'_>, reply: Reply) {
        match request.fields::<QueryMessageRequest>() {
            Ok(header) => {
                let delivery = Arc::clone(&self.delivery);
                self.queries.run(reply, move || query_message(&delivery, &header));
            }
            Err(failure) => reply.outcome(Err(failure)),
        }
    }

    pub(super) fn view_message(&self, request: &Request<'_>) -> Outcome {
        let header: ViewMessageRequest = request.fields()?;
        let record = self.delivery.view_message(header.offset)?;
        Ok(Answer { body: vec![record], ..Answer::success() })
    }
}

fn query_message(delivery: &Delivery, header: &QueryMessageRequest) -> Outcome {
    // A unique id is made once: the tools ask for more only because the field is there.
    let max = usize::try_from(header.max_num).unwrap_or(0);
    let found = delivery.query_by_key(&header.topic, &header.key, max, header.begin_timestamp, header.end_timestamp)?;
    if found.is_empty() {
        let remark = format!("no message of topic {} has the key {} between these times", header.topic, header.key);
        return Err(Failure::new(ResponseCode::QueryNotFound, remark));
    }
    let fields = QueryMessageResponse {
        // The index takes a key in before its message is acknowledged: it is never behind.
        index_last_update_timestamp: super::runtime::now_ms(),
        index_last_update_phyoffset: delivery.store().status().appended.to_wire(),
    };
    Ok(Answer { body: found, ..Answer::fields(&fields) })
}
