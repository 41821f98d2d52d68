//! A server on free ports, and commands run against it.

use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const DEADLINE: Duration = Duration::from_secs(60);

/// A port where nobody listens.
pub(crate) fn dead_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn sluice() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.env_clear();
    command
}

/// What a command came to.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// It went well, and said nothing of an error.
    pub(crate) fn well(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        assert!(!self.stderr.contains("error"), "{}", self.stderr);
        self
    }

    /// It failed with this code and all of these words, and printed no result.
    pub(crate) fn badly(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} in {}", self.stderr);
        }
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e} in {:?}", self.stdout))
    }

    /// One value a line.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line:?}"))).collect()
    }
}

pub(crate) fn run(args: &[&str], input: &str) -> Ran {
    let mut child = sluice().args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    // A command that does not read its input may have ended before it is written.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { code: output.status.code().expect("no signal"), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A server with a name server, a broker and an empty directory.
pub(crate) struct Site {
    child: Child,
    pub(crate) namesrv: String,
    pub(crate) broker: String,
    pub(crate) dir: tempfile::TempDir,
}

impl Site {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        // All three are held together, so that they differ.
        let held: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let ports: Vec<String> = held.iter().map(|listener| listener.local_addr().expect("bound").port().to_string()).collect();
        drop(held);
        let mut command = sluice();
        command.args(["server", "--listen-address", "127.0.0.1", "--broker-vip-port", "off", "--storage-segment-size", "16MiB"]);
        command.args(["--naming-port", &ports[0], "--broker-port", &ports[1], "--http-port", &ports[2], "--data-dir"]).arg(dir.path().join("data"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary runs");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("readable");
        assert!(line.contains("ready"), "{line}");
        Self { child, namesrv: format!("127.0.0.1:{}", ports[0]), broker: format!("127.0.0.1:{}", ports[1]), dir }
    }

    /// Runs a command against this server.
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.run_with(line, "")
    }

    /// The same with standard input.
    pub(crate) fn run_with(&self, line: &str, input: &str) -> Ran {
        let args: Vec<&str> = line.split(' ').chain(["--namesrv", &self.namesrv]).collect();
        run(&args, input)
    }

    /// The result as JSON, of a command that goes well.
    pub(crate) fn json(&self, line: &str) -> Value {
        self.run(&format!("{line} --output json")).well().json()
    }

    /// Waits until something holds.
    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < DEADLINE, "in vain: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts a command that goes on by itself.
    pub(crate) fn follow(&self, line: &str) -> Follower {
        let mut child = sluice()
            .args(line.split(' '))
            .args(["--namesrv", &self.namesrv])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (output, into) = (child.stdout.take().expect("piped"), Arc::clone(&lines));
        std::thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).for_each(|line| into.lock().expect("whole").push(line)));
        Follower { child, lines }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// A command that goes on by itself.
pub(crate) struct Follower {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Follower {
    /// Waits for so many lines and returns all there are.
    pub(crate) fn until(&self, count: usize) -> Vec<String> {
        let start = Instant::now();
        loop {
            let lines = self.lines.lock().expect("whole").clone();
            if lines.len() >= count {
                return lines;
            }
            assert!(start.elapsed() < DEADLINE, "only {lines:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Interrupts it as Ctrl-C does; it must end well.
    pub(crate) fn interrupt(mut self) {
        assert!(Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().expect("kill runs").success());
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            if let Some(status) = self.child.try_wait().expect("waitable") {
                return assert!(status.success(), "{status}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it goes on after an interrupt");
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Both fail when it has ended already.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
