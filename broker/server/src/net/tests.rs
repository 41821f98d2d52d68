use super::*;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sluice_protocol::{ExtFields, FrameLimits, Header, RequestCode, ResponseCode, Step, next_frame};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

const SOON: Duration = Duration::from_secs(10);

/// Answers with the request's own body, or keeps the request, or answers with a large body.
#[derive(Default)]
struct Echo {
    kept: Mutex<Vec<(Arc<Connection>, Header, Permit)>>,
    closed: AtomicUsize,
    reads: AtomicUsize,
}

const KEEP: RequestCode = RequestCode::PullMessage;
const LARGE: RequestCode = RequestCode::ViewMessageById;
const PANIC: RequestCode = RequestCode::QueryMessage;

impl Service for Echo {
    fn on_frame(&self, connection: &Arc<Connection>, frame: Frame, permit: Permit) {
        let answer = Header::response_to(&frame.header, ResponseCode::Success);
        match frame.header.request_code() {
            Some(KEEP) => self.kept.lock().push((Arc::clone(connection), answer, permit)),
            // The connection may have been closed for not reading: then there is nobody to tell.
            Some(LARGE) => drop(connection.reply(&answer, vec![Bytes::from(vec![7; 1 << 20])])),
            Some(PANIC) => panic!("a defect"),
            _ => connection.reply(&answer, vec![frame.body]).expect("open"),
        }
    }

    fn on_read(&self, body: &mut dyn FnMut()) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        body();
    }

    fn on_close(&self, _: &Arc<Connection>) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }
}

fn frame(code: RequestCode, opaque: i32, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    Frame { header: Header::request(code, opaque, ExtFields::new()), body: Bytes::copy_from_slice(body) }.encode(&mut bytes).expect("small");
    bytes.freeze()
}

struct World {
    net: Arc<Net>,
    service: Arc<Echo>,
    address: std::net::SocketAddr,
}

impl World {
    async fn with(limits: NetLimits) -> Self {
        let net = Net::new(limits);
        let service = Arc::new(Echo::default());
        let listener = Listener::bind("127.0.0.1:0".parse().expect("literal"), &net, service.clone()).await.expect("a free port");
        Self { net, service, address: listener.local_addr() }
    }

    async fn connect(&self) -> Peer {
        Peer { stream: TcpStream::connect(self.address).await.expect("listening"), buffer: BytesMut::new() }
    }

    async fn until(&self, what: &str, met: impl Fn(&Self) -> bool) {
        let wait = async {
            while !met(self) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(SOON, wait).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.net.stats()));
    }
}

struct Peer {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Peer {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("open");
    }

    async fn answer(&mut self) -> Frame {
        let limits = FrameLimits { frame_bytes_max: 1 << 26, ..FrameLimits::default() };
        loop {
            if let Step::Frame(frame) = next_frame(&mut self.buffer, &limits).expect("a frame") {
                return frame;
            }
            let read = timeout(SOON, self.stream.read_buf(&mut self.buffer)).await.expect("in time").expect("open");
            assert_ne!(read, 0, "the connection was closed");
        }
    }

    async fn sees_the_end(&mut self) {
        let mut rest = Vec::new();
        // A reset is an end, too.
        let _ = timeout(SOON, self.stream.read_to_end(&mut rest)).await.expect("in time");
    }
}

#[tokio::test]
async fn a_request_is_answered_also_when_it_comes_byte_by_byte() {
    let world = World::with(NetLimits::default()).await;
    let mut peer = world.connect().await;
    for byte in frame(RequestCode::HeartBeat, 7, b"hello").iter() {
        peer.send(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    let answer = peer.answer().await;
    assert_eq!((answer.header.opaque, &answer.body[..]), (7, &b"hello"[..]));
    assert!(answer.header.is_response());
}

#[tokio::test]
async fn requests_sent_together_are_answered_in_order_and_as_one_batch() {
    let world = World::with(NetLimits::default()).await;
    let mut peer = world.connect().await;
    let all: Vec<u8> = (0..100).flat_map(|n| frame(RequestCode::HeartBeat, n, b"x")).collect();
    peer.send(&all).await;
    for n in 0..100 {
        assert_eq!(peer.answer().await.header.opaque, n);
    }
    assert!(world.service.reads.load(Ordering::Relaxed) < 20);
}

/// How many bytes are read before another task has its turn, at most.
async fn longest_turn_until_a_frame_is_there(net: Arc<Net>) -> u64 {
    let stats = net.stats();
    let (mut before, mut longest) = (0, 0);
    while stats.frames_in.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
        let now = stats.bytes_in.load(Ordering::Relaxed);
        (longest, before) = (longest.max(now - before), now);
    }
    longest
}

#[tokio::test]
async fn a_large_frames_reader_lets_the_others_have_their_turn() {
    let world = World::with(NetLimits::default()).await;
    let large = frame(RequestCode::HeartBeat, 1, &[7; 12 << 20]);
    let address = world.address;
    // On a thread of its own, so that there is always more to read.
    let sender = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(address).expect("listening");
        std::io::Write::write_all(&mut stream, &large).expect("open");
        stream
    });
    // A task like the reader's own: the scheduler takes them in turn.
    let watch = tokio::spawn(longest_turn_until_a_frame_is_there(Arc::clone(&world.net)));
    let longest = timeout(SOON, watch).await.expect("in time").expect("no panic");
    // Without turns it is megabytes.
    assert!(longest <= 256 << 10, "{longest} bytes in one turn");
    drop(sender.join().expect("no panic"));
}

#[tokio::test]
async fn an_answer_made_later_on_another_thread_goes_out_at_once() {
    let world = World::with(NetLimits::default()).await;
    let mut peer = world.connect().await;
    peer.send(&frame(KEEP, 3, b"")).await;
    world.until("kept", |w| w.service.kept.lock().len() == 1).await;
    assert!(world.net.in_flight_bytes() > 0);
    let (connection, answer, permit) = world.service.kept.lock().pop().expect("kept");
    std::thread::spawn(move || {
        connection.reply(&answer, vec![Bytes::from_static(b"late")]).expect("open");
        drop(permit);
    })
    .join()
    .expect("no panic");
    assert_eq!(&peer.answer().await.body[..], b"late");
    assert_eq!(world.net.in_flight_bytes(), 0);
}

#[tokio::test]
async fn a_giant_length_and_garbage_close_the_connection_at_once() {
    let world = World::with(NetLimits::default()).await;
    for bytes in [&[0x7F, 0xFF, 0xFF, 0xFF][..], b"GET / HTTP/1.1\r\n\r\n", &[0, 0, 0, 2]] {
        let mut peer = world.connect().await;
        peer.send(bytes).await;
        peer.sees_the_end().await;
    }
    assert_eq!(world.net.stats().closed_for(CloseReason::BadFrame), 3);
    world.until("forgotten", |w| w.net.connections() == 0 && w.service.closed.load(Ordering::Relaxed) == 3).await;
}

#[tokio::test]
async fn a_frame_that_is_not_finished_in_time_is_not_waited_for() {
    let world = World::with(NetLimits { partial_frame: Duration::from_millis(100), ..NetLimits::default() }).await;
    let mut peer = world.connect().await;
    let bytes = frame(RequestCode::HeartBeat, 1, &[0; 4096]);
    // One byte every 10 ms, never silent and never done.
    let (mut reading, mut writing) = peer.stream.split();
    let drip = async {
        for byte in bytes.iter() {
            if writing.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let mut rest = Vec::new();
    tokio::select! {
        () = drip => panic!("it was let finish"),
        read = timeout(SOON, reading.read_to_end(&mut rest)) => drop(read.expect("closed in time")),
    }
    assert_eq!(world.net.stats().closed_for(CloseReason::PartialFrame), 1);
}

#[tokio::test]
async fn a_silent_connection_is_closed_after_a_while() {
    let world = World::with(NetLimits { idle: Duration::from_millis(50), ..NetLimits::default() }).await;
    world.connect().await.sees_the_end().await;
    assert_eq!(world.net.stats().closed_for(CloseReason::Idle), 1);
}

#[tokio::test]
async fn a_peer_that_never_reads_loses_its_connection_and_holds_nobody_up() {
    let limits = NetLimits { write: Duration::from_millis(200), outbox_bytes_per_connection: 16 << 20, ..NetLimits::default() };
    let world = World::with(limits).await;
    let mut greedy = world.connect().await;
    for n in 0..64 {
        greedy.send(&frame(LARGE, n, b"")).await;
    }
    let mut other = world.connect().await;
    other.send(&frame(RequestCode::HeartBeat, 1, b"x")).await;
    other.answer().await;
    world.until("closed", |w| w.net.stats().closed_for(CloseReason::SlowReader) == 1).await;
    world.until("given back", |w| w.net.stats().outbox_bytes.load(Ordering::Relaxed) == 0).await;
    other.send(&frame(RequestCode::HeartBeat, 2, b"x")).await;
    assert_eq!(other.answer().await.header.opaque, 2);
}

#[tokio::test]
async fn a_peer_that_asks_faster_than_it_reads_waits_and_gets_everything() {
    let world = World::with(NetLimits { outbox_bytes_per_connection: 16 << 20, ..NetLimits::default() }).await;
    let mut eager = world.connect().await;
    let all: Vec<u8> = (0..64).flat_map(|n| frame(LARGE, n, b"")).collect();
    eager.send(&all).await;
    world.until("as much as may wait", |w| w.net.stats().outbox_bytes.load(Ordering::Relaxed) >= 4 << 20).await;
    sleep(Duration::from_millis(50)).await;
    assert!(world.net.stats().outbox_bytes.load(Ordering::Relaxed) < 6 << 20);
    for n in 0..64 {
        assert_eq!(eager.answer().await.header.opaque, n);
    }
}

#[tokio::test]
async fn what_others_leave_unread_does_not_end_a_peer_that_reads() {
    let limits = NetLimits { outbox_bytes_max: 1 << 20, ..NetLimits::default() };
    let world = World::with(limits).await;
    let mut greedy = world.connect().await;
    greedy.send(&[frame(LARGE, 1, b""), frame(LARGE, 2, b"")].concat()).await;
    world.until("ended", |w| w.net.stats().closed_for(CloseReason::SlowReader) == 1).await;
    // One answer alone is always taken, and this one is more than the sockets' buffers hold.
    let mut unread = world.connect().await;
    unread.send(&frame(RequestCode::HeartBeat, 1, &vec![0; 15 << 20])).await;
    world.until("full", |w| w.net.stats().outbox_bytes.load(Ordering::Relaxed) > 1 << 20).await;
    let mut other = world.connect().await;
    let all: Vec<u8> = (0..100).flat_map(|n| frame(RequestCode::HeartBeat, n, b"x")).collect();
    other.send(&all).await;
    for n in 0..100 {
        assert_eq!(other.answer().await.header.opaque, n);
    }
}

#[tokio::test]
async fn a_slow_peer_gets_everything_whole() {
    let world = World::with(NetLimits::default()).await;
    let mut peer = world.connect().await;
    for n in 0..32 {
        peer.send(&frame(LARGE, n, b"")).await;
    }
    sleep(Duration::from_millis(50)).await;
    for n in 0..32 {
        let answer = peer.answer().await;
        assert_eq!((answer.header.opaque, answer.body.len()), (n, 1 << 20));
        assert!(answer.body.iter().all(|byte| *byte == 7));
    }
}

#[tokio::test]
async fn beyond_the_bytes_in_work_a_connection_is_not_read_from_until_answers_go_out() {
    let one = frame(KEEP, 0, &[0; 1000]).len();
    let world = World::with(NetLimits { in_flight_bytes_per_connection: 3 * one, ..NetLimits::default() }).await;
    let mut peer = world.connect().await;
    let all: Vec<u8> = (0..10).flat_map(|n| frame(KEEP, n, &[0; 1000])).collect();
    peer.send(&all).await;
    world.until("three taken", |w| w.service.kept.lock().len() == 3).await;
    sleep(Duration::from_millis(50)).await;
    assert_eq!(world.service.kept.lock().len(), 3);
    for n in 0..10 {
        world.until("one more", |w| !w.service.kept.lock().is_empty()).await;
        let (connection, answer, permit) = world.service.kept.lock().remove(0);
        connection.reply(&answer, Vec::new()).expect("open");
        drop(permit);
        assert_eq!(peer.answer().await.header.opaque, n);
    }
}

#[tokio::test]
async fn unfinished_frames_leave_room_for_whole_ones() {
    let frame_limits = FrameLimits { frame_bytes_max: 512 * 1024, ..FrameLimits::default() };
    let world = World::with(NetLimits { frame: frame_limits, in_flight_bytes_max: 1 << 20, ..NetLimits::default() }).await;
    let large = frame(RequestCode::HeartBeat, 1, &[0; 256 * 1024]);
    let mut withheld = Vec::new();
    for _ in 0..8 {
        let mut peer = world.connect().await;
        peer.send(&large[..large.len() - 1]).await;
        withheld.push(peer);
    }
    world.until("all that they may have", |w| w.net.in_flight_bytes() > 300 * 1024).await;
    let mut other = world.connect().await;
    for n in 0..10 {
        other.send(&frame(RequestCode::HeartBeat, n, &[0; 10_000])).await;
        assert_eq!(other.answer().await.header.opaque, n);
    }
    assert!(world.net.in_flight_bytes() <= 512 * 1024);
    // The ends come after all: everybody is served, though nobody has room for a whole frame besides the others' parts.
    for peer in &mut withheld {
        peer.send(&large[large.len() - 1..]).await;
    }
    for peer in &mut withheld {
        assert_eq!(peer.answer().await.body.len(), 256 * 1024);
    }
    world.until("given back", |w| w.net.in_flight_bytes() == 0).await;
}

#[tokio::test]
async fn one_connection_too_many_is_refused_and_the_others_stay() {
    let world = World::with(NetLimits { connections_max: 1, ..NetLimits::default() }).await;
    let mut first = world.connect().await;
    first.send(&frame(RequestCode::HeartBeat, 1, b"")).await;
    first.answer().await;
    world.connect().await.sees_the_end().await;
    first.send(&frame(RequestCode::HeartBeat, 2, b"")).await;
    first.answer().await;
    drop(first);
    world.until("free again", |w| w.net.connections() == 0).await;
    let mut next = world.connect().await;
    next.send(&frame(RequestCode::HeartBeat, 3, b"")).await;
    next.answer().await;
}

#[tokio::test]
async fn a_defect_in_one_request_ends_only_its_connection() {
    let world = World::with(NetLimits::default()).await;
    let mut broken = world.connect().await;
    let mut other = world.connect().await;
    broken.send(&frame(PANIC, 1, b"")).await;
    broken.sees_the_end().await;
    assert_eq!(world.net.stats().closed_for(CloseReason::Internal), 1);
    other.send(&frame(RequestCode::HeartBeat, 1, b"")).await;
    other.answer().await;
    world.until("told", |w| w.service.closed.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test]
async fn a_stop_waits_for_what_is_in_work_and_then_closes() {
    let world = World::with(NetLimits::default()).await;
    let mut peer = world.connect().await;
    peer.send(&frame(KEEP, 5, b"")).await;
    world.until("kept", |w| w.service.kept.lock().len() == 1).await;
    let net = Arc::clone(&world.net);
    let stop = tokio::spawn(async move { net.stop(SOON).await });
    sleep(Duration::from_millis(20)).await;
    assert!(TcpStream::connect(world.address).await.is_err(), "the port is still open");
    let (connection, answer, permit) = world.service.kept.lock().pop().expect("kept");
    connection.reply(&answer, Vec::new()).expect("still open");
    drop(permit);
    assert_eq!(peer.answer().await.header.opaque, 5);
    peer.sees_the_end().await;
    timeout(SOON, stop).await.expect("in time").expect("no panic");
    world.until("all gone", |w| w.net.connections() == 0).await;
}

#[tokio::test]
async fn a_request_of_ours_is_marked_oneway() {
    let world = World::with(NetLimits::default()).await;
    let mut peer = world.connect().await;
    peer.send(&frame(KEEP, 1, b"")).await;
    world.until("kept", |w| w.service.kept.lock().len() == 1).await;
    let (connection, ..) = world.service.kept.lock().pop().expect("kept");
    connection.push_oneway(Header::request(RequestCode::NotifyConsumerIdsChanged, 0, ExtFields::new()), Vec::new()).expect("open");
    let pushed = peer.answer().await;
    assert!(pushed.header.is_oneway() && !pushed.header.is_response());
    assert_eq!(world.net.connection(connection.id()).map(|c| c.peer()), Some(connection.peer()));
}
