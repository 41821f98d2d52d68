//! Other programs, each with a deadline.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, IsTerminal, stdin},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

const POLL: Duration = Duration::from_millis(20);
/// How long a start takes is measured with this.
const LISTENING_POLL: Duration = Duration::from_millis(1);

/// A program that runs in the background; it is killed when this is dropped.
pub(crate) struct Background {
    child: Child,
    what: String,
    grouped: bool,
}

impl Background {
    /// Starts it with its output in `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log).with_context(|| format!("opening {}", log.display()))?;
        let err = out.try_clone().context("sharing a log file")?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        Self::spawn(command)
    }

    /// Starts it with its errors in `log`; what it is told, and what it says.
    pub(crate) fn start_talking(command: &mut Command, log: &Path) -> Result<(Self, ChildStdin, ChildStdout)> {
        let errors = File::options().create(true).append(true).open(log).with_context(|| format!("opening {}", log.display()))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut running = Self::spawn(command)?;
        let told = running.child.stdin.take().context("a piped input is there")?;
        let says = running.child.stdout.take().context("a piped output is there")?;
        Ok((running, told, says))
    }

    fn spawn(command: &mut Command) -> Result<Self> {
        let what = command.get_program().to_string_lossy().into_owned();
        // In a terminal Ctrl-C must reach the children; elsewhere a group of its own lets the deadline end grandchildren too.
        let grouped = !stdin().is_terminal();
        if grouped {
            command.process_group(0);
        }
        let child = command.spawn().with_context(|| format!("starting {what}"))?;
        Ok(Self { child, what, grouped })
    }

    /// Its process number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends; kills it at the deadline.
    pub(crate) fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait().with_context(|| format!("waiting for {}", self.what))? {
                return Ok(status);
            }
            if Instant::now() > end {
                self.kill();
                bail!("{} was not done after {deadline:?} and was killed", self.what);
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until it accepts connections at `address`.
    pub(crate) fn await_listening(&mut self, address: SocketAddr, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            if let Some(status) = self.child.try_wait().with_context(|| format!("looking after {}", self.what))? {
                bail!("{} ended with {status} before it listened at {address}", self.what);
            }
            if Instant::now() > end {
                bail!("{} does not listen at {address} after {deadline:?}", self.what);
            }
            thread::sleep(LISTENING_POLL);
        }
        Ok(())
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        // It cannot refuse, and an error here means that it has been waited for already.
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait(deadline)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // An error means that it is gone already.
            let _ = if self.grouped { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.kill();
        }
    }
}

/// Runs it with our output; an exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command, deadline: Duration) -> Result<()> {
    let line = line(command);
    println!("$ {line}");
    let status = Background::spawn(command.stdin(Stdio::null()))?.wait(deadline)?;
    if status.success() { Ok(()) } else { bail!("{line}: {status}") }
}

/// Runs it and returns what it printed; an exit code other than 0 is an error.
pub(crate) fn output(command: &mut Command, deadline: Duration) -> Result<String> {
    captured(command, deadline, false)
}

/// Runs it with our output, as `run` does, and returns what it printed; an exit code other than 0 is an error.
pub(crate) fn run_and_keep(command: &mut Command, deadline: Duration) -> Result<String> {
    println!("$ {}", line(command));
    captured(command, deadline, true)
}

fn captured(command: &mut Command, deadline: Duration, show: bool) -> Result<String> {
    let line = line(command);
    let (text, status) = run_and_keep_all(command, deadline, show);
    let status = status?;
    match status.success() {
        true => Ok(text),
        false if show => bail!("{line}: {status}"),
        false => bail!("{line}: {status}\n{text}"),
    }
}

/// What it printed, shown as it comes if `show` says so, however it ended; and how that was, if it ended by itself before the deadline.
pub(crate) fn run_and_keep_all(command: &mut Command, deadline: Duration, show: bool) -> (String, Result<ExitStatus>) {
    let spawned = Background::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut running = match spawned {
        Ok(running) => running,
        Err(error) => return (String::new(), Err(error)),
    };
    let stdout = running.child.stdout.take();
    let reader = thread::spawn(move || {
        let mut text = String::new();
        for line in stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
            let line = match line {
                Ok(line) => line,
                Err(error) => return (text, Err(error)),
            };
            if show {
                println!("{line}");
            }
            text.push_str(&line);
            text.push('\n');
        }
        (text, Ok(()))
    });
    let status = running.wait(deadline);
    match reader.join() {
        Ok((text, Ok(()))) => (text, status),
        Ok((text, Err(error))) => (text, Err(error).with_context(|| format!("reading the output of {}", line(command)))),
        Err(_) => (String::new(), Err(anyhow::anyhow!("reading the output of {} panicked", line(command)))),
    }
}

fn line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_killed() {
        let start = Instant::now();
        let error = run(Command::new("sleep").arg("30"), Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("not done after"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_failing_program_is_an_error_that_names_it() {
        let error = run(&mut Command::new("false"), Duration::from_secs(10)).unwrap_err();
        assert!(error.to_string().starts_with("false: "), "{error}");
    }

    #[test]
    fn output_is_returned() {
        assert_eq!(output(Command::new("echo").arg("hello"), Duration::from_secs(10)).unwrap(), "hello\n");
    }
}
