//! The command under test: the binary as it is installed, not the library.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nix::sys::signal::Signal;

use super::namespace::Namespace;
use super::process::{Finished, Process, run};
use super::wait::wait_for;

/// A daemon that starts has a copy of each socket of the host for a moment. Who closes a connection in this moment is
/// not the last who has it, so nothing tells that it was the one who did.
static STARTS: RwLock<()> = RwLock::new(());

/// Until it is dropped no daemon starts, so a program that closes a connection is its closer. Sockets of the test
/// itself are copied by each child that another test starts, too. Whoever holds it must not start a daemon.
pub(crate) fn no_starts() -> RwLockWriteGuard<'static, ()> {
    STARTS.write().unwrap_or_else(PoisonError::into_inner)
}

/// To be held while a daemon with eBPF starts.
pub(crate) fn starting() -> RwLockReadGuard<'static, ()> {
    STARTS.read().unwrap_or_else(PoisonError::into_inner)
}

/// A running `flowlog run` that has subscribed to the kernel's events.
pub(crate) struct Daemon {
    process: Process,
}

impl Daemon {
    /// Starts it on the connection tracking tables of `observed` and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(output: &Path, observed: &[&Namespace], args: &[&str]) -> Self {
        let mut command = run_command(output, observed);
        command.args(args);
        Self::spawn(command)
    }

    /// Starts a command from [`run_command`] and waits until it is ready.
    #[track_caller]
    pub(crate) fn spawn(command: Command) -> Self {
        let _starting = starting();
        let mut process = Process::spawn(command);
        wait_for("flowlog to be ready", || {
            let stderr = process.stderr();
            if words(&stderr).any(|word| word == "ready") {
                return Some(());
            }
            assert!(process.is_running(), "flowlog ended before it was ready:\n{}", process.stderr());
            None
        });
        Self { process }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.process.stderr()
    }

    /// Sends SIGHUP: publish now.
    #[track_caller]
    pub(crate) fn rotate(&mut self) {
        assert!(self.process.is_running(), "flowlog has ended:\n{}", self.process.stderr());
        self.process.signal(Signal::SIGHUP);
    }

    /// Sends another signal.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Sends SIGKILL and waits for its end.
    #[track_caller]
    pub(crate) fn kill(self) {
        self.process.signal(Signal::SIGKILL);
        self.process.finish();
    }

    /// Sends SIGTERM and waits until it has ended, however it does.
    #[track_caller]
    pub(crate) fn end(self) -> Finished {
        self.process.signal(Signal::SIGTERM);
        self.process.finish()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Its memory in bytes, now.
    #[track_caller]
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Its memory but for what it shares with the kernel, such as the part of the ring buffer that it has read.
    #[track_caller]
    pub(crate) fn own_memory_bytes(&self) -> u64 {
        self.memory("RssAnon:")
    }

    /// The most memory that it had, in bytes.
    #[track_caller]
    pub(crate) fn peak_memory_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    #[track_caller]
    fn memory(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let kib = status.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB"));
        kib.unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Sends SIGTERM and waits until it has published everything; gives its log.
    #[track_caller]
    pub(crate) fn stop(self) -> String {
        let finished = self.end();
        assert_eq!(finished.status.code(), Some(0), "{finished}");
        assert_eq!(finished.stdout, "", "data goes to files and logs to standard error");
        finished.stderr
    }
}

/// `flowlog run` with the flags that every case needs.
pub(crate) fn run_command(output: &Path, observed: &[&Namespace]) -> Command {
    let mut command = Command::new(binary());
    // The level of the log is part of what is tested, and the machine's own is not known.
    command.env_remove("FLOWLOG_LOG").arg("run").arg("--output").arg(output);
    for namespace in observed {
        command.args(["--netns", namespace.name()]);
    }
    command
}

/// Runs `flowlog` with arguments to its end.
#[track_caller]
pub(crate) fn flowlog(args: &[&str]) -> Finished {
    let mut command = Command::new(binary());
    command.args(args);
    run(command)
}

/// Where the binary is: `FLOWLOG_BIN`, else beside the directory of this test's own binary, where
/// cargo puts it.
#[track_caller]
pub(crate) fn binary() -> PathBuf {
    if let Some(path) = env::var_os("FLOWLOG_BIN") {
        return PathBuf::from(path);
    }
    let mut path = env::current_exe().unwrap();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.push("flowlog");
    assert!(
        path.exists(),
        "no `{}`, expected the binary there or in FLOWLOG_BIN; run the tests with `cargo xtask test`",
        path.display()
    );
    path
}

/// The words of a text, without punctuation.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric())
}
