//! Sending: which queue, and where to go when a broker says no.

use crate::{
    Client, ClientError, Message, QueueAddress, Request, Retry, SendReceipt, SendStatus,
    client::{malformed, now_ms, refused},
};
use parking_lot::Mutex;
use sluice_protocol::{
    Frame, RequestCode, ResponseCode, TypedHeader, WireStr,
    batch::{self, BatchMessage},
    headers::{SendMessageRequest, SendMessageResponse},
    java::string_hash,
};
use sluice_types::{Group, Topic};
use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// The topic whose route new topics take where brokers create topics by themselves.
const AUTO_CREATE_TOPIC: &str = "TBW102";
/// Queues that a topic created by a send gets.
const AUTO_CREATE_QUEUES: u32 = 4;
/// How long a broker that has failed is passed over while another can take the message.
const AVOID_FAILED: Duration = Duration::from_secs(5);

/// Sends messages. Its methods take `&self`: many sends may be under way at once on one connection.
pub struct Producer {
    client: Client,
    group: Group,
    turn: AtomicUsize,
    /// Brokers that have failed lately; one entry a broker address.
    failed: Mutex<HashMap<String, Instant>>,
}

/// A send as it goes to any queue.
struct Prepared {
    header: SendMessageRequest,
    body: bytes::Bytes,
    code: RequestCode,
    unique_id: String,
}

impl Producer {
    /// A producer of this group.
    pub fn new(client: Client, group: &str) -> Result<Self, ClientError> {
        Ok(Self { client, group: Group::new(group)?, turn: AtomicUsize::new(0), failed: Mutex::default() })
    }

    /// Sends a message and waits until it is stored. A broker that can't take it is passed over for another, so that after a lost answer a message may be
    /// stored twice; its unique id stays the same.
    pub async fn send(&self, message: &Message) -> Result<SendReceipt, ClientError> {
        let prepared = self.prepare(message)?;
        let queues = self.queues(&message.topic).await?;
        self.send_prepared(message, prepared, &queues).await
    }

    /// Sends several messages of one topic in one request: all go to one queue, in order. Delay levels are not possible.
    pub async fn send_batch(&self, messages: &[Message]) -> Result<SendReceipt, ClientError> {
        let first = messages.first().ok_or_else(|| ClientError::Message("the batch is empty; give at least one message".to_owned()))?;
        let mut ids = Vec::with_capacity(messages.len());
        let mut body = Vec::new();
        for message in messages {
            if message.topic != first.topic || message.delay_level > 0 {
                return Err(ClientError::Message(
                    "all messages of a batch need the same topic and no delay level; send them in several batches or singly".to_owned(),
                ));
            }
            let id = self.client.unique_id();
            let properties = message.wire_properties(&id)?;
            let part = BatchMessage { flag: message.flag, body: &message.body, properties: &properties };
            batch::encode(&part, &mut body).map_err(|e| ClientError::Message(e.to_string()))?;
            ids.push(id);
        }
        let unique_id = ids.join(",");
        let header = SendMessageRequest { batch: true, ..self.header(&first.topic, first.flag, String::new())? };
        let prepared = Prepared { header, body: body.into(), code: RequestCode::SendBatchMessage, unique_id };
        let queues = self.queues(&first.topic).await?;
        self.send_prepared(first, prepared, &queues).await
    }

    /// Sends a message and waits for nothing but room to write it: nobody learns whether it was stored.
    pub async fn send_oneway(&self, message: &Message) -> Result<(), ClientError> {
        let prepared = self.prepare(message)?;
        let queues = self.queues(&message.topic).await?;
        let queue = self.choose(message, &queues, None)?;
        self.client.oneway(&queue.addr, request(&prepared, queue)).await
    }

    fn prepare(&self, message: &Message) -> Result<Prepared, ClientError> {
        let unique_id = self.client.unique_id();
        let header = self.header(&message.topic, message.flag, message.wire_properties(&unique_id)?)?;
        Ok(Prepared { header, body: message.body.clone(), code: RequestCode::SendMessageV2, unique_id })
    }

    fn header(&self, topic: &str, flag: i32, properties: String) -> Result<SendMessageRequest, ClientError> {
        Topic::new(topic)?;
        Ok(SendMessageRequest {
            producer_group: self.group.as_str().into(),
            topic: topic.into(),
            default_topic: WireStr::from_static(AUTO_CREATE_TOPIC),
            default_topic_queue_nums: AUTO_CREATE_QUEUES as i32,
            born_timestamp: now_ms(),
            flag,
            properties: properties.into(),
            ..SendMessageRequest::default()
        })
    }

    /// The queues that may be written. A topic that does not exist yet is sent to where the cluster creates topics, if it does so.
    async fn queues(&self, topic: &str) -> Result<Vec<QueueAddress>, ClientError> {
        let missing = match self.client.route(topic).await {
            Ok(route) => return Ok(route.writable()),
            Err(error @ ClientError::TopicNotFound { .. }) => error,
            Err(error) => return Err(error),
        };
        let Ok(route) = self.client.route(AUTO_CREATE_TOPIC).await else { return Err(missing) };
        Ok(route.writable().into_iter().filter(|q| q.queue_id < AUTO_CREATE_QUEUES).collect())
    }

    async fn send_prepared(&self, message: &Message, prepared: Prepared, queues: &[QueueAddress]) -> Result<SendReceipt, ClientError> {
        let mut avoid: Option<String> = None;
        let mut attempt = 0;
        loop {
            let queue = self.choose(message, queues, avoid.as_deref())?;
            let error = match self.client.request(&queue.addr, request(&prepared, queue)).await {
                Ok(frame) => match receipt(&frame, queue, &prepared) {
                    Ok(receipt) => {
                        self.failed.lock().remove(&queue.addr);
                        return Ok(receipt);
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let retry = error.retry();
            if retry == Retry::Never || attempt >= self.client.options().send_retries {
                return Err(error);
            }
            if retry == Retry::Reroute {
                self.failed.lock().insert(queue.addr.clone(), Instant::now());
                avoid = Some(queue.broker.clone());
            }
            attempt += 1;
        }
    }

    /// The message's own queue, that of its ordering key, or the next in turn that is not on a broker that has just failed.
    fn choose<'a>(&self, message: &Message, queues: &'a [QueueAddress], avoid: Option<&str>) -> Result<&'a QueueAddress, ClientError> {
        let none = |queue| ClientError::NoQueue { topic: message.topic.clone(), purpose: "write", queue };
        if let Some(id) = message.queue_id {
            return queues.iter().find(|q| q.queue_id == id).ok_or_else(|| none(Some(id)));
        }
        if queues.is_empty() {
            return Err(none(None));
        }
        if let Some(key) = &message.ordering_key {
            return Ok(&queues[string_hash(key).unsigned_abs() as usize % queues.len()]);
        }
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let round = || (start..start + queues.len()).map(|turn| &queues[turn % queues.len()]);
        let failed = self.failed.lock();
        let healthy = |q: &&QueueAddress| failed.get(&q.addr).is_none_or(|at| at.elapsed() > AVOID_FAILED);
        let elsewhere = |q: &&QueueAddress| avoid != Some(q.broker.as_str());
        Ok(round().find(|q| healthy(q) && elsewhere(q)).or_else(|| round().find(elsewhere)).unwrap_or(&queues[start % queues.len()]))
    }
}

fn request(prepared: &Prepared, queue: &QueueAddress) -> Request {
    let header = SendMessageRequest { queue_id: queue.queue_id as i32, broker_name: Some(queue.broker.as_str().into()), ..prepared.header.clone() };
    Request { code: prepared.code.to_wire(), ext: header.encode_v2(), body: prepared.body.clone() }
}

fn receipt(frame: &Frame, queue: &QueueAddress, prepared: &Prepared) -> Result<SendReceipt, ClientError> {
    let status = match frame.header.response_code() {
        Some(ResponseCode::Success) => SendStatus::Stored,
        Some(ResponseCode::FlushDiskTimeout) => SendStatus::FlushTimeout,
        Some(ResponseCode::FlushSlaveTimeout) => SendStatus::ReplicaTimeout,
        Some(ResponseCode::SlaveNotAvailable) => SendStatus::NoReplica,
        _ => return Err(refused(&queue.addr, prepared.code.to_wire(), frame)),
    };
    let answer = SendMessageResponse::decode(&frame.header.ext).map_err(|e| malformed(&queue.addr, prepared.code.to_wire(), &e))?;
    Ok(SendReceipt {
        status,
        unique_id: prepared.unique_id.clone(),
        offset_id: answer.msg_id.to_string(),
        broker: queue.broker.clone(),
        queue_id: answer.queue_id,
        queue_offset: answer.queue_offset,
        transaction_id: answer.transaction_id.map(|id| id.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClientOptions;

    fn queues() -> Vec<QueueAddress> {
        let queue = |broker: &str, queue_id| QueueAddress { broker: broker.into(), addr: format!("{broker}:1"), queue_id };
        vec![queue("a", 0), queue("b", 0), queue("a", 1), queue("b", 1)]
    }

    fn producer() -> Producer {
        Producer::new(Client::new("127.0.0.1:1", ClientOptions::default()).expect("valid"), "g").expect("valid")
    }

    #[test]
    fn turns_go_round_and_leave_out_the_broker_that_failed() {
        let (producer, queues, message) = (producer(), queues(), Message::new("t", ""));
        let chosen = |avoid| producer.choose(&message, &queues, avoid).expect("there").broker.clone();
        assert_eq!((chosen(None), chosen(None), chosen(None)), ("a".into(), "b".into(), "a".into()));
        assert_eq!((chosen(Some("b")), chosen(Some("b"))), ("a".into(), "a".into()));
        producer.failed.lock().insert("a:1".into(), Instant::now());
        assert_eq!((chosen(None), chosen(None)), ("b".into(), "b".into()));
    }

    #[test]
    fn an_ordering_key_keeps_to_one_queue_whatever_has_failed() {
        let (producer, queues) = (producer(), queues());
        let message = Message { ordering_key: Some("order-7".into()), ..Message::new("t", "") };
        let first = producer.choose(&message, &queues, None).expect("there").clone();
        assert!((0..8).all(|_| producer.choose(&message, &queues, Some(&first.broker)).expect("there") == &first));
    }

    #[test]
    fn a_queue_that_is_not_there_is_named() {
        let message = Message { queue_id: Some(9), ..Message::new("t", "") };
        let error = producer().choose(&message, &queues(), None).expect_err("no queue 9");
        assert!(error.to_string().contains("with number 9"), "{error}");
    }
}
