use crate::harness::{dead_port, run};
use bytes::BytesMut;
use sluice_protocol::{
    Frame, FrameLimits, Header, RequestCode, ResponseCode, Step, TypedHeader,
    body::{BrokerData, QueueData, TopicRouteData, to_json},
    headers::SendMessageResponse,
    next_frame,
};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

#[test]
fn without_a_server_every_command_says_where_it_looked_and_ends_with_4() {
    let namesrv = format!("127.0.0.1:{}", dead_port());
    let lines = [
        "topic list",
        "topic create t",
        "topic update t --perm r",
        "group list",
        "group create g",
        "cluster list",
        "produce t --body x",
        "consume t --group g",
        "query key t k",
        "offset show t",
        "offset reset t --group g --to latest --yes",
        "bench produce t --count 1",
        "bench consume t",
        "bench idle -c 1",
    ];
    for line in lines {
        let args: Vec<&str> = line.split(' ').chain(["--namesrv", &namesrv]).collect();
        let ran = run(&args, "").badly(4, &["error: cannot connect to", &namesrv, "check that a server listens there"]);
        assert_eq!(ran.stdout, "", "{line}");
    }
}

/// A name server and broker that stores all, but never flushes in time.
fn slow_disk() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            std::thread::spawn(move || answer_all(stream, address));
        }
    });
    address
}

fn answer_all(mut stream: TcpStream, address: SocketAddr) {
    let (mut buffer, mut piece) = (BytesMut::new(), [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        buffer.extend_from_slice(&piece[..read]);
        while let Step::Frame(frame) = next_frame(&mut buffer, &FrameLimits::default()).expect("a frame") {
            let mut out = BytesMut::new();
            answer(&frame.header, address).encode(&mut out).expect("small");
            stream.write_all(&out).expect("open");
        }
    }
}

fn answer(header: &Header, address: SocketAddr) -> Frame {
    if header.request_code() == Some(RequestCode::GetRouteinfoByTopic) {
        let broker = BrokerData { cluster: "c".into(), broker_name: "b".into(), broker_addrs: [(0, address.to_string())].into(), ..BrokerData::default() };
        let queues = QueueData { broker_name: "b".into(), read_queue_nums: 1, write_queue_nums: 1, perm: 6, ..QueueData::default() };
        let route = TopicRouteData { broker_datas: vec![broker], queue_datas: vec![queues], ..TopicRouteData::default() };
        return Frame { header: Header::response_to(header, ResponseCode::Success), body: to_json(&route).into() };
    }
    let fields = SendMessageResponse { msg_id: "7F00000100002A9F0000000000000000".into(), ..SendMessageResponse::default() };
    Frame::without_body(Header::response_to(header, ResponseCode::FlushDiskTimeout).with_ext(fields.encode()))
}

#[test]
fn messages_that_were_not_flushed_in_time_are_counted_and_end_with_1() {
    let namesrv = slow_disk().to_string();
    let words = ["of 2 messages stored, 2 not flushed in time", "may still lose them"];
    let ran = run(&["produce", "t", "--output", "json", "--namesrv", &namesrv], "x\ny\n").badly(1, &words);
    assert_eq!((&ran.json()["sent"], &ran.json()["flush_timeout"]), (&2.into(), &2.into()));
    let single = run(&["produce", "t", "--body", "x", "--namesrv", &namesrv], "").badly(1, &["of 1 messages stored, 1 not flushed in time"]);
    assert!(single.stdout.starts_with("flush_timeout "), "{}", single.stdout);
}
