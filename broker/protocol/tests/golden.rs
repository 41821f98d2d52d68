//! What the official client and broker write is read as what it means, and written as the same bytes where the format leaves no choice.
//! See `testdata/golden/README.md`.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

use bytes::BytesMut;
use serde_json::Value;
use sluice_protocol::batch::{self, BatchMessage};
use sluice_protocol::body::{ClusterInfo, HeartbeatData, LockBatchRequestBody, RegisterBrokerBody, TopicRouteData, from_json};
use sluice_protocol::compress::{Compression, inflate};
use sluice_protocol::headers::*;
use sluice_protocol::message_id::OffsetMessageId;
use sluice_protocol::record::{self, RecordFields, RecordView};
use sluice_protocol::{Frame, FrameLimits, Language, RequestCode, ResponseCode, Serialization, Step, java, next_frame, properties};
use std::path::PathBuf;

const NOW: i64 = 1_700_000_000_123;

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/golden").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The frame in both forms; they say the same, and each is written back byte for byte.
fn frame(name: &str) -> Frame {
    let [json, binary] = [("json", Serialization::Json), ("binary", Serialization::Binary)].map(|(form, serialization)| {
        let bytes = golden(&format!("frame-{name}-{form}.bin"));
        let mut buffer = BytesMut::from(&bytes[..]);
        let Step::Frame(frame) = next_frame(&mut buffer, &FrameLimits::default()).unwrap() else { panic!("{name}: half a frame") };
        assert!(buffer.is_empty());
        assert_eq!((frame.header.serialization, frame.header.language), (serialization, Language::Java), "{name}");
        assert_eq!((frame.header.opaque, frame.header.version), (42, 513), "{name}");
        let mut out = BytesMut::new();
        frame.encode(&mut out).unwrap();
        assert_eq!(out, bytes, "{name} {form}");
        frame
    });
    assert_eq!(json.header.ext, binary.header.ext, "{name}");
    assert_eq!((json.header.code, json.header.flag, &json.header.remark), (binary.header.code, binary.header.flag, &binary.header.remark));
    assert_eq!(json.body, binary.body);
    json
}

fn request(name: &str, code: RequestCode) -> Frame {
    let frame = frame(name);
    assert_eq!(frame.header.request_code(), Some(code));
    assert!(!frame.header.is_response());
    frame
}

#[test]
fn a_send_is_read_under_long_and_short_names() {
    let long = request("send", RequestCode::SendMessage);
    let short = request("send-v2", RequestCode::SendMessageV2);
    let send = SendMessageRequest::decode(&long.header.ext).unwrap();
    assert_eq!(SendMessageRequest::decode_v2(&short.header.ext).unwrap(), send);
    assert_eq!(send.encode_v2(), short.header.ext);
    assert_eq!(send.encode(), long.header.ext);
    assert_eq!((&*send.producer_group, &*send.topic, send.queue_id, send.flag), ("producers", "orders", 3, -7));
    assert_eq!((send.born_timestamp, send.max_reconsume_times, &*long.body), (NOW, Some(16), &b"hello, golden"[..]));
    assert_eq!(properties::get(&send.properties, "KEYS"), Some("k \"1\" \\"));
    assert_eq!(properties::get(&send.properties, "TAGS"), Some("grün 😀\n"));
}

#[test]
fn a_pull_and_an_offset_query_are_read_and_written() {
    let frame = request("pull", RequestCode::PullMessage);
    let pull = PullMessageRequest::decode(&frame.header.ext).unwrap();
    assert_eq!((&*pull.consumer_group, pull.queue_offset, pull.max_msg_nums, pull.sys_flag), ("consumers", 1_234_567_890_123, 32, 7));
    assert_eq!((pull.commit_offset, pull.suspend_timeout_millis), (-1, 15_000));
    assert_eq!((pull.subscription.as_deref(), pull.expression_type.as_deref(), pull.sub_version), (Some("TagA || TagB"), Some("TAG"), NOW));
    assert_eq!(pull.encode(), frame.header.ext);
    let frame = request("query-offset", RequestCode::QueryConsumerOffset);
    assert_eq!(QueryConsumerOffsetRequest::decode(&frame.header.ext).unwrap().encode(), frame.header.ext);
}

#[test]
fn the_end_of_a_transaction_is_oneway() {
    let frame = request("end-transaction", RequestCode::EndTransaction);
    assert!(frame.header.is_oneway());
    let end = EndTransactionRequest::decode(&frame.header.ext).unwrap();
    assert_eq!((end.tran_state_table_offset, end.commit_log_offset, end.commit_or_rollback), (5, 6, 8));
    assert!(end.from_transaction_check);
    assert_eq!(end.encode(), frame.header.ext);
}

#[test]
fn answers_are_read_and_written() {
    let answer = frame("send-response");
    assert!(answer.header.is_response());
    assert_eq!(answer.header.response_code(), Some(ResponseCode::Success));
    let sent = SendMessageResponse::decode(&answer.header.ext).unwrap();
    assert_eq!((&*sent.msg_id, sent.queue_id, sent.queue_offset), ("7F00000100002A9F0000000000001234", 3, 99));
    assert_eq!(sent.encode(), answer.header.ext);
    let error = frame("error-response");
    assert_eq!(error.header.response_code(), Some(ResponseCode::TopicNotExist));
    assert_eq!(error.header.remark.as_deref(), Some("topic[\"a\\b\"] not exist\n"));
}

#[test]
fn a_heartbeat_tells_of_groups_and_subscriptions() {
    let body = request("heartbeat", RequestCode::HeartBeat).body;
    let heartbeat: HeartbeatData = from_json(&body).unwrap();
    assert_eq!((heartbeat.client_id.as_str(), heartbeat.producer_data_set[0].group_name.as_str()), ("10.0.0.1@7#8", "producers"));
    let consumer = &heartbeat.consumer_data_set[0];
    assert_eq!((consumer.consume_type.as_str(), consumer.message_model.as_str()), ("CONSUME_PASSIVELY", "CLUSTERING"));
    let subscription = &consumer.subscription_data_set[0];
    assert_eq!((subscription.topic.as_str(), subscription.sub_string.as_str(), subscription.sub_version), ("orders", "TagA || TagB", NOW));
    assert_eq!(subscription.code_set, subscription.tags_set.iter().map(|t| java::string_hash(t)).collect::<Vec<_>>());
    assert_eq!(serde_json::to_value(&heartbeat).unwrap(), from_json::<Value>(&body).unwrap());
}

#[test]
fn locks_routes_and_clusters_are_read_and_written() {
    let body = request("lock", RequestCode::LockBatchMq).body;
    let lock: LockBatchRequestBody = from_json(&body).unwrap();
    assert_eq!((lock.mq_set[0].topic.as_str(), lock.mq_set[0].queue_id), ("orders", 3));
    assert_eq!(serde_json::to_value(&lock).unwrap(), from_json::<Value>(&body).unwrap());

    let route: TopicRouteData = from_json(&golden("body-route.bin")).unwrap();
    assert_eq!(route.broker_datas[0].broker_addrs[&1], "127.0.0.1:10921");
    assert_eq!((route.queue_datas[0].read_queue_nums, route.queue_datas[0].write_queue_nums), (4, 8));
    assert_eq!(serde_json::to_value(&route).unwrap(), from_json::<Value>(&golden("body-route.bin")).unwrap());

    let cluster: ClusterInfo = from_json(&golden("body-cluster.bin")).unwrap();
    assert_eq!(cluster.cluster_addr_table["DefaultCluster"], ["broker-a"]);
    assert_eq!(serde_json::to_value(&cluster).unwrap(), from_json::<Value>(&golden("body-cluster.bin")).unwrap());
}

#[test]
fn object_keys_are_read_as_their_text() {
    let stats: Value = from_json(&golden("body-consume-stats.bin")).unwrap();
    let (key, offsets) = stats["offsetTable"].as_object().unwrap().iter().next().unwrap();
    let queue: sluice_protocol::body::MessageQueue = from_json(key.as_bytes()).unwrap();
    assert_eq!((queue.broker_name.as_str(), queue.queue_id, &offsets["brokerOffset"]), ("broker-a", 3, &Value::from(9)));
}

#[test]
fn a_registration_is_the_same_compressed_and_plain() {
    let read = |name: &str, compressed: bool| {
        let frame = request(name, RequestCode::RegisterBroker);
        let header = RegisterBrokerRequest::decode(&frame.header.ext).unwrap();
        assert_eq!((header.compressed, &*header.broker_name, header.broker_id), (compressed, "broker-a", 0));
        assert_eq!(header.body_crc32.cast_unsigned(), record::crc31(&frame.body));
        RegisterBrokerBody::decode(&frame.body, header.compressed).unwrap()
    };
    let (plain, compressed) = (read("register", false), read("register-compressed", true));
    assert_eq!(plain, compressed);
    let wrapper = plain.topic_config_serialize_wrapper;
    assert_eq!((wrapper.data_version.counter, wrapper.data_version.timestamp), (12, NOW));
    assert_eq!(wrapper.topic_config_table["orders"].attributes["message.type"], "FIFO");
}

#[test]
fn a_batch_is_read_and_written() {
    let bytes = golden("batch.bin");
    let messages: Vec<BatchMessage<'_>> = batch::decode(&bytes, 10).collect::<Result<_, _>>().unwrap();
    assert_eq!(messages.iter().map(|m| m.body).collect::<Vec<_>>(), [&b"first"[..], b"second", b""]);
    assert_eq!((messages[0].flag, properties::get(messages[0].properties, properties::TAGS)), (5, Some("TagA")));
    assert_eq!(properties::get(messages[1].properties, properties::WAIT), Some("false"));
    let mut out = Vec::new();
    for message in &messages {
        batch::encode(message, &mut out).unwrap();
    }
    assert_eq!(out, bytes);
}

#[test]
fn stored_records_are_read_and_written() {
    let long = "t".repeat(200);
    let cases = [
        ("v1", "orders", "10.1.2.3:4567", "127.0.0.1:10911"),
        ("v1-ipv6", "orders", "[2001:db8::1]:4567", "[2001:db8::2]:10911"),
        ("v2", &long, "10.1.2.3:4567", "127.0.0.1:10911"),
    ];
    for (name, topic, born_host, store_host) in cases {
        let bytes = golden(&format!("record-{name}.bin"));
        let view = RecordView::checked(&bytes).unwrap();
        assert_eq!((view.topic(), view.body(), view.user_properties()), (topic, &b"stored body"[..], "TAGS\u{1}TagA\u{2}"), "{name}");
        assert_eq!((view.queue_offset(), view.log_offset(), view.store_timestamp()), (5, 4096, NOW + 333), "{name}");
        let fields = RecordFields {
            topic,
            queue_id: 3,
            flag: 9,
            sys_flag: 0,
            born_timestamp: NOW,
            born_host: born_host.parse().unwrap(),
            store_host: store_host.parse().unwrap(),
            reconsume_times: 2,
            prepared_transaction_offset: 77,
            body: b"stored body",
            properties: "TAGS\u{1}TagA\u{2}",
        };
        let mut out = Vec::new();
        record::encode(&fields, &mut out).unwrap();
        record::seal(&mut out, 5, 4096, NOW + 333);
        assert_eq!(out, bytes, "{name}");
    }
}

#[test]
fn every_algorithm_of_the_client_is_inflated() {
    let text = "all work and no play makes a dull golden file. ".repeat(200);
    for (name, compression) in [("zlib", Compression::Zlib), ("lz4", Compression::Lz4), ("zstd", Compression::Zstd)] {
        let bytes = golden(&format!("compressed-{name}.bin"));
        assert_eq!(inflate(&bytes, compression, text.len()).unwrap(), text.as_bytes(), "{name}");
    }
}

#[test]
fn ids_and_hashes_are_those_of_java() {
    let ids = String::from_utf8(golden("message-ids.txt")).unwrap();
    let read: Vec<_> = ids.lines().map(|id| OffsetMessageId::decode(id).unwrap()).collect();
    assert_eq!(read.iter().map(|id| format!("{}\n", id.encode())).collect::<String>(), ids);
    assert_eq!((read[0].store_host.to_string(), read[0].log_offset), ("127.0.0.1:10911".into(), 0x1234));
    assert_eq!((read[1].store_host.to_string(), read[1].log_offset), ("[2001:db8::2]:10911".into(), i64::MAX));
    for line in String::from_utf8(golden("java-hashes.txt")).unwrap().lines() {
        let (hash, text) = line.split_once(' ').unwrap();
        assert_eq!(java::string_hash(text).to_string(), hash, "{text}");
    }
}
