//! What no broker on this machine can exceed.

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

const MEASURED: Duration = Duration::from_secs(3);
const PAGE: usize = 4096;
const FILE_BYTES: u64 = 64 << 20;

/// Best rates of one thread.
pub(super) struct Ceilings {
    /// 4 KiB written over what is there already, then synced.
    pub(super) syncs_per_second: f64,
    /// 128 bytes there and back over a loopback connection.
    pub(super) round_trips_per_second: f64,
}

pub(super) fn measure(folder: &Path) -> Result<Ceilings> {
    Ok(Ceilings {
        syncs_per_second: syncs(folder).context("measuring the disk's syncs")?,
        round_trips_per_second: round_trips().context("measuring the loopback")?,
    })
}

fn syncs(folder: &Path) -> Result<f64> {
    let path = folder.join("ceiling");
    let file = File::options().create(true).truncate(true).write(true).open(&path)?;
    let page = [0x5a; PAGE];
    for at in (0..FILE_BYTES).step_by(PAGE) {
        file.write_all_at(&page, at)?;
    }
    file.sync_all()?;
    let start = Instant::now();
    let mut count = 0u64;
    while start.elapsed() < MEASURED {
        file.write_all_at(&page, count * PAGE as u64 % FILE_BYTES)?;
        file.sync_data()?;
        count += 1;
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}

fn round_trips() -> Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let echo = thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = [0; 128];
        // Ends with the connection.
        while far.read_exact(&mut buffer).is_ok() {
            far.write_all(&buffer)?;
        }
        Ok(())
    });
    let mut buffer = [0; 128];
    let start = Instant::now();
    let mut count = 0u64;
    while start.elapsed() < MEASURED {
        near.write_all(&buffer)?;
        near.read_exact(&mut buffer)?;
        count += 1;
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    drop(near);
    echo.join().map_err(|_| anyhow::anyhow!("the echo panicked"))??;
    Ok(rate)
}
