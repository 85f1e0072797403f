//! System calls that fail. strace(1) answers them in the place of the kernel, so nothing in the daemon is
//! there for it, and it is the binary that is shipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::NamedTempFile;

use super::daemon::Daemon;
use super::process::Process;
use super::wait::wait_for;

/// The command, where its calls about one file meet a fault from the start; `injection` as for
/// [`Fault::begin`].
pub(crate) fn with_fault(command: &Command, file: &Path, injection: &str) -> Command {
    let mut strace = Command::new("strace");
    // The daemon stays the child of the test.
    strace.args(["-D", "-f", "-o", "/dev/null", "-P"]).arg(file);
    strace.arg(format!("-einject={injection}")).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    strace
}

/// What a thread of a daemon meets from now on.
pub(crate) struct Fault {
    strace: Process,
    log: NamedTempFile,
}

impl Fault {
    /// `injection` is what `strace -e inject=` takes, such as `fsync:error=EIO:when=2+`. A call that it
    /// answers is not made.
    #[track_caller]
    pub(crate) fn begin(daemon: &Daemon, thread: &str, injection: &str) -> Self {
        let log = NamedTempFile::new().unwrap();
        let calls = injection.split(':').next().unwrap();
        let mut command = Command::new("strace");
        command.arg("-p").arg(thread_id(daemon.pid(), thread)).arg("-o").arg(log.path());
        command.arg(format!("-etrace={calls}")).arg(format!("-einject={injection}"));
        let mut strace = Process::spawn(command);
        wait_for("strace to be attached", || {
            // It may have ended since, with a daemon that it killed.
            let is_running = strace.is_running();
            let is_attached = strace.stderr().contains("attached");
            assert!(is_running || is_attached, "strace ended: {}", strace.stderr());
            is_attached.then_some(())
        });
        Self { strace, log }
    }

    /// How many calls have met it.
    #[track_caller]
    pub(crate) fn met(&self) -> usize {
        self.traced().matches("(INJECTED)").count()
    }

    /// The calls so far, a line each.
    #[track_caller]
    pub(crate) fn traced(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap()
    }

    /// From now on all is well. What was traced, for messages.
    #[track_caller]
    pub(crate) fn end(mut self) -> String {
        if self.strace.is_running() {
            self.strace.signal(Signal::SIGINT);
        }
        self.strace.finish();
        fs::read_to_string(self.log.path()).unwrap()
    }
}

/// The thread of a process with this name.
#[track_caller]
fn thread_id(pid: i32, name: &str) -> String {
    let threads = PathBuf::from(format!("/proc/{pid}/task"));
    wait_for(&format!("the thread `{name}`"), || {
        let mut threads = fs::read_dir(&threads).unwrap().map(|thread| thread.unwrap().path());
        let is_it =
            |thread: &PathBuf| fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.trim() == name);
        Some(threads.find(is_it)?.file_name().unwrap().to_str().unwrap().to_owned())
    })
}
