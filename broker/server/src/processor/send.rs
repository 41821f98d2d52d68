//! Sending, ending transactions, sending back, pulling: requests whose answer comes later.

use super::{Answer, BrokerProcessor, Code, Failure, Outcome, Reply, Request, failure::late_code};
use sluice_delivery::{
    EndTransaction, PullError, PullOutcome, PullReply, PullRequest, PullStatus, SendBackRequest, SendError, SendReceipt, SendRequest, Subscription, Verdict,
};
use sluice_protocol::{
    RequestCode, ResponseCode, TypedHeader,
    headers::{ConsumerSendMsgBackRequest, EndTransactionRequest, PullMessageRequest, PullMessageResponse, SendMessageRequest, SendMessageResponse, pull_flag},
    record::sys_flag,
};
use sluice_types::{Group, Topic};
use std::{sync::Arc, time::Duration};

impl BrokerProcessor {
    pub(super) fn send(&self, code: RequestCode, request: &Request<'_>, reply: Reply) {
        let ext = &request.header.ext;
        let decoded = if code == Code::SendMessage { SendMessageRequest::decode(ext) } else { SendMessageRequest::decode_v2(ext) };
        let header = match decoded {
            Ok(header) => header,
            Err(error) => return reply.outcome(Err(error.into())),
        };
        let send = SendRequest {
            topic: &header.topic,
            queue_id: header.queue_id,
            group: &header.producer_group,
            default_topic: &header.default_topic,
            default_queue_count: u32::try_from(header.default_topic_queue_nums).unwrap_or(0),
            sys_flag: header.sys_flag,
            born_timestamp: header.born_timestamp,
            born_host: request.peer(),
            flag: header.flag,
            properties: &header.properties,
            body: request.body.clone(),
            reconsume_times: header.reconsume_times,
            max_reconsume_times: header.max_reconsume_times,
            batch: header.batch || code == Code::SendBatchMessage,
            unit_mode: header.unit_mode,
        };
        if self.told.is_needed() && self.delivery.topics().get(&header.topic).is_none() {
            // It is going to make its topic: the producer looks up the route next.
            let (told, topic) = (Arc::clone(&self.told), header.topic.to_string());
            return self.delivery.send(send, Box::new(move |result| told.when_told(topic, move || reply.outcome(sent(result)))));
        }
        self.delivery.send(send, Box::new(move |result| reply.outcome(sent(result))));
    }

    pub(super) fn end_transaction(&self, request: &Request<'_>, reply: Reply) {
        let header: EndTransactionRequest = match request.fields() {
            Ok(header) => header,
            Err(failure) => return reply.outcome(Err(failure)),
        };
        let Some(verdict) = verdict(header.commit_or_rollback) else {
            let failure = Failure::invalid(format!("{} is no end of a transaction; 8 is commit, 12 roll back, 0 not known", header.commit_or_rollback));
            return reply.outcome(Err(failure));
        };
        let end = EndTransaction {
            group: &header.producer_group,
            queue_offset: header.tran_state_table_offset,
            log_offset: header.commit_log_offset,
            transaction_id: header.transaction_id.as_deref().unwrap_or_default(),
            verdict,
        };
        self.delivery.end_transaction(end, Box::new(move |result| reply.outcome(result.map(|()| Answer::success()).map_err(Failure::from))));
    }

    pub(super) fn send_back(&self, request: &Request<'_>, reply: Reply) {
        match send_back_request(request) {
            Ok(back) => self.delivery.send_back(back, Box::new(move |result| reply.outcome(result.map(|()| Answer::success()).map_err(Failure::from)))),
            Err(failure) => reply.outcome(Err(failure)),
        }
    }

    pub(super) fn pull(&self, request: &Request<'_>, reply: Reply) {
        match pull_request(request) {
            Ok(pull) => {
                let offset = pull.offset;
                self.delivery.pull(pull, Box::new(move |result| reply.outcome_or(pulled(result), || pull_again(offset))));
            }
            Err(failure) => reply.outcome(Err(failure)),
        }
    }
}

fn verdict(commit_or_rollback: i32) -> Option<Verdict> {
    match commit_or_rollback {
        sys_flag::TRANSACTION_COMMIT => Some(Verdict::Commit),
        sys_flag::TRANSACTION_ROLLBACK => Some(Verdict::Rollback),
        0 => Some(Verdict::Unknown),
        _ => None,
    }
}

fn sent(result: Result<SendReceipt, SendError>) -> Outcome {
    match result {
        Ok(receipt) => Ok(receipt_answer(ResponseCode::Success, None, receipt)),
        // The message is there: the producer is told where, with a code that says what is not certain.
        Err(error) => {
            let remark = error.to_string();
            match error {
                SendError::Late(late, receipt) => Ok(receipt_answer(late_code(late), Some(remark), receipt)),
                error => Err(error.into()),
            }
        }
    }
}

fn receipt_answer(code: ResponseCode, remark: Option<String>, receipt: SendReceipt) -> Answer {
    let fields = SendMessageResponse {
        msg_id: receipt.message_ids.into(),
        queue_id: receipt.queue_id,
        queue_offset: receipt.first_queue_offset.to_wire(),
        transaction_id: receipt.transaction_id.map(Into::into),
        ..SendMessageResponse::default()
    };
    let mut ext = fields.encode();
    // Clients put these into the traces they write.
    ext.insert("MSG_REGION", "DefaultRegion");
    ext.insert("TRACE_ON", "true");
    Answer { code, remark, ext, ..Answer::success() }
}

fn send_back_request(request: &Request<'_>) -> Result<SendBackRequest, Failure> {
    let header: ConsumerSendMsgBackRequest = request.fields()?;
    Ok(SendBackRequest {
        group: Group::new(&header.group)?,
        offset: header.offset,
        delay_level: header.delay_level,
        max_reconsume_times: header.max_reconsume_times,
        unit_mode: header.unit_mode,
    })
}

pub(super) fn pull_request(request: &Request<'_>) -> Result<PullRequest, Failure> {
    let header: PullMessageRequest = request.fields()?;
    let has = |flag| header.sys_flag & flag != 0;
    let group = Group::new(&header.consumer_group)?;
    let topic = Topic::new(&header.topic)?;
    let subscription = if has(pull_flag::SUBSCRIPTION) {
        let expression = header.subscription.as_deref().unwrap_or("*");
        let kind = header.expression_type.as_deref().unwrap_or("");
        Some(Subscription::parse(topic.clone(), expression, kind, header.sub_version).map_err(PullError::from)?)
    } else {
        None
    };
    Ok(PullRequest {
        group,
        topic,
        queue_id: header.queue_id,
        offset: header.queue_offset,
        max_messages: u32::try_from(header.max_msg_nums).unwrap_or(1).max(1),
        max_bytes: header.max_msg_bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes > 0),
        commit_offset: Some(header.commit_offset).filter(|offset| has(pull_flag::COMMIT_OFFSET) && *offset >= 0),
        suspend: has(pull_flag::SUSPEND).then(|| Duration::from_millis(u64::try_from(header.suspend_timeout_millis).unwrap_or(0))),
        subscription,
        subscription_version: header.sub_version,
        connection: request.connection.id(),
    })
}

/// To be pulled again at once, from the same offset: no consumer has to know that another broker is master. They pause for seconds after an error.
fn pull_again(offset: i64) -> Answer {
    let fields = PullMessageResponse { next_begin_offset: offset, max_offset: offset, ..PullMessageResponse::default() };
    Answer { code: ResponseCode::PullRetryImmediately, remark: Some("ASK_MASTER".to_owned()), ext: fields.encode(), ..Answer::success() }
}

pub(super) fn pulled(result: PullReply) -> Outcome {
    let outcome = result?;
    let code = match outcome.status {
        PullStatus::Found => ResponseCode::Success,
        PullStatus::NoNewMessage => ResponseCode::PullNotFound,
        PullStatus::NoMatched => ResponseCode::PullRetryImmediately,
        PullStatus::OffsetMoved => ResponseCode::PullOffsetMoved,
    };
    let PullOutcome { remark, next, bounds, slices, topic_sys_flag, group_sys_flag, suggest, .. } = outcome;
    let fields = PullMessageResponse {
        suggest_which_broker_id: suggest,
        next_begin_offset: next.to_wire(),
        min_offset: bounds.min.to_wire(),
        max_offset: bounds.max.to_wire(),
        topic_sys_flag: Some(topic_sys_flag),
        group_sys_flag: Some(group_sys_flag),
        ..PullMessageResponse::default()
    };
    Ok(Answer { code, remark: Some(remark.to_owned()), ext: fields.encode(), body: slices })
}
