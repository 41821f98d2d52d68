use super::*;
use crate::net::{Listener, Net, NetLimits, Service};
use bytes::BytesMut;
use sluice_protocol::{ExtFields, RequestCode as Code, Step, headers::pull_flag, next_frame};
use std::{net::SocketAddr, sync::atomic::AtomicBool};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

const SOON: Duration = Duration::from_secs(10);
/// In which something that must not happen would have happened.
const MOMENT: Duration = Duration::from_millis(100);

/// A member of a group: what its broker does is to answer, and to note that it has.
struct MemberSide {
    name: usize,
    forwards: Arc<Forwards>,
    is_master: AtomicBool,
    served: Arc<Mutex<Vec<Served>>>,
    /// The last one that something came over.
    connection: Mutex<Option<Arc<Connection>>>,
}

/// Who has served which code and body.
type Served = (usize, i32, String);

impl Service for MemberSide {
    fn on_frame(&self, connection: &Arc<Connection>, frame: Frame, permit: Permit) {
        *self.connection.lock() = Some(Arc::clone(connection));
        if frame.header.request_code() == Some(Code::HeartBeat) {
            self.forwards.remember(connection, &frame);
        }
        self.forwards.pass(connection, frame, permit, |frame, permit| {
            self.serve(connection, frame, Some(permit)).map(|(frame, permit)| (frame, permit.expect("given back")))
        });
    }

    fn on_close(&self, connection: &Arc<Connection>) {
        self.forwards.closed(connection.id());
    }
}

impl Here for MemberSide {
    fn serves(&self) -> bool {
        self.is_master.load(Ordering::SeqCst)
    }

    fn serve(&self, connection: &Arc<Connection>, frame: Frame, permit: Option<Permit>) -> Option<(Frame, Option<Permit>)> {
        // Held until it is noted: a role that has ended has served everything before.
        let mut served = self.served.lock();
        if !self.serves() {
            return Some((frame, permit));
        }
        served.push((self.name, frame.header.code, String::from_utf8_lossy(&frame.body).into_owned()));
        answer(connection, &frame.header, ResponseCode::Success, "served");
        None
    }
}

struct Member {
    side: Arc<MemberSide>,
    address: SocketAddr,
}

impl Member {
    async fn start(name: usize, served: &Arc<Mutex<Vec<Served>>>) -> Self {
        let forwards = Forwards::new(FrameLimits::default(), Handle::current());
        let side = Arc::new(MemberSide { name, forwards, is_master: AtomicBool::new(false), served: Arc::clone(served), connection: Mutex::default() });
        let here: Weak<MemberSide> = Arc::downgrade(&side);
        side.forwards.set_here(here);
        let listener = Listener::bind("127.0.0.1:0".parse().expect("literal"), &Net::new(NetLimits::default()), side.clone()).await.expect("a free port");
        Self { side, address: listener.local_addr() }
    }

    async fn alone() -> Self {
        Self::start(0, &Arc::default()).await
    }

    fn follow(&self, master: &FakeMaster) {
        self.side.forwards.set_master(Master::There(master.listener.local_addr().expect("bound").to_string()));
    }

    fn become_master(&self) {
        self.side.is_master.store(true, Ordering::SeqCst);
        self.side.forwards.set_master(Master::Here);
    }

    fn cease(&self) {
        let served = self.side.served.lock();
        self.side.is_master.store(false, Ordering::SeqCst);
        drop(served);
        self.side.forwards.end_here();
    }

    fn served(&self) -> Vec<String> {
        self.side.served.lock().iter().map(|(_, _, body)| body.clone()).collect()
    }

    async fn connect(&self) -> Peer {
        Peer::of(TcpStream::connect(self.address).await.expect("listening"))
    }
}

/// A master that does what the test says.
struct FakeMaster {
    listener: TcpListener,
}

impl FakeMaster {
    async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.expect("a free port") }
    }

    async fn accept(&self) -> Peer {
        Peer::of(timeout(SOON, self.listener.accept()).await.expect("in time").expect("open").0)
    }

    async fn is_left_alone(&self) -> bool {
        timeout(MOMENT, self.listener.accept()).await.is_err()
    }
}

/// The other end of a connection, a client's or a master's.
struct Peer {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Peer {
    fn of(stream: TcpStream) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    async fn write(&mut self, header: Header, body: &[u8]) {
        let mut bytes = BytesMut::new();
        Frame { header, body: Bytes::copy_from_slice(body) }.encode(&mut bytes).expect("small");
        self.stream.write_all(&bytes).await.expect("open");
    }

    async fn ask(&mut self, code: Code, opaque: i32, body: &str) {
        self.write(Header::request(code, opaque, ExtFields::new()), body.as_bytes()).await;
    }

    /// `None` at the end.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Step::Frame(frame) = next_frame(&mut self.buffer, &FrameLimits::default()).expect("a frame") {
                return Some(frame);
            }
            if timeout(SOON, self.stream.read_buf(&mut self.buffer)).await.expect("in time").unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn read(&mut self) -> Frame {
        self.next().await.expect("the connection was closed")
    }

    /// Reads a request that has this body.
    async fn takes(&mut self, body: &str) -> Header {
        let frame = self.read().await;
        assert_eq!(String::from_utf8_lossy(&frame.body), body, "{:?}", frame.header);
        frame.header
    }

    async fn answers(&mut self, request: &Header, code: ResponseCode) {
        self.write(Header::response_to(request, code), b"").await;
    }

    async fn marks(&mut self, request: &Header, mark: &str) {
        let ext = [(NOT_MASTER, mark)].into_iter().collect();
        self.write(Header::response_to(request, ResponseCode::ServiceNotAvailable).with_ext(ext), b"").await;
    }

    /// Reads an answer.
    async fn gets(&mut self, opaque: i32) -> Option<ResponseCode> {
        let frame = self.read().await;
        assert!(frame.header.is_response() && frame.header.opaque == opaque, "not the answer to {opaque}: {:?}", frame.header);
        assert_eq!(frame.header.ext.get(NOT_MASTER), None, "clients do not see that");
        frame.header.response_code()
    }

    /// Sends numbered frames, some of them ahead of their answers, all of which are to be successes, in order. How many it were.
    async fn asks_until(mut self, stop: &AtomicBool) -> i32 {
        let (mut asked, mut answered) = (0, 0);
        while !stop.load(Ordering::SeqCst) || answered < asked {
            while !stop.load(Ordering::SeqCst) && asked < answered + 50 {
                self.ask(Code::SendMessageV2, asked, &asked.to_string()).await;
                asked += 1;
            }
            if answered < asked {
                assert_eq!(self.gets(answered).await, Some(ResponseCode::Success));
                answered += 1;
            }
        }
        asked
    }

    async fn is_left_alone(&mut self) -> bool {
        timeout(MOMENT, self.next()).await.is_err()
    }
}

/// A client of a member that follows the first of two masters.
async fn led() -> (Member, FakeMaster, FakeMaster, Peer) {
    let (member, old, new) = (Member::alone().await, FakeMaster::start().await, FakeMaster::start().await);
    member.follow(&old);
    let client = member.connect().await;
    (member, old, new, client)
}

#[tokio::test]
async fn what_a_deposed_master_gives_back_goes_to_the_next_one_in_its_order_after_a_heartbeat_and_the_client_sees_nothing() {
    let (member, old, new, mut client) = led().await;
    client.ask(Code::HeartBeat, 7, "beat").await;
    let mut at_old = old.accept().await;
    // Known here, it comes first, and then as the request that it is.
    assert!(at_old.takes("beat").await.is_oneway());
    let beat = at_old.takes("beat").await;
    at_old.answers(&beat, ResponseCode::Success).await;
    assert_eq!(client.gets(7).await, Some(ResponseCode::Success));

    let mut asked = Vec::new();
    for body in ["a", "b", "c"] {
        // A client may well use an opaque twice.
        client.ask(Code::SendMessageV2, 8, body).await;
        asked.push(at_old.takes(body).await);
    }
    member.follow(&new);
    for request in asked.iter().rev() {
        at_old.marks(request, GIVEN_BACK).await;
    }
    let mut at_new = new.accept().await;
    assert!(at_new.takes("beat").await.is_oneway());
    for body in ["a", "b", "c"] {
        let request = at_new.takes(body).await;
        at_new.answers(&request, ResponseCode::Success).await;
        assert_eq!(client.gets(8).await, Some(ResponseCode::Success));
    }
}

#[tokio::test]
async fn when_another_master_is_known_new_frames_wait_for_the_old_ones_answers() {
    let (member, old, new, mut client) = led().await;
    client.ask(Code::UnlockBatchMq, 1, "release").await;
    let mut at_old = old.accept().await;
    let release = at_old.takes("release").await;
    member.follow(&new);
    client.ask(Code::LockBatchMq, 2, "lock").await;
    let back = at_old.takes("").await;
    assert_eq!((back.request_code(), back.is_oneway()), (Some(Code::SluiceGiveBack), true));
    assert!(new.is_left_alone().await, "the old one has not answered");
    assert!(at_old.is_left_alone().await, "it gets nothing new");
    at_old.answers(&release, ResponseCode::Success).await;
    assert_eq!(client.gets(1).await, Some(ResponseCode::Success));
    let mut at_new = new.accept().await;
    let lock = at_new.takes("lock").await;
    at_new.answers(&lock, ResponseCode::Success).await;
    assert_eq!(client.gets(2).await, Some(ResponseCode::Success));
}

fn pull() -> ExtFields {
    let flags = (pull_flag::COMMIT_OFFSET | pull_flag::SUSPEND).to_string();
    [("topic", "t"), ("sysFlag", &*flags), ("commitOffset", "5"), ("suspendTimeoutMillis", "15000")].into_iter().collect()
}

fn number(header: &Header, name: &str) -> i64 {
    header.ext.get(name).expect("there").parse().expect("a number")
}

#[tokio::test]
async fn a_held_pull_goes_to_the_next_master_at_once_for_the_rest_of_its_time_and_commits_nothing_again() {
    let (member, old, new, mut client) = led().await;
    client.write(Header::request(Code::PullMessage, 3, pull()), b"").await;
    let mut at_old = old.accept().await;
    let held = at_old.read().await.header;
    assert_eq!((number(&held, "sysFlag"), number(&held, "suspendTimeoutMillis")), (3, 15_000));
    sleep(MOMENT).await;
    let begun = Instant::now();
    member.follow(&new);
    let mut at_new = new.accept().await;
    let held = at_new.read().await.header;
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}: nobody waits for a held pull", begun.elapsed());
    assert_eq!(number(&held, "sysFlag"), i64::from(pull_flag::SUSPEND));
    let rest = number(&held, "suspendTimeoutMillis");
    assert!((10_000..=14_900).contains(&rest), "{rest}");
    at_new.answers(&held, ResponseCode::PullNotFound).await;
    assert_eq!(client.gets(3).await, Some(ResponseCode::PullNotFound));
}

#[tokio::test]
async fn when_a_master_is_gone_clients_are_told_at_once_what_may_have_been_carried_out_and_reads_go_to_the_next_one() {
    let (member, old, new, mut client) = led().await;
    client.ask(Code::SendMessageV2, 1, "send").await;
    client.ask(Code::GetMaxOffset, 2, "read").await;
    let mut at_old = old.accept().await;
    at_old.takes("send").await;
    at_old.takes("read").await;
    drop((at_old, old));
    let begun = Instant::now();
    assert_eq!(client.gets(1).await, Some(ResponseCode::SystemError));
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
    client.ask(Code::SendMessageV2, 3, "again").await;
    member.follow(&new);
    let mut at_new = new.accept().await;
    for (opaque, body) in [(2, "read"), (3, "again")] {
        let request = at_new.takes(body).await;
        at_new.answers(&request, ResponseCode::Success).await;
        assert_eq!(client.gets(opaque).await, Some(ResponseCode::Success), "over the same connection");
    }
}

#[tokio::test]
async fn an_old_master_that_says_nothing_is_waited_for_no_longer_than_half_a_second() {
    let (member, old, new, mut client) = led().await;
    client.ask(Code::SendMessageV2, 1, "send").await;
    let mut at_old = old.accept().await;
    at_old.takes("send").await;
    let begun = Instant::now();
    member.follow(&new);
    assert_eq!(client.gets(1).await, Some(ResponseCode::SystemError));
    assert!((400..900).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    client.ask(Code::SendMessageV2, 2, "next").await;
    new.accept().await.takes("next").await;
}

#[tokio::test]
async fn what_wants_no_answer_is_not_lost_either() {
    let (member, old, new, mut client) = led().await;
    let mut header = Header::request(Code::EndTransaction, 1, ExtFields::new());
    header.mark_oneway();
    client.write(header, b"commit").await;
    let mut at_old = old.accept().await;
    let commit = at_old.takes("commit").await;
    assert!(!commit.is_oneway() && is_careless(&commit), "its sender does not wait, but we do");
    member.follow(&new);
    at_old.marks(&commit, GIVEN_BACK).await;
    let mut at_new = new.accept().await;
    let commit = at_new.takes("commit").await;
    at_new.answers(&commit, ResponseCode::Success).await;
    assert!(client.is_left_alone().await, "it has not asked for an answer");
}

#[tokio::test]
async fn what_a_client_has_sent_before_its_end_is_carried_out() {
    let (member, master) = (Member::alone().await, FakeMaster::start().await);
    member.follow(&master);
    let mut client = member.connect().await;
    for body in ["commit", "roll back"] {
        let mut header = Header::request(Code::EndTransaction, 1, ExtFields::new());
        header.mark_oneway();
        client.write(header, body.as_bytes()).await;
    }
    let mut at_master = master.accept().await;
    let commit = at_master.takes("commit").await;
    drop(client);
    sleep(MOMENT).await;
    at_master.answers(&commit, ResponseCode::Success).await;
    sleep(MOMENT).await;
    let second = at_master.takes("roll back").await;
    at_master.answers(&second, ResponseCode::Success).await;
    assert!(at_master.next().await.is_none(), "then the way ends");
}

#[tokio::test]
async fn what_an_old_master_does_not_say_is_asked_for_again_if_it_was_not_carried_out_or_is_a_read() {
    let (member, master) = (Member::alone().await, FakeMaster::start().await);
    member.follow(&master);
    let mut client = member.connect().await;
    let mut peer = None;
    for (opaque, code, mark, is_again) in
        [(1, Code::SendMessageV2, UNDONE, true), (2, Code::GetMaxOffset, VOID, true), (3, Code::UpdateConsumerOffset, VOID, false)]
    {
        client.ask(code, opaque, "x").await;
        if peer.is_none() {
            peer = Some(master.accept().await);
        }
        let peer = peer.as_mut().expect("connected");
        let request = peer.takes("x").await;
        peer.marks(&request, mark).await;
        if is_again {
            let request = peer.takes("x").await;
            peer.answers(&request, ResponseCode::Success).await;
        }
        let expected = if is_again { ResponseCode::Success } else { ResponseCode::ServiceNotAvailable };
        assert_eq!(client.gets(opaque).await, Some(expected), "{code} {mark}");
    }
}

#[tokio::test]
async fn what_everybody_gives_back_is_refused_when_its_time_is_over() {
    let (member, master) = (Member::alone().await, FakeMaster::start().await);
    member.follow(&master);
    let mut client = member.connect().await;
    let begun = Instant::now();
    client.ask(Code::SendMessageV2, 1, "x").await;
    let gives_back = async {
        loop {
            let mut peer = master.accept().await;
            if let Some(frame) = peer.next().await {
                peer.marks(&frame.header, GIVEN_BACK).await;
            }
        }
    };
    tokio::select! {
        () = gives_back => {}
        // On this code also Go's producer sends again.
        code = client.gets(1) => assert_eq!(code, Some(ResponseCode::ServiceNotAvailable)),
    }
    assert!((2400..3000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

/// What another member would hand on.
fn forwarded(opaque: i32) -> Header {
    Header::request(Code::SendMessageV2, opaque, [(FORWARDED, "1")].into_iter().collect())
}

async fn is_given_back(peer: &mut Peer, opaque: i32) -> bool {
    let header = peer.read().await.header;
    assert_eq!(header.opaque, opaque);
    header.ext.get(NOT_MASTER) == Some(GIVEN_BACK)
}

#[tokio::test]
async fn who_is_not_master_gives_back_at_once_what_a_member_has_handed_on_and_all_that_follows_on_that_connection() {
    let (member, master) = (Member::alone().await, FakeMaster::start().await);
    member.follow(&master);
    let mut peer = member.connect().await;
    let begun = Instant::now();
    peer.write(forwarded(1), b"a").await;
    assert!(is_given_back(&mut peer, 1).await);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    member.become_master();
    // Else it would come before the first one, which is on its way back.
    peer.write(forwarded(2), b"b").await;
    assert!(is_given_back(&mut peer, 2).await);
    let mut another = member.connect().await;
    another.write(forwarded(3), b"c").await;
    assert!(!is_given_back(&mut another, 3).await);
    assert_eq!(member.served(), ["c"]);
}

#[tokio::test]
async fn who_knows_no_master_keeps_what_a_member_has_handed_on_until_that_wants_it_back_or_it_is_master_itself() {
    let member = Member::alone().await;
    let (mut first, mut second) = (member.connect().await, member.connect().await);
    first.write(forwarded(1), b"a").await;
    first.write(forwarded(2), b"b").await;
    second.write(forwarded(3), b"c").await;
    assert!(first.is_left_alone().await);
    let mut header = Header::request(Code::SluiceGiveBack, 0, ExtFields::new());
    header.mark_oneway();
    first.write(header, b"").await;
    assert!(is_given_back(&mut first, 1).await && is_given_back(&mut first, 2).await);
    assert!(second.is_left_alone().await, "another member's");
    member.become_master();
    assert!(!is_given_back(&mut second, 3).await);
    assert_eq!(member.served(), ["c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_becomes_master_serves_what_has_waited_before_what_comes_and_knows_its_clients() {
    let (member, old) = (Member::alone().await, FakeMaster::start().await);
    member.follow(&old);
    let mut client = member.connect().await;
    client.ask(Code::HeartBeat, 1, "beat").await;
    let mut at_old = old.accept().await;
    at_old.takes("beat").await;
    let beat = at_old.takes("beat").await;
    at_old.answers(&beat, ResponseCode::Success).await;
    client.gets(1).await;
    // From here on the old one gives everything back.
    let gives_back = tokio::spawn(async move {
        let mut peer = Some(at_old);
        loop {
            let mut at_old = match peer.take() {
                Some(peer) => peer,
                None => old.accept().await,
            };
            while let Some(frame) = at_old.next().await {
                if !frame.header.is_oneway() {
                    at_old.marks(&frame.header, GIVEN_BACK).await;
                }
            }
        }
    });
    // Frames come all the time, before, meanwhile and after.
    for n in 0..2000 {
        client.ask(Code::SendMessageV2, 2, &n.to_string()).await;
        if n == 1000 {
            member.become_master();
        }
    }
    for _ in 0..2000 {
        assert_eq!(client.gets(2).await, Some(ResponseCode::Success));
    }
    gives_back.abort();
    let expected: Vec<_> = std::iter::once("beat".to_owned()).chain((0..2000).map(|n| n.to_string())).collect();
    assert_eq!(member.served(), expected);
    assert_eq!(member.side.forwards.count.load(Ordering::SeqCst), 0, "a master has no ways");
}

#[tokio::test(flavor = "multi_thread")]
async fn however_often_the_role_comes_and_goes_nothing_is_lost_or_overtaken() {
    let member = Member::alone().await;
    let stop = AtomicBool::new(false);
    let client = member.connect().await.asks_until(&stop);
    let changes = async {
        for _ in 0..1000 {
            member.become_master();
            sleep(Duration::from_micros(500)).await;
            member.cease();
            tokio::task::yield_now().await;
        }
        member.become_master();
        stop.store(true, Ordering::SeqCst);
    };
    let (asked, ()) = timeout(Duration::from_secs(60), async { tokio::join!(client, changes) }).await.expect("no hang");
    assert_eq!(member.served(), (0..asked).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_way_does_not_end_while_a_frame_is_in_it() {
    let member = Member::alone().await;
    member.become_master();
    let mut client = member.connect().await;
    client.ask(Code::SendMessageV2, 1, "x").await;
    client.gets(1).await;
    let (forwards, connection) = (&member.side.forwards, member.side.connection.lock().clone().expect("there"));
    let (frames, receiver) = mpsc::channel(1);
    let way = WayIn { frames, give_back: watch::Sender::new(false) };
    let mut carrier = Carrier::new(Arc::clone(forwards), Arc::clone(&connection), receiver, way.give_back.subscribe());
    assert!(way.frames.try_send(Waiting::new(Frame::without_body(forwarded(1)), None)).is_ok());
    forwards.ways.lock().insert(connection.id(), way);
    forwards.count.store(1, Ordering::SeqCst);
    assert!(!carrier.end() && forwards.carries(connection.id()));
    assert!(carrier.next().is_some());
    assert!(carrier.end() && !forwards.carries(connection.id()));
}

#[tokio::test]
async fn the_next_master_knows_a_client_that_asks_for_nothing() {
    let (member, old, new, mut client) = led().await;
    client.ask(Code::HeartBeat, 1, "beat").await;
    let mut at_old = old.accept().await;
    at_old.takes("beat").await;
    let beat = at_old.takes("beat").await;
    at_old.answers(&beat, ResponseCode::Success).await;
    client.gets(1).await;
    member.follow(&new);
    let mut at_new = new.accept().await;
    at_new.takes("beat").await;
    // What it is asked by the new one reaches it.
    let mut question = Header::request(Code::CheckTransactionState, 9, ExtFields::new());
    question.mark_oneway();
    at_new.write(question, b"half").await;
    assert_eq!(client.takes("half").await.opaque, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_chain_of_masters_every_frame_of_an_old_connection_is_served_once_in_order_and_without_an_error() {
    let served: Arc<Mutex<Vec<Served>>> = Arc::default();
    let mut members = Vec::new();
    for name in 0..3 {
        members.push(Member::start(name, &served).await);
    }
    let places: Vec<_> = members.iter().map(|member| member.address.to_string()).collect();
    let learn = |index: usize, master: usize| {
        if index != master {
            members[index].side.forwards.set_master(Master::There(places[master].clone()));
        }
    };
    let stop = AtomicBool::new(false);
    let client = members[0].connect().await.asks_until(&stop);
    let changes = async {
        let mut master = 0;
        members[0].become_master();
        (0..3).for_each(|index| learn(index, 0));
        for turn in 0..40 {
            sleep(Duration::from_millis(20)).await;
            members[master].cease();
            sleep(Duration::from_millis(turn % 7)).await;
            let next = (master + if turn % 3 == 0 { 2 } else { 1 }) % 3;
            // Each hears of it at another time: the next one itself, the one before, the one that has neither role.
            let mut order = [next, master, 3 - next - master];
            order.rotate_left(turn as usize % 3);
            for index in order {
                if index == next {
                    members[index].become_master();
                }
                learn(index, next);
                sleep(Duration::from_millis(turn % 5)).await;
            }
            master = next;
        }
        stop.store(true, Ordering::SeqCst);
    };
    let (asked, ()) = timeout(Duration::from_secs(60), async { tokio::join!(client, changes) }).await.expect("no hang");
    let bodies: Vec<_> = served.lock().iter().map(|(_, _, body)| body.clone()).collect();
    assert_eq!(bodies, (0..asked).map(|n| n.to_string()).collect::<Vec<_>>());
    let by: Vec<_> = (0..3).map(|name| served.lock().iter().filter(|(by, _, _)| *by == name).count()).collect();
    assert!(asked > 1000 && by.iter().all(|count| *count > 100), "{by:?}");
}
