//! What no broker on this machine can exceed.

use crate::generator::median;
use anyhow::{Context, Result};
use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::FileExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

const MEASURED: Duration = Duration::from_secs(2);
const PAGE: usize = 4096;
const FILE_BYTES: u64 = 64 << 20;
/// A message of 1 KiB as a request, as a record, and the answer to it.
const MESSAGE_BYTES: usize = 1024 + 256;
const ANSWER_BYTES: usize = 160;

/// Best rates of one thread, or of two that take turns.
#[derive(Clone, Copy)]
pub(super) struct Ceilings {
    /// 4 KiB written over what is there already, then synced.
    pub(super) syncs_per_second: f64,
    /// A message there and its answer back over a loopback connection.
    pub(super) round_trips_per_second: f64,
    /// The same, and before the answer the message is written behind the last one and synced: what one message at a time with synchronous flush can come to.
    pub(super) synced_round_trips_per_second: f64,
}

pub(super) fn measure(folder: &Path) -> Result<Ceilings> {
    let file = WrittenFile::new(folder).context("making the file that is synced")?;
    let ceilings = Ceilings {
        syncs_per_second: rate(|turn| file.write(turn, PAGE)).context("measuring the disk's syncs")?,
        round_trips_per_second: round_trips(|_| Ok(())).context("measuring the loopback")?,
        synced_round_trips_per_second: round_trips(|turn| file.write(turn, MESSAGE_BYTES)).context("measuring disk and loopback together")?,
    };
    Ok(ceilings)
}

/// Each figure's median.
pub(super) fn medians(measured: &[Ceilings]) -> Ceilings {
    let of = |figure: fn(&Ceilings) -> f64| median(measured, figure).map_or(0.0, |ceilings| figure(&ceilings));
    Ceilings {
        syncs_per_second: of(|c| c.syncs_per_second),
        round_trips_per_second: of(|c| c.round_trips_per_second),
        synced_round_trips_per_second: of(|c| c.synced_round_trips_per_second),
    }
}

/// A file whose blocks are all there: nothing but its content changes.
struct WrittenFile(File);

impl WrittenFile {
    fn new(folder: &Path) -> Result<Self> {
        let path = folder.join("ceiling");
        let file = File::options().create(true).truncate(true).write(true).open(&path)?;
        // It needs no name any more, and is gone when it is closed.
        std::fs::remove_file(&path)?;
        for at in (0..FILE_BYTES).step_by(PAGE) {
            file.write_all_at(&[0x5a; PAGE], at)?;
        }
        file.sync_all()?;
        Ok(Self(file))
    }

    fn write(&self, turn: u64, bytes: usize) -> Result<()> {
        let slots = FILE_BYTES / bytes as u64;
        self.0.write_all_at(&vec![0xa5; bytes], turn % slots * bytes as u64)?;
        Ok(self.0.sync_data()?)
    }
}

/// Does it again and again for a while.
fn rate(mut work: impl FnMut(u64) -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < MEASURED {
        work(count)?;
        count += 1;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

fn round_trips(before_answer: impl Fn(u64) -> Result<()> + Send) -> Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let mut request = [0; MESSAGE_BYTES];
            let mut turn = 0;
            // Ends with the connection.
            while far.read_exact(&mut request).is_ok() {
                before_answer(turn)?;
                far.write_all(&request[..ANSWER_BYTES])?;
                turn += 1;
            }
            anyhow::Ok(())
        });
        let (request, mut answer) = ([0; MESSAGE_BYTES], [0; ANSWER_BYTES]);
        let result = rate(|_| {
            near.write_all(&request)?;
            Ok(near.read_exact(&mut answer)?)
        });
        drop(near);
        server.join().map_err(|_| anyhow::anyhow!("the other end panicked"))??;
        result
    })
}
