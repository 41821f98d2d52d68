//! The hostile clients.
//!
//! Broker, well-behaved load and attackers share one machine, where attackers are really elsewhere. So that the broker's work is measured and not theirs, they
//! run on one thread of the lowest priority, make what they send beforehand, and are paced: fast enough that any of them would exhaust a broker without
//! limits within seconds, slow enough that they need less than a tenth of a processor.

use super::bytes::Arsenal;
use anyhow::{Context, Result};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime::Runtime,
    task::JoinSet,
    time::sleep,
};

/// Between two tries of one attacker.
const AGAIN: Duration = Duration::from_millis(100);
/// Over this time the attackers of a kind begin, so that what they do again and again is spread too.
const SPREAD: Duration = Duration::from_secs(3);
/// An attack is at its height when the well-behaved load is measured: it warms up for one second more.
const LEAD: Duration = Duration::from_secs(1);
/// For attackers who do their harm by what they hold: all of them are there.
const WHOLE_LEAD: Duration = Duration::from_secs(4);
/// Between two bytes of a trickle.
const TRICKLE: Duration = Duration::from_millis(100);
/// Between two signs of life of a client that never reads.
const STILL_THERE: Duration = Duration::from_millis(500);
/// Until one that has been ended for not reading comes back.
const COMES_BACK: Duration = Duration::from_secs(3);
/// Smallest receive buffer: what is never read shall wait in the broker and not in the kernel.
const RECEIVE_BYTES: u32 = 4096;
/// Lowest priority there is.
const NICE: i32 = 19;
/// The broker's default limit on a frame: the largest body, 4 MiB, and 1 MiB for all else.
const FRAME_BYTES_MAX: usize = 5 << 20;
const MIB: u64 = 1 << 20;

/// One kind of hostility.
pub(super) struct Attack {
    pub(super) name: &'static str,
    /// Starts its clients.
    start: fn(&Arc<Target>, &mut JoinSet<()>),
    /// From its start until the well-behaved load begins.
    pub(super) lead: Duration,
    /// Most bytes that the broker's own memory may grow by, and why it is allowed so many.
    pub(super) growth_max: u64,
    /// Why the broker has to end connections of this kind; none: it answers them, and that is all right.
    pub(super) closed_for: &'static [&'static str],
}

/// All of them.
pub(super) const ATTACKS: [Attack; 5] = [
    // 500 connections of 20 kB and the buffers of a read, 8 KiB each.
    Attack { name: "slow-loris", start: slow_loris, lead: LEAD, growth_max: 32 * MIB, closed_for: &["partial_frame"] },
    // What is announced takes no memory before it comes.
    Attack { name: "giant-lengths", start: giant_lengths, lead: LEAD, growth_max: 32 * MIB, closed_for: &["bad_frame", "partial_frame"] },
    // Half of the bytes in work (see FLAGS) for unfinished frames, twice while their buffers grow, one frame beyond, and what is left of those that have ended.
    Attack { name: "withheld-ends", start: withheld_ends, lead: LEAD, growth_max: 96 * MIB, closed_for: &["partial_frame"] },
    // A few MiB of bombs are on their way and in the log's buffers; one that goes off has a gigabyte.
    Attack { name: "bombs", start: bombs, lead: LEAD, growth_max: 64 * MIB, closed_for: &["bad_frame"] },
    // Answers are slices of the mapped log: what waits is counted (512 MiB at most) but belongs to the page cache.
    Attack { name: "never-reading", start: never_reading, lead: WHOLE_LEAD, growth_max: 64 * MIB, closed_for: &["slow_reader"] },
];

/// Whom they attack, and with what.
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) arsenal: Arsenal,
}

/// Attackers at work; they end when this is dropped.
pub(super) struct Attackers(JoinSet<()>);

/// Where attackers run.
pub(super) fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        // Linux gives each thread a priority of its own. Refused it stays as it is, and the attack is only more costly.
        .on_thread_start(|| {
            let _ = rustix::process::nice(NICE);
        })
        .enable_all()
        .build()
        .context("starting tokio")
}

impl Attackers {
    pub(super) fn start(attack: &Attack, target: &Arc<Target>, runtime: &Runtime) -> Self {
        let _inside = runtime.enter();
        let mut clients = JoinSet::new();
        (attack.start)(target, &mut clients);
        Self(clients)
    }

    /// Whether one of them has given up: they never should.
    pub(super) fn end(mut self) -> Result<()> {
        match self.0.try_join_next() {
            Some(ended) => ended.context("a hostile client panicked")?,
            None => return Ok(()),
        }
        anyhow::bail!("a hostile client ended by itself: the attack was not what it should be")
    }
}

/// Does it again and again; an attack that fails (the broker has closed, as it should) is followed by the next.
fn again<F>(clients: &mut JoinSet<()>, count: usize, target: &Arc<Target>, attack: impl Fn(Arc<Target>) -> F + Clone + Send + Sync + 'static)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    for number in 0..count {
        let (target, attack) = (Arc::clone(target), attack.clone());
        clients.spawn(async move {
            // Spread, not all in one instant: a burst of their own is what attackers would wait for themselves.
            sleep(SPREAD.mul_f64(number as f64 / count as f64)).await;
            loop {
                let _ = attack(Arc::clone(&target)).await;
                sleep(AGAIN).await;
            }
        });
    }
}

impl Target {
    /// A connection that has said who it is and got its answer.
    pub(super) async fn introduce(&self, heartbeat: &[u8]) -> std::io::Result<TcpStream> {
        let mut stream = self.connect().await?;
        stream.write_all(heartbeat).await?;
        answer(&mut stream).await?;
        Ok(stream)
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(RECEIVE_BYTES)?;
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Writes byte by byte; ends with an error when the broker has closed.
async fn trickle(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte]).await?;
        sleep(TRICKLE).await;
    }
    Ok(())
}

/// Takes an answer, whatever it says: the length in front and then so many bytes.
async fn answer(stream: &mut TcpStream) -> std::io::Result<()> {
    let length = stream.read_u32().await?;
    tokio::io::copy(&mut stream.take(length.into()), &mut tokio::io::sink()).await.map(drop)
}

fn slow_loris(target: &Arc<Target>, clients: &mut JoinSet<()>) {
    again(clients, 500, target, |target| async move { trickle(&mut target.connect().await?, &target.arsenal.heartbeat).await });
}

/// Lengths that no broker allows, at some 300 connections a second; and the largest one that it does allow, followed by a trickle.
fn giant_lengths(target: &Arc<Target>, clients: &mut JoinSet<()>) {
    for length in [0x7FFF_FFFF_u32, (16 << 20) + 1, (16 << 20) - 64, FRAME_BYTES_MAX as u32 - 3] {
        again(clients, 8, target, move |target| async move {
            let mut stream = target.connect().await?;
            stream.write_u32(length).await?;
            // The broker has to close; whoever waits for more than a moment holds a connection.
            stream.read_u8().await.map(drop)
        });
    }
    again(clients, 200, target, |target| async move {
        let mut stream = target.connect().await?;
        stream.write_u32(FRAME_BYTES_MAX as u32 - 4).await?;
        trickle(&mut stream, &[0; 600]).await
    });
}

/// Frames that are as large as allowed and come whole but for the last byte: twice as many as the broker has room for (16 MiB, see FLAGS). They come just fast
/// enough to be there before the deadline: more would show what it costs to take megabytes in, which honest clients send too.
fn withheld_ends(target: &Arc<Target>, clients: &mut JoinSet<()>) {
    again(clients, 8, target, |target| async move {
        let mut stream = target.connect().await?;
        stream.write_u32(FRAME_BYTES_MAX as u32 - 4).await?;
        // No header, all body.
        // In small pieces: the kernel lets nobody else run while it sends one.
        let piece = [0; 8 * 1024];
        for _ in 0..FRAME_BYTES_MAX / piece.len() - 1 {
            stream.write_all(&piece).await?;
            sleep(Duration::from_millis(3)).await;
        }
        stream.write_all(&piece[..piece.len() - 5]).await?;
        stream.read_u8().await.map(drop)
    });
}

/// Requests whose bytes grow when they are looked at. A bomb a second is enough: a broker that lights one is busy for a second. More of them would only show what
/// it costs to store megabytes, which honest clients do too.
fn bombs(target: &Arc<Target>, clients: &mut JoinSet<()>) {
    type Pick = fn(&Arsenal) -> &[u8];
    let kinds: [(Pick, Duration); 4] = [
        (|arsenal| &arsenal.bomb, Duration::from_secs(1)),
        (|arsenal| &arsenal.bomb_batch, Duration::from_secs(3)),
        (|arsenal| &arsenal.bomb_registration, Duration::from_secs(2)),
        (|arsenal| &arsenal.full_header, Duration::from_millis(20)),
    ];
    for (pick, pause) in kinds {
        again(clients, 1, target, move |target| async move {
            let mut stream = target.connect().await?;
            loop {
                stream.write_all(pick(&target.arsenal)).await?;
                answer(&mut stream).await?;
                sleep(pause).await;
            }
        });
    }
    again(clients, 4, target, |target| async move {
        let mut stream = target.connect().await?;
        stream.write_all(&target.arsenal.overfull_header).await?;
        stream.read_u8().await.map(drop)
    });
}

/// Each asks for more than one connection may have waiting, and together they do for more than all may have. Each holds what it has got; whom the broker has
/// ended comes again after some seconds. What it costs to send the first megabytes to a hundred clients is not the question, so they are all there before the
/// well-behaved load is measured.
fn never_reading(target: &Arc<Target>, clients: &mut JoinSet<()>) {
    type Pick = fn(&Arsenal) -> &[u8];
    let kinds: [(usize, Pick, usize); 2] = [(100, |arsenal| &arsenal.pull, 30), (2, |arsenal| &arsenal.query, 10)];
    for (count, pick, requests) in kinds {
        again(clients, count, target, move |target| async move {
            let mut stream = target.connect().await?;
            stream.write_all(&pick(&target.arsenal).repeat(requests)).await?;
            // The end can't be read by one who does not read: only the second write tells that the broker has given up.
            while stream.write_all(&target.arsenal.heartbeat).await.is_ok() {
                sleep(STILL_THERE).await;
            }
            sleep(COMES_BACK).await;
            Ok(())
        });
    }
}
