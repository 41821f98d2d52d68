//! Programs that end with the test, however it ends.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Starts the program, says its number, and kills it when nobody holds the other end of the input any more: a test that is killed drops nothing.
const GUARD: &str = r#"exec 3<&0; "$@" </dev/null >"$LOG" 2>&1 3<&- & echo $!; exec >/dev/null; cat <&3 >/dev/null; kill -KILL $!; wait"#;

pub(crate) struct Process {
    guard: Child,
    id: u32,
}

impl Process {
    pub(crate) fn start(command: &Command, log: &Path) -> Self {
        drop(File::options().create(true).append(true).open(log).expect("a log"));
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD, "sh"]).arg(command.get_program()).args(command.get_args()).env("LOG", log);
        let mut guard = guard.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh runs");
        let mut line = String::new();
        BufReader::new(guard.stdout.take().expect("piped")).read_line(&mut line).expect("it says its number");
        Self { guard, id: line.trim().parse().expect("a number") }
    }

    pub(crate) fn signal(&self, signal: &str) {
        self::signal(self.id, signal);
    }
}

/// Longest time for a stopped process to stand still.
const STOPPED: Duration = Duration::from_secs(60);

/// Sends a process a signal; comes back from `STOP` when it stands still: a thread that runs on another processor goes on for a moment, long enough for an answer.
pub fn signal(id: u32, signal: &str) {
    let status = Command::new("kill").args([format!("-{signal}"), id.to_string()]).status().expect("kill runs");
    assert!(status.success());
    let end = Instant::now() + STOPPED;
    while signal == "STOP" && !stands_still(id) {
        assert!(Instant::now() < end, "process {id} goes on");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whether all threads of that process are stopped.
fn stands_still(id: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task")).expect("it lives");
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    })
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// A port of 127.0.0.1 that is free now. Below those that the system gives to connections on their way out: one of those could be the port of a server that is down for a moment.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % 130).expect("small") * 20;
    (0..2000)
        .map(|_| 30_000 + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % 2_700)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}
