//! Writes that the kernel really cuts short. A value that strace injects would skip the write; a limit on the size of files, set while the broker runs, ends one
//! in the middle of a record. Either the next one fails: then nothing is acknowledged any more, and the next start cuts the record that is there in part. Or
//! the limit is lifted before the next one: then the broker goes on where the kernel stopped, and nobody notices.

use super::{FLAGS, Ledger, Load, SEGMENT_BYTES, faults::poisonings};
use crate::{places, process, process::Background, sluice};
use anyhow::{Context, Result, ensure};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// A load as in the other faults: until the first writers have noticed, and after it.
const LOAD: Duration = Duration::from_millis(700);
const AFTER: Duration = Duration::from_millis(200);
const ATTACH: Duration = Duration::from_millis(300);
const DETACH: Duration = Duration::from_secs(10);
const TOOL: Duration = Duration::from_secs(10);
/// Free bytes that a segment must have for a limit to come before its end.
const ROOM: u64 = 1 << 20;
/// How far behind the log's end the write is cut that goes on: within any record.
const CONTINUED_AT: u64 = 64;
/// For how long the return of each write is held back, so that the limit can be lifted between a short one and the next.
const HELD_BACK: Duration = Duration::from_millis(500);
/// Some writes of those that are held back.
const SLOW_LOAD: Duration = Duration::from_secs(3);

/// A broker with a log so far, and everything that was promised about it.
struct Scene<'a> {
    site: sluice::Site,
    binary: &'a Path,
    folder: PathBuf,
    log: PathBuf,
    runtime: Runtime,
    load: Load,
    ledger: Ledger,
}

/// `count` places of the cut, and one cut after which the write goes on.
pub(super) fn run(count: u32, binary: &Path, folder: &Path) -> Result<()> {
    if count == 0 || !places::has_tool("strace", "strace")? || !places::has_tool("prlimit", "util-linux")? {
        return Ok(());
    }
    let (folder, log) = (folder.join("short"), folder.join("short.log"));
    let site = sluice::Site::new(binary, &folder, &log, &FLAGS)?;
    let load = Load::new(site.namesrv());
    let mut scene = Scene { site, binary, folder, log, runtime: Runtime::new().context("starting tokio")?, load, ledger: Ledger::default() };
    for step in 0..count {
        // After the first byte of the next write, then further and further behind it.
        let room = 1 + u64::from(step) * u64::from(step + 1) / 2 * 3001;
        let (cut, acked) = scene.failing(room).with_context(|| format!("with a limit on the size of files {room} bytes behind the log's end"))?;
        println!("crash: a write cut short after {} of {} bytes, the next fails: {acked} acknowledged before, none after", cut.done, cut.asked);
    }
    let (cut, acked) = scene.continued().context("with a limit on the size of files that is lifted again")?;
    println!("crash: a write cut short after {} of {} bytes and gone on with: {acked} acknowledged", cut.done, cut.asked);
    super::last_word("short writes", count + 1, &scene.site, &scene.runtime, &scene.load, &mut scene.ledger)
}

impl Scene<'_> {
    /// The limit stays: the write after the short one fails.
    fn failing(&mut self, room: u64) -> Result<(Write, usize)> {
        let told_before = poisonings(&self.log);
        let mut running = self.start(room)?;
        let limit = self.tail()? + room;
        limit_file_size(&running, &limit.to_string())?;
        let mut tracer = Tracer::attach(&running, &self.folder, &[])?;
        let acked = self.session(LOAD)?;
        ensure!(poisonings(&self.log) > told_before, "the broker's log does not tell of the failure");
        ensure!(self.last_poisoning()?.contains("File too large"), "the broker's log does not tell why: {}", self.last_poisoning()?);
        let after = self.session(AFTER)?;
        ensure!(after == 0, "{after} messages were acknowledged after the failure");
        running.kill();
        let (cut, next) = tracer.cut_at(limit)?;
        ensure!(next.failed, "the write after the short one has not failed");
        Ok((cut, acked))
    }

    /// The limit is lifted while the return of the short write is held back: the next write succeeds.
    fn continued(&mut self) -> Result<(Write, usize)> {
        let told_before = poisonings(&self.log);
        let mut running = self.start(CONTINUED_AT)?;
        let tail = self.tail()?;
        limit_file_size(&running, &(tail + CONTINUED_AT).to_string())?;
        let hold_back = format!("inject=pwrite64:delay_exit={}", HELD_BACK.as_micros());
        let mut tracer = Tracer::attach(&running, &self.folder, &["-e", &hold_back])?;
        let session = self.load.begin(&self.runtime);
        self.await_written(tail)?;
        limit_file_size(&running, "unlimited")?;
        thread::sleep(SLOW_LOAD);
        let acked = self.runtime.block_on(session.end(&mut self.load, &mut self.ledger, None))?;
        ensure!(poisonings(&self.log) == told_before, "the broker gave up after a short write that it could have gone on with");
        ensure!(acked > 0, "nothing was acknowledged after a short write that was gone on with");
        running.kill();
        let (cut, next) = tracer.cut_at(tail + CONTINUED_AT)?;
        ensure!(next.asked == cut.asked - cut.done && !next.failed, "the write did not go on where it was cut");
        Ok((cut, acked))
    }

    /// Starts the broker, compares what it holds, and makes sure that the segment has room beyond the limit.
    fn start(&mut self, room: u64) -> Result<Background> {
        let mut command = Command::new("sh");
        // The signal that comes with the failure would end the process; a shell's children ignore what it ignores.
        command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(self.binary);
        let running = self.site.start_by(command)?;
        self.runtime.block_on(self.load.verify(&mut self.ledger, false))?;
        // The limit holds for all files: the log has to be the one that is longest, so that it meets it.
        while self.tail()? < ROOM || self.tail()? + room + ROOM > SEGMENT_BYTES {
            ensure!(self.session(LOAD)? > 0, "nothing was acknowledged before the limit");
        }
        Ok(running)
    }

    fn session(&mut self, length: Duration) -> Result<usize> {
        let session = self.load.begin(&self.runtime);
        thread::sleep(length);
        self.runtime.block_on(session.end(&mut self.load, &mut self.ledger, None))
    }

    /// The file that the log is written to.
    fn segment(&self) -> Result<PathBuf> {
        let folder = self.folder.join("commitlog");
        let entries = fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?;
        let names = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
        // Those that are being made ahead have other names.
        let last = names.into_iter().filter(|name| name.to_string_lossy().bytes().all(|b| b.is_ascii_digit())).max();
        Ok(folder.join(last.context("the log has no segment")?))
    }

    /// The log's end within its last segment, while nobody writes: behind it are zeros.
    fn tail(&self) -> Result<u64> {
        let segment = self.segment()?;
        let bytes = fs::read(&segment).with_context(|| format!("reading {}", segment.display()))?;
        Ok(bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at as u64 + 1))
    }

    /// Waits until something is written behind `tail`.
    fn await_written(&self, tail: u64) -> Result<()> {
        let file = File::open(self.segment()?).context("opening the log's segment")?;
        let end = Instant::now() + SLOW_LOAD;
        loop {
            let mut bytes = [0; CONTINUED_AT as usize];
            file.read_exact_at(&mut bytes, tail).context("reading behind the log's end")?;
            if bytes.iter().any(|b| *b != 0) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "nothing is written behind the log's end");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The line with which the broker has told of the failure.
    fn last_poisoning(&self) -> Result<String> {
        let log = fs::read_to_string(&self.log).context("reading the broker's log")?;
        Ok(log.lines().rfind(|line| line.contains("the commit log is poisoned")).unwrap_or_default().to_owned())
    }
}

/// Files may be so long and no longer; what is there already stays.
fn limit_file_size(running: &Background, bytes: &str) -> Result<()> {
    process::output(Command::new("prlimit").args(["--pid", &running.id().to_string(), &format!("--fsize={bytes}:unlimited")]), TOOL).map(drop)
}

/// A positioned write, as strace has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Write {
    asked: u64,
    at: u64,
    /// Bytes written; 0 when it has failed.
    done: u64,
    /// Whether the error was that the file would be too large.
    failed: bool,
}

impl Write {
    /// Reads a line like `pwrite64(20, ""..., 4242, 1048576) = 100`.
    fn parse(line: &str) -> Option<Self> {
        let (call, result) = line.strip_prefix("pwrite64(")?.rsplit_once(" = ")?;
        let mut arguments = call.trim_end().strip_suffix(')')?.rsplit(", ");
        let (at, asked) = (arguments.next()?.parse().ok()?, arguments.next()?.parse().ok()?);
        let done = result.split(' ').next()?.parse().unwrap_or(0);
        Some(Self { asked, at, done, failed: result.contains("EFBIG") })
    }
}

/// strace, which notes the writes of each thread in a file of its own.
struct Tracer {
    strace: Background,
    notes: PathBuf,
}

impl Tracer {
    fn attach(running: &Background, folder: &Path, extra: &[&str]) -> Result<Self> {
        let notes = folder.with_file_name(format!("strace-{}", running.id()));
        fs::create_dir_all(&notes).with_context(|| format!("making {}", notes.display()))?;
        let mut command = Command::new("strace");
        command.args(["-ff", "-qq", "-s", "0", "-e", "trace=pwrite64", "-e", "signal=none"]).args(extra).arg("-o").arg(notes.join("thread"));
        let strace = Background::start(command.args(["-p", &running.id().to_string()]), &notes.join("output"))?;
        thread::sleep(ATTACH);
        Ok(Self { strace, notes })
    }

    /// The write that ended early at `limit`, and the next of the same thread. To be asked for after the end of the broker, and so of strace.
    fn cut_at(&mut self, limit: u64) -> Result<(Write, Write)> {
        self.strace.wait(DETACH)?;
        for entry in fs::read_dir(&self.notes).with_context(|| format!("listing {}", self.notes.display()))? {
            let path = entry?.path();
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let writes: Vec<_> = text.lines().filter_map(Write::parse).collect();
            let cut = writes.iter().position(|write| 0 < write.done && write.done < write.asked && write.at + write.done == limit);
            if let Some(at) = cut {
                let next = writes.get(at + 1).with_context(|| format!("after a write cut short at {limit} the same thread wrote nothing"))?;
                ensure!(next.at == limit, "after a write cut short at {limit} the broker went on at {}, as if all had been written", next.at);
                return Ok((writes[at], *next));
            }
        }
        anyhow::bail!("no write was cut short at {limit}: nothing has been shown; strace's notes are in {}", self.notes.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_read_from_what_strace_prints() {
        let write = |line| Write::parse(line).unwrap();
        assert_eq!(write("pwrite64(20, \"\"..., 4242, 1048576) = 4242"), Write { asked: 4242, at: 1 << 20, done: 4242, failed: false });
        assert_eq!(write("pwrite64(3, \"\"..., 50, 10)              = 20 (DELAYED)"), Write { asked: 50, at: 10, done: 20, failed: false });
        assert_eq!(write("pwrite64(3, \"\"..., 30, 30) = -1 EFBIG (File too large)"), Write { asked: 30, at: 30, done: 0, failed: true });
        assert_eq!(Write::parse("+++ killed by SIGKILL +++"), None);
    }
}
