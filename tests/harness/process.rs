//! A child process whose output is collected while it runs, and which is killed with its test.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::wait_for;

/// A running child.
pub(crate) struct Process {
    child: Child,
    /// Its command line, for messages.
    name: String,
    stdin: Option<ChildStdin>,
    stdout: Output,
    stderr: Output,
}

/// What a child left.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Its command line, for messages.
    name: String,
}

/// The text that a child has written to one of its streams so far.
struct Output {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts a command with all its streams connected to the test.
    #[track_caller]
    pub(crate) fn spawn(mut command: Command) -> Self {
        let name = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A program that was copied just now is still open for writing in a child of another thread, if that child has
        // no program of its own yet.
        let spawned = wait_for("the program to be written by nobody", || match command.spawn() {
            Err(err) if err.kind() == io::ErrorKind::ExecutableFileBusy => None,
            spawned => Some(spawned),
        });
        let mut child = spawned.unwrap_or_else(|err| panic!("cannot start {name}: {err}"));
        Self {
            name,
            stdin: child.stdin.take(),
            stdout: Output::collect(child.stdout.take().unwrap()),
            stderr: Output::collect(child.stderr.take().unwrap()),
            child,
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// What it has written to its standard output so far.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to its standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Writes a line to its standard input.
    #[track_caller]
    pub(crate) fn send_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap_or_else(|err| panic!("{} reads no more: {err}", self.name));
    }

    /// Sends a signal.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Whether it still runs. If not, all that it has written is there.
    #[track_caller]
    pub(crate) fn is_running(&mut self) -> bool {
        let is_running = self.child.try_wait().unwrap().is_none();
        if !is_running {
            self.stdout.read_to_end();
            self.stderr.read_to_end();
        }
        is_running
    }

    /// Closes its standard input and waits for its end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        self.stdin = None;
        let what = format!("the end of {}", self.name);
        let status = wait_for(&what, || self.child.try_wait().unwrap());
        Finished {
            status,
            stdout: self.stdout.read_to_end(),
            stderr: self.stderr.read_to_end(),
            name: self.name.clone(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail where it has ended, which is well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Its standard output, where it succeeded.
    #[track_caller]
    pub(crate) fn success(self) -> String {
        assert!(self.status.success(), "{self}");
        self.stdout
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, stdout, stderr, name } = self;
        write!(f, "{name}: {status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

impl Output {
    fn collect(stream: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            // An error ends the text as the end of the stream does; the case then misses something.
            while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                shared.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// The whole text, after the child has ended.
    fn read_to_end(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.text()
    }
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(command: Command) -> Finished {
    Process::spawn(command).finish()
}
