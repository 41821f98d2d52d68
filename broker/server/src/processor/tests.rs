use super::*;
use crate::{
    net::{Listener, Net, NetLimits},
    telemetry::Telemetry,
};
use bytes::{Bytes, BytesMut};
use sluice_delivery::DeliveryOptions;
use sluice_naming::RouteTable;
use sluice_protocol::{
    ExtFields, FrameLimits, ResponseCode, Step, TypedHeader, WireStr,
    body::{self, HeartbeatData, KvTable, TopicRouteData},
    headers::{
        CheckTransactionStateRequest, CreateTopicRequest, DeleteTopicRequest, EndTransactionRequest, GetConsumeStatsRequest, GetConsumerListByGroupRequest,
        GetRouteInfoRequest, GetTopicStatsInfoRequest, KvConfigRequest, PullMessageRequest, PullMessageResponse, PutKvConfigRequest,
        QueryConsumerOffsetRequest, RegisterBrokerRequest, ResetOffsetRequest, SendMessageRequest, SendMessageResponse, UpdateConsumerOffsetRequest, pull_flag,
    },
    next_frame,
    record::RecordView,
};
use sluice_store::{Store, StoreOptions};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const SOON: Duration = Duration::from_secs(10);

struct World {
    net: Arc<Net>,
    delivery: Arc<Delivery>,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl World {
    /// Both roles behind one port, on a real directory.
    async fn start() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut DeliveryOptions)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let env = sluice_env::real::env(dir.path()).expect("a directory");
        let options = StoreOptions { segment_bytes: 4 << 20, ..StoreOptions::default() };
        let store = Store::open(env.clone(), options).expect("empty");
        let net = Net::new(NetLimits::default());
        let host = "127.0.0.1:10911".parse().expect("literal");
        let spawn: sluice_delivery::SpawnWork = Arc::new(|work| drop(std::thread::spawn(work)));
        let table = Arc::new(RouteTable::new(env.clock.clone()));
        let pushes = Arc::new(Pushes::new(Arc::clone(&net)));
        let mut options = DeliveryOptions::new(host);
        change(&mut options);
        let delivery = Delivery::open(Arc::clone(&store), env, options, pushes, spawn).expect("opens");
        let local = LocalBroker { cluster: "c".into(), name: "b".into(), id: 0, address: host.to_string() };
        delivery.topics().set_listener(local.listener(Arc::clone(&table)));
        local.register(&table, &delivery).expect("first");
        let metrics = Telemetry::new().expect("fresh").requests;
        let naming = NamingProcessor::new(table, store);
        let processor = Processor::new(
            Some(BrokerSide::alone(BrokerProcessor::new(Arc::clone(&delivery), local, Told::new(0, tokio::runtime::Handle::current())))),
            Some(naming),
            metrics,
        );
        let listener = Listener::bind("127.0.0.1:0".parse().expect("literal"), &net, processor).await.expect("a free port");
        Self { net, delivery, address: listener.local_addr(), _dir: dir }
    }

    async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.expect("listening"), buffer: BytesMut::new(), opaque: 0, pushed: Vec::new() }
    }

    async fn until(&self, what: &str, met: impl Fn(&Self) -> bool) {
        let wait = async {
            while !met(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(SOON, wait).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.net.stats()));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.delivery.close();
        self.delivery.store().close();
    }
}

struct Client {
    stream: TcpStream,
    buffer: BytesMut,
    opaque: i32,
    /// Requests of the broker's that came before an answer.
    pushed: Vec<Frame>,
}

impl Client {
    async fn write(&mut self, header: Header, body: &[u8]) {
        let mut bytes = BytesMut::new();
        Frame { header, body: Bytes::copy_from_slice(body) }.encode(&mut bytes).expect("small");
        self.stream.write_all(&bytes).await.expect("open");
    }

    async fn read(&mut self) -> Frame {
        loop {
            if let Step::Frame(frame) = next_frame(&mut self.buffer, &FrameLimits::default()).expect("a frame") {
                return frame;
            }
            let read = timeout(SOON, self.stream.read_buf(&mut self.buffer)).await.expect("in time").expect("open");
            assert_ne!(read, 0, "the connection was closed");
        }
    }

    async fn ask(&mut self, code: RequestCode, ext: ExtFields, body: &[u8]) -> i32 {
        self.opaque += 1;
        self.write(Header::request(code, self.opaque, ext), body).await;
        self.opaque
    }

    async fn call(&mut self, code: RequestCode, ext: ExtFields, body: &[u8]) -> Frame {
        let opaque = self.ask(code, ext, body).await;
        loop {
            let frame = self.read().await;
            if frame.header.is_response() {
                assert_eq!(frame.header.opaque, opaque);
                return frame;
            }
            self.pushed.push(frame);
        }
    }

    async fn must(&mut self, code: RequestCode, ext: ExtFields, body: &[u8]) -> Frame {
        let answer = self.call(code, ext, body).await;
        assert_eq!(answer.header.response_code(), Some(ResponseCode::Success), "{code}: {:?}", answer.header.remark);
        answer
    }

    async fn heartbeat(&mut self, id: &str) {
        let consumer = r#"{"groupName":"g","consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET",
            "subscriptionDataSet":[{"topic":"t","subString":"*","subVersion":1}]}"#;
        let body = format!(r#"{{"clientID":"{id}","producerDataSet":[{{"groupName":"p"}}],"consumerDataSet":[{consumer}]}}"#);
        let _: HeartbeatData = body::from_json(body.as_bytes()).expect("what clients send");
        self.must(Code::HeartBeat, ExtFields::new(), body.as_bytes()).await;
    }
}

fn send(topic: &str) -> SendMessageRequest {
    SendMessageRequest {
        producer_group: "p".into(),
        topic: topic.into(),
        default_topic: "TBW102".into(),
        default_topic_queue_nums: 4,
        queue_id: 0,
        born_timestamp: 1_700_000_000_000,
        properties: "UNIQ_KEY\u{1}id-1\u{2}KEYS\u{1}order-7".into(),
        ..SendMessageRequest::default()
    }
}

fn pull(offset: i64, sys_flag: i32) -> ExtFields {
    PullMessageRequest {
        consumer_group: "g".into(),
        topic: "t".into(),
        queue_offset: offset,
        max_msg_nums: 32,
        sys_flag: sys_flag | pull_flag::SUBSCRIPTION,
        suspend_timeout_millis: 10_000,
        subscription: Some("*".into()),
        ..PullMessageRequest::default()
    }
    .encode()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_sent_is_routed_pulled_and_found_by_key() {
    let world = World::start().await;
    let mut client = world.connect().await;
    let answer = client.must(Code::SendMessageV2, send("t").encode_v2(), b"hello").await;
    let sent = SendMessageResponse::decode(&answer.header.ext).expect("all fields");
    assert_eq!((sent.queue_id, sent.queue_offset, sent.msg_id.len()), (0, 0, 32));
    assert_eq!((answer.header.ext.get("MSG_REGION"), answer.header.ext.get("TRACE_ON")), (Some("DefaultRegion"), Some("true")));

    let ext = GetRouteInfoRequest { topic: "t".into(), accept_standard_json_only: true }.encode();
    let route: TopicRouteData = body::from_json(&client.must(Code::GetRouteinfoByTopic, ext, b"").await.body).expect("a route");
    assert_eq!(route.broker_datas[0].broker_addrs[&0], "127.0.0.1:10911");
    assert_eq!(route.queue_datas[0].write_queue_nums, 4);

    let answer = client.must(Code::PullMessage, pull(0, 0), b"").await;
    let pulled = PullMessageResponse::decode(&answer.header.ext).expect("all fields");
    assert_eq!((pulled.next_begin_offset, pulled.min_offset, pulled.max_offset, pulled.suggest_which_broker_id), (1, 0, 1, 0));
    assert_eq!(RecordView::parse(&answer.body).expect("a record").body(), b"hello");

    let ext: ExtFields =
        [("topic", "t"), ("key", "order-7"), ("maxNum", "8"), ("beginTimestamp", "0"), ("endTimestamp", "9999999999999")].into_iter().collect();
    assert_eq!(client.must(Code::QueryMessage, ext, b"").await.body, answer.body);
    let ext: ExtFields = [("topic", "t"), ("key", "no"), ("maxNum", "8"), ("beginTimestamp", "0"), ("endTimestamp", "9999999999999")].into_iter().collect();
    assert_eq!(client.call(Code::QueryMessage, ext, b"").await.header.response_code(), Some(ResponseCode::QueryNotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_pull_is_answered_when_a_message_comes() {
    let world = World::start().await;
    let (mut consumer, mut producer) = (world.connect().await, world.connect().await);
    producer.must(Code::SendMessageV2, send("t").encode_v2(), b"first").await;
    consumer.ask(Code::PullMessage, pull(1, pull_flag::SUSPEND), b"").await;
    world.until("the pull is held", |w| w.delivery.held_pulls() == 1).await;
    producer.must(Code::SendMessageV2, send("t").encode_v2(), b"second").await;
    let answer = consumer.read().await;
    assert_eq!(RecordView::parse(&answer.body).expect("a record").body(), b"second");
    // An answer is seen a moment before what its request held is given back.
    world.until("the requests' bytes are given back", |w| w.net.in_flight_bytes() == 0).await;

    consumer.ask(Code::PullMessage, pull(2, pull_flag::SUSPEND), b"").await;
    world.until("the pull is held", |w| w.delivery.held_pulls() == 1).await;
    drop(consumer);
    world.until("a pull ends with its connection", |w| w.delivery.held_pulls() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_oneway_send_is_stored_and_not_answered() {
    let world = World::start().await;
    let mut client = world.connect().await;
    let mut header = Header::request(Code::SendMessageV2, 1, send("t").encode_v2());
    header.mark_oneway();
    client.write(header, b"x").await;
    // The next answer is that of the next request.
    let answer = client.must(Code::SendMessageV2, send("t").encode_v2(), b"y").await;
    assert_eq!(SendMessageResponse::decode(&answer.header.ext).expect("all fields").queue_offset, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_and_what_is_not_there_are_told_apart() {
    let world = World::start().await;
    let mut client = world.connect().await;
    client.write(Header { code: 31_337, opaque: 9, ..Header::default() }, b"").await;
    let answer = client.read().await;
    assert_eq!(answer.header.response_code(), Some(ResponseCode::RequestCodeNotSupported));
    assert_eq!(answer.header.remark.as_deref(), Some(" request type 31337 not supported"));

    let ext = GetRouteInfoRequest { topic: "missing".into(), accept_standard_json_only: false }.encode();
    let answer = client.call(Code::GetRouteinfoByTopic, ext, b"").await;
    assert_eq!(answer.header.response_code(), Some(ResponseCode::TopicNotExist));
    assert!(answer.header.remark.expect("a reason").contains("missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_field_or_body_brings_a_request_down() {
    let world = World::start().await;
    let mut client = world.connect().await;
    client.must(Code::SendMessageV2, send("t").encode_v2(), b"x").await;
    let names = [
        "topic",
        "consumerGroup",
        "producerGroup",
        "group",
        "groupName",
        "clientID",
        "queueId",
        "queueOffset",
        "offset",
        "commitOffset",
        "timestamp",
        "maxMsgNums",
        "sysFlag",
        "maxNum",
        "beginTimestamp",
        "endTimestamp",
        "delayLevel",
        "a",
        "b",
        "c",
        "d",
        "e",
        "f",
        "g",
        "h",
        "i",
        "j",
        "readQueueNums",
        "writeQueueNums",
        "perm",
        "brokerName",
        "brokerAddr",
        "clusterName",
        "haServerAddr",
        "brokerId",
        "namespace",
        "key",
        "value",
        "cluster",
        "bornTimestamp",
        "flag",
        "defaultTopicQueueNums",
        "suspendTimeoutMillis",
        "subVersion",
        "srcGroup",
        "destGroup",
        "bodyCrc32",
        "boundaryType",
        "attributes",
    ];
    let values = ["", "t", "-1", "9223372036854775807", "-9223372036854775808", "2147483647", "-2147483648", "\u{0}\u{1}\u{2}", "../../x", "ü"];
    let bodies: [&[u8]; 6] = [b"", b"{}", b"[", b"null", &[0xFF; 40], br#"{"clientID":"","consumerGroup":"g","mqSet":[{"queueId":-1,"topic":"?"}]}"#];
    for code in RequestCode::ALL {
        for (n, value) in values.iter().enumerate() {
            let mut ext: ExtFields = names.iter().map(|name| (*name, *value)).collect();
            // A held pull would be a right answer, only late.
            ext.insert("suspendTimeoutMillis", "0");
            if n % 2 == 1 {
                ext.insert("topic", "t");
                ext.insert("b", "t");
            }
            client.call(*code, ext, bodies[n % bodies.len()]).await;
        }
        client.call(*code, ExtFields::new(), b"").await;
    }
    client.must(Code::SendMessageV2, send("t").encode_v2(), b"x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_listed_and_told_of_each_other() {
    let world = World::start().await;
    let (mut first, mut second) = (world.connect().await, world.connect().await);
    first.heartbeat("one").await;
    second.heartbeat("two").await;
    // Told when it joined itself, and now.
    let pushed = first.read().await;
    let pushed = first.pushed.pop().unwrap_or(pushed);
    assert_eq!(pushed.header.request_code(), Some(Code::NotifyConsumerIdsChanged));
    assert!(pushed.header.is_oneway());
    assert_eq!(pushed.header.ext.get("consumerGroup"), Some("g"));

    let ext = GetConsumerListByGroupRequest { consumer_group: "g".into() }.encode();
    let mut third = world.connect().await;
    let list: body::GetConsumerListByGroupResponseBody = body::from_json(&third.must(Code::GetConsumerListByGroup, ext, b"").await.body).expect("a list");
    assert_eq!(list.consumer_id_list, ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_locked_for_one_client_at_a_time() {
    let world = World::start().await;
    let mut client = world.connect().await;
    let body = |id: &str| format!(r#"{{"clientId":"{id}","consumerGroup":"g","mqSet":[{{"brokerName":"b","queueId":1,"topic":"t"}}]}}"#);
    let mut lock = async |id: &str| {
        let answer = client.must(Code::LockBatchMq, ExtFields::new(), body(id).as_bytes()).await;
        body::from_json::<body::LockBatchResponseBody>(&answer.body).expect("a list").lock_ok_mq_set.len()
    };
    assert_eq!(lock("one").await, 1);
    assert_eq!(lock("two").await, 0);
    let mut client = world.connect().await;
    client.must(Code::UnlockBatchMq, ExtFields::new(), body("one").as_bytes()).await;
    assert_eq!(lock("two").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_kept_and_progress_is_shown_without_a_member() {
    let world = World::start().await;
    let mut client = world.connect().await;
    client.must(Code::SendMessageV2, send("t").encode_v2(), b"x").await;
    client.must(Code::SendMessageV2, send("t").encode_v2(), b"x").await;
    let ext = UpdateConsumerOffsetRequest { consumer_group: "g".into(), topic: "t".into(), queue_id: 0, commit_offset: 1 }.encode();
    client.must(Code::UpdateConsumerOffset, ext, b"").await;
    let ext = QueryConsumerOffsetRequest { consumer_group: "g".into(), topic: "t".into(), queue_id: 0, set_zero_if_not_found: None }.encode();
    assert_eq!(client.must(Code::QueryConsumerOffset, ext, b"").await.header.ext.get("offset"), Some("1"));

    let ext = GetConsumeStatsRequest { consumer_group: "g".into(), ..GetConsumeStatsRequest::default() }.encode();
    let answer = client.must(Code::GetConsumeStats, ext, b"").await;
    let text = String::from_utf8(answer.body.to_vec()).expect("text");
    assert!(text.starts_with(r#"{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:{"brokerOffset":2,"consumerOffset":1,"#), "{text}");
    let _: serde_json::Value = body::from_json(&answer.body).expect("FastJSON's dialect");

    let ext = GetTopicStatsInfoRequest { topic: "t".into() }.encode();
    let answer = client.must(Code::GetTopicStatsInfo, ext, b"").await;
    let _: serde_json::Value = body::from_json(&answer.body).expect("FastJSON's dialect");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_in_the_route_while_it_exists() {
    let world = World::start().await;
    let mut client = world.connect().await;
    let create = CreateTopicRequest {
        topic: "made".into(),
        read_queue_nums: 3,
        write_queue_nums: 2,
        perm: 6,
        attributes: Some(WireStr::from_static("+message.type=FIFO")),
        ..CreateTopicRequest::default()
    };
    client.must(Code::UpdateAndCreateTopic, create.encode(), b"").await;
    let route = GetRouteInfoRequest { topic: "made".into(), accept_standard_json_only: true }.encode();
    let found: TopicRouteData = body::from_json(&client.must(Code::GetRouteinfoByTopic, route.clone(), b"").await.body).expect("a route");
    assert_eq!((found.queue_datas[0].read_queue_nums, found.queue_datas[0].write_queue_nums), (3, 2));
    assert_eq!(world.delivery.topics().get("made").expect("made").attributes["message.type"], "FIFO");

    client.must(Code::DeleteTopicInBroker, DeleteTopicRequest { topic: "made".into() }.encode(), b"").await;
    assert_eq!(client.call(Code::GetRouteinfoByTopic, route, b"").await.header.response_code(), Some(ResponseCode::TopicNotExist));
}

#[tokio::test(flavor = "multi_thread")]
async fn key_value_configuration_is_stored() {
    let world = World::start().await;
    let mut client = world.connect().await;
    let put = PutKvConfigRequest { namespace: "ORDER_TOPIC_CONFIG".into(), key: "t".into(), value: "b:4".into() };
    client.must(Code::PutKvConfig, put.encode(), b"").await;
    let again = Arc::new(RouteTable::new(sluice_env::real::env(world._dir.path()).expect("there").clock));
    let _ = NamingProcessor::new(Arc::clone(&again), Arc::clone(world.delivery.store()));
    assert_eq!(again.kv().get("ORDER_TOPIC_CONFIG", "t").as_deref(), Some("b:4"));
    let key = KvConfigRequest { namespace: "ORDER_TOPIC_CONFIG".into(), key: "t".into() };
    client.must(Code::DeleteKvConfig, key.encode(), b"").await;
    assert_eq!(client.call(Code::GetKvConfig, key.encode(), b"").await.header.response_code(), Some(ResponseCode::QueryNotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_says_how_it_is() {
    let world = World::start().await;
    let answer = world.connect().await.must(Code::GetBrokerRuntimeInfo, ExtFields::new(), b"").await;
    let info: KvTable = body::from_json(&answer.body).expect("a table");
    assert_eq!(info.table["brokerActive"], "true");
    assert_eq!(info.table["putTps"].split(' ').count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_lowest_broker_number_is_taken_note_of() {
    let world = World::start().await;
    let mut client = world.connect().await;
    let ext: ExtFields =
        [("minBrokerId", "1"), ("brokerName", "b"), ("minBrokerAddr", "10.0.0.2:10911"), ("offlineBrokerAddr", "10.0.0.1:10911")].into_iter().collect();
    client.must(Code::NotifyMinBrokerIdChange, ext, b"").await;
    // It goes on as before.
    client.must(Code::SendMessageV2, send("t").encode_v2(), b"x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_tell_how_fast_a_topic_and_a_group_are() {
    let world = World::start().await;
    let mut client = world.connect().await;
    for _ in 0..3 {
        client.must(Code::SendMessageV2, send("t").encode_v2(), b"x").await;
    }
    client.must(Code::PullMessage, pull(0, 0), b"").await;
    let ext = UpdateConsumerOffsetRequest { consumer_group: "g".into(), topic: "t".into(), queue_id: 0, commit_offset: 3 }.encode();
    client.must(Code::UpdateConsumerOffset, ext, b"").await;
    let mut rate = async |code, ext: ExtFields, name: &str| {
        let body = client.must(code, ext, b"").await.body;
        body::from_json::<serde_json::Value>(&body).expect("FastJSON's dialect")[name].as_f64().expect("a number")
    };
    // All within the last minute, and perhaps within the last second.
    let of_three = 3.0 / 60.0..=3.0;
    let put = rate(Code::GetTopicStatsInfo, GetTopicStatsInfoRequest { topic: "t".into() }.encode(), "topicPutTps").await;
    assert!(of_three.contains(&put), "{put}");
    let asked = |group: &'static str| GetConsumeStatsRequest { consumer_group: group.into(), ..GetConsumeStatsRequest::default() }.encode();
    let got = rate(Code::GetConsumeStats, asked("g"), "consumeTps").await;
    assert!(of_three.contains(&got), "{got}");
    assert_eq!(rate(Code::GetConsumeStats, asked("nobody"), "consumeTps").await, 0.0);
}

/// A registration of another process's broker, with a topic of the broker's name; its body has at least so many bytes.
fn other_broker(name: &str, bytes_min: usize) -> (ExtFields, Vec<u8>) {
    let header = RegisterBrokerRequest {
        broker_name: name.into(),
        broker_addr: format!("{name}:10911").into(),
        cluster_name: "c".into(),
        ..RegisterBrokerRequest::default()
    };
    let topic = body::TopicConfig { topic_name: name.into(), perm: 6, read_queue_nums: 1, write_queue_nums: 1, ..body::TopicConfig::default() };
    let wrapper = body::TopicConfigSerializeWrapper { topic_config_table: [(name.to_owned(), topic)].into(), ..Default::default() };
    let mut body = body::RegisterBrokerBody { filter_server_list: Vec::new(), topic_config_serialize_wrapper: wrapper }.encode();
    body.resize(body.len().max(bytes_min), b' ');
    (header.encode(), body)
}

async fn has_route(client: &mut Client, topic: &str) -> bool {
    let route = GetRouteInfoRequest { topic: topic.into(), accept_standard_json_only: true }.encode();
    client.call(Code::GetRouteinfoByTopic, route, b"").await.header.response_code() == Some(ResponseCode::Success)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_elsewhere_is_known_until_the_connection_of_its_last_registration_ends() {
    let world = World::start().await;
    let (mut client, mut first, mut last) = (world.connect().await, world.connect().await, world.connect().await);
    let (header, body) = other_broker("far", 0);
    first.must(Code::RegisterBroker, header.clone(), &body).await;
    last.must(Code::RegisterBroker, header, &body).await;
    assert!(has_route(&mut client, "far").await);
    drop(first);
    world.until("the first connection has ended", |world| world.net.connections() == 2).await;
    // Its end is told a moment after it is no longer counted.
    for _ in 0..20 {
        assert!(has_route(&mut client, "far").await);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(last);
    let gone = async {
        while has_route(&mut client, "far").await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(1), gone).await.expect("the route goes with the connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_taken_after_its_connections_end_does_not_stay() {
    let world = World::start().await;
    let mut client = world.connect().await;
    for round in 0..10 {
        let mut gone = world.connect().await;
        // The first keeps the second waiting until its connection has ended.
        for name in ["other".to_owned(), format!("gone{round}")] {
            let (header, body) = other_broker(&name, 3 << 20);
            gone.ask(Code::RegisterBroker, header, &body).await;
        }
        drop(gone);
        world.until("the connection has ended", |world| world.net.connections() == 1).await;
        // Large ones are taken one after another: when this is answered, those before it are done.
        let (header, body) = other_broker("stays", 3 << 20);
        client.must(Code::RegisterBroker, header, &body).await;
        assert!(!has_route(&mut client, &format!("gone{round}")).await, "round {round}");
        assert!(has_route(&mut client, "stays").await);
    }
}

#[tokio::test]
async fn registrations_that_inflate_without_end_are_refused_and_hold_up_nobody() {
    let world = World::start().await;
    let mut hostile = world.connect().await;
    let header = sluice_protocol::headers::RegisterBrokerRequest { broker_name: "b2".into(), compressed: true, ..Default::default() };
    let piece = |bytes: &[u8]| [&(bytes.len() as i32).to_be_bytes(), bytes].concat();
    let plain = [piece(b"{}"), i32::MAX.to_be_bytes().to_vec(), piece(b"orders 4 8 6 SINGLE_TAG").repeat(700_000)].concat();
    let bomb = sluice_protocol::compress::deflate_zlib(&plain);
    for _ in 0..20 {
        hostile.ask(Code::RegisterBroker, header.encode(), &bomb).await;
    }
    world.until("in work", |w| w.net.in_flight_bytes() > 0).await;
    let mut other = world.connect().await;
    other.heartbeat("c1").await;
    assert!(world.net.in_flight_bytes() > 0, "the others were answered only after the bombs");
    for _ in 0..20 {
        assert_ne!(hostile.read().await.header.response_code(), Some(ResponseCode::Success));
    }
}

fn reset(group: &str, topic: &str) -> ResetOffsetRequest {
    // What Java's administrator sends for a whole topic.
    ResetOffsetRequest { topic: topic.into(), group: group.into(), queue_id: -1, offset: Some(-1), timestamp: 0, is_force: true }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_moves_a_member_that_is_connected_and_is_not_undone_by_its_next_commit() {
    let world = World::start().await;
    let (mut member, mut administrator) = (world.connect().await, world.connect().await);
    for body in ["one", "two"] {
        administrator.must(Code::SendMessageV2, send("t").encode_v2(), body.as_bytes()).await;
    }
    member.heartbeat("one").await;
    member.must(Code::PullMessage, pull(0, 0), b"").await;
    let commit = UpdateConsumerOffsetRequest { consumer_group: "g".into(), topic: "t".into(), queue_id: 0, commit_offset: 2 }.encode();
    member.must(Code::UpdateConsumerOffset, commit.clone(), b"").await;
    let held = member.ask(Code::PullMessage, pull(2, pull_flag::SUSPEND), b"").await;
    world.until("the pull is held", |w| w.delivery.held_pulls() == 1).await;

    let answer = administrator.must(Code::InvokeBrokerToResetOffset, reset("g", "t").encode(), b"").await;
    let text = String::from_utf8(answer.body.to_vec()).expect("text");
    assert!(text.starts_with(r#"{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:0,"#), "{text}");
    assert_eq!(body::from_json::<body::ResetOffsetBody>(&answer.body).expect("a table").offset_table.len(), 4);
    let query = QueryConsumerOffsetRequest { consumer_group: "g".into(), topic: "t".into(), queue_id: 0, set_zero_if_not_found: None }.encode();
    assert_eq!(administrator.must(Code::QueryConsumerOffset, query.clone(), b"").await.header.ext.get("offset"), Some("0"));

    let told = member.read().await;
    let moved = PullMessageResponse::decode(&told.header.ext).expect("all fields");
    assert_eq!((told.header.opaque, told.header.response_code(), moved.next_begin_offset), (held, Some(ResponseCode::PullOffsetMoved), 0));
    // Its timer commits what it had before it works on that answer.
    member.must(Code::UpdateConsumerOffset, commit.clone(), b"").await;
    assert_eq!(member.must(Code::QueryConsumerOffset, query.clone(), b"").await.header.ext.get("offset"), Some("0"));
    member.must(Code::PullMessage, pull(0, 0), b"").await;
    member.must(Code::UpdateConsumerOffset, commit, b"").await;
    assert_eq!(member.must(Code::QueryConsumerOffset, query, b"").await.header.ext.get("offset"), Some("2"));
    assert!(member.pushed.iter().all(|frame| frame.header.request_code() != Some(Code::ResetConsumerClientOffset)), "told twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_of_one_queue_and_what_is_refused() {
    let world = World::start().await;
    let mut client = world.connect().await;
    client.must(Code::SendMessageV2, send("t").encode_v2(), b"x").await;
    client.heartbeat("one").await;
    let one = ResetOffsetRequest { queue_id: 0, offset: Some(1), is_force: false, ..reset("g", "t") };
    let answer = client.must(Code::InvokeBrokerToResetOffset, one.encode(), b"").await;
    assert_eq!(&answer.body[..], br#"{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:1}}"#);

    let refusals = [
        (reset("h", "t"), ResponseCode::SubscriptionGroupNotExist, "group h does not exist"),
        (reset("g", "u"), ResponseCode::TopicNotExist, "topic u does not exist"),
        (ResetOffsetRequest { queue_id: 9, ..reset("g", "t") }, ResponseCode::InvalidParameter, "4 queues to read, 9 is none"),
        (ResetOffsetRequest { offset: Some(7), ..one }, ResponseCode::InvalidParameter, "0 to 1, 7 is none"),
    ];
    for (wrong, code, words) in refusals {
        let answer = client.call(Code::InvokeBrokerToResetOffset, wrong.encode(), b"").await;
        assert_eq!(answer.header.response_code(), Some(code));
        let remark = answer.header.remark.expect("a reason");
        assert!(remark.contains(words), "{remark}");
    }
    assert!(world.delivery.groups().get("h").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_is_asked_over_its_connection_and_its_oneway_commit_makes_the_message_visible() {
    let world = World::with(|options| options.transaction_timeout = Duration::from_millis(100)).await;
    let mut producer = world.connect().await;
    producer.must(Code::HeartBeat, ExtFields::new(), br#"{"clientID":"one","producerDataSet":[{"groupName":"p"}]}"#).await;
    let half = SendMessageRequest { properties: "TRAN_MSG\u{1}true\u{2}PGROUP\u{1}p\u{2}UNIQ_KEY\u{1}id-1\u{2}".into(), sys_flag: 4, ..send("t") };
    let answer = producer.must(Code::SendMessageV2, half.encode_v2(), b"half").await;
    let sent = SendMessageResponse::decode(&answer.header.ext).expect("all fields");
    assert_eq!((sent.queue_id, sent.queue_offset, sent.transaction_id.as_deref()), (0, 0, Some("id-1")));

    let question = producer.read().await;
    assert_eq!((question.header.request_code(), question.header.is_oneway()), (Some(Code::CheckTransactionState), true));
    let check = CheckTransactionStateRequest::decode(&question.header.ext).expect("all fields");
    assert_eq!((check.topic.as_deref(), check.msg_id.as_deref(), check.transaction_id.as_deref()), (Some("t"), Some("id-1"), Some("id-1")));
    assert_eq!((check.tran_state_table_offset, check.offset_msg_id.as_deref()), (0, Some(&*sent.msg_id)));
    let record = RecordView::checked(&question.body).expect("a record");
    assert_eq!((record.topic(), record.body()), ("t", &b"half"[..]));

    let of = |transaction_id: Option<&str>, commit_or_rollback| EndTransactionRequest {
        producer_group: "p".into(),
        tran_state_table_offset: check.tran_state_table_offset,
        commit_log_offset: check.commit_log_offset,
        commit_or_rollback,
        from_transaction_check: true,
        msg_id: "id-1".into(),
        transaction_id: transaction_id.map(Into::into),
        ..EndTransactionRequest::default()
    };
    let end = |commit_or_rollback| of(check.transaction_id.as_deref(), commit_or_rollback);
    let answer = producer.call(Code::EndTransaction, of(Some("id-2"), 8).encode(), b"").await;
    assert_eq!(answer.header.response_code(), Some(ResponseCode::SystemError));
    assert!(answer.header.remark.expect("a reason").contains("not id-2"));
    producer.must(Code::EndTransaction, end(0).encode(), b"").await;
    assert_eq!(producer.call(Code::EndTransaction, end(5).encode(), b"").await.header.response_code(), Some(ResponseCode::InvalidParameter));
    let mut header = Header::request(Code::EndTransaction, 99, end(8).encode());
    header.mark_oneway();
    producer.write(header, b"").await;
    // The next answer is that of the next request: a second commit.
    let answer = producer.call(Code::EndTransaction, end(8).encode(), b"").await;
    assert_eq!(answer.header.response_code(), Some(ResponseCode::SystemError));
    assert!(answer.header.remark.expect("a reason").contains("has ended before"));
    let pulled = producer.must(Code::PullMessage, pull(0, 0), b"").await;
    let record = RecordView::checked(&pulled.body).expect("a record");
    assert_eq!((record.body(), record.bytes().len()), (&b"half"[..], pulled.body.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_open_transactions_than_allowed_are_refused_so_that_clients_try_another_broker() {
    let world = World::with(|options| options.transactions_open_max = 1).await;
    let mut producer = world.connect().await;
    let half = SendMessageRequest { properties: "TRAN_MSG\u{1}true\u{2}".into(), ..send("t") };
    producer.must(Code::SendMessageV2, half.encode_v2(), b"1").await;
    let answer = producer.call(Code::SendMessageV2, half.encode_v2(), b"2").await;
    assert_eq!(answer.header.response_code(), Some(ResponseCode::SystemBusy));
    assert!(answer.header.remark.expect("a reason").contains("transaction.open_max"));
}
