//! Programs with a name of their own that make connections.
//!
//! Each is this test binary under another name: that is its `exe`, and the end of it its `comm`. So every name is
//! known before, and no other program needs to be installed. What they do is a role: see [`roles`](super::roles).

use std::env;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Gid, Uid, setgid, setuid};

use super::namespace::Namespace;
use super::process::Process;
use super::roles;
use super::wait::wait_for;

/// Says in the environment of a program what it is to do.
const ROLE: &str = "FLOWLOG_TEST_ROLE";
/// The user and group that it takes before it opens a socket.
const USER: &str = "FLOWLOG_TEST_USER";

/// The arguments of a program: its main function is one of the tests.
const ARGS: [&str; 3] = ["--exact", "harness::program::play_a_role", "--nocapture"];

/// A program in a directory.
#[derive(Clone)]
pub(crate) struct Program {
    exe: PathBuf,
}

/// A program that runs.
pub(crate) struct Running {
    process: Process,
}

/// What a program has told on its standard error: words with a number each.
pub(crate) struct Told {
    pub(crate) pid: i32,
    text: String,
}

impl Program {
    /// A program with this name; at most 15 bytes of it are its `comm`.
    #[track_caller]
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        Self::linked(directory, name, env::current_exe().unwrap())
    }

    /// Another program with this name. A symbolic link would not give it one: the kernel tells the path of the file.
    #[track_caller]
    pub(crate) fn linked(directory: &Path, name: &str, target: impl AsRef<Path>) -> Self {
        let exe = directory.join(name);
        let target = fs::canonicalize(target).unwrap();
        if fs::hard_link(&target, &exe).is_err() {
            // It is on another file system.
            fs::copy(target, &exe).unwrap();
        }
        Self { exe }
    }

    /// The program that runs now, or another one that this one starts.
    pub(crate) fn at(exe: &str) -> Self {
        Self { exe: exe.into() }
    }

    /// The path that it is started by.
    pub(crate) fn exe(&self) -> &str {
        self.exe.to_str().unwrap()
    }

    /// The name that the kernel gives to its task.
    pub(crate) fn comm(&self) -> &str {
        self.exe.file_name().unwrap().to_str().unwrap()
    }

    /// Starts a server that accepts connections and reads each to its end.
    #[track_caller]
    pub(crate) fn serve(&self, namespace: &Namespace, user: u32, at: SocketAddr) -> Running {
        let running = self.start_as(user, namespace, &format!("serve {at}"));
        running.wait_for("listening");
        running
    }

    /// Runs a client that connects, sends, and exits at once. Gives its process id and source port.
    #[track_caller]
    pub(crate) fn connect(&self, namespace: &Namespace, user: u32, to: SocketAddr) -> (i32, u16) {
        let told = self.start_as(user, namespace, &format!("connect {to}")).finish();
        (told.pid, u16::try_from(told.number("port")).unwrap())
    }

    /// Starts it in a role.
    #[track_caller]
    pub(crate) fn start(&self, namespace: &Namespace, role: &str) -> Running {
        self.start_as(0, namespace, role)
    }

    /// Runs it in a role, to its end.
    #[track_caller]
    pub(crate) fn run(&self, namespace: &Namespace, role: &str) -> Told {
        self.start(namespace, role).finish()
    }

    /// Starts it with this process id, where that is free.
    #[track_caller]
    pub(crate) fn start_with_pid(&self, pid: i32, namespace: &Namespace, role: &str) -> Running {
        let command = self.command(0, role);
        let process = namespace.inside(|| {
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
            Process::spawn(command)
        });
        Running { process }
    }

    /// Starts a command of it.
    #[track_caller]
    pub(crate) fn start_command(namespace: &Namespace, command: Command) -> Running {
        Running { process: namespace.inside(|| Process::spawn(command)) }
    }

    /// Its command line in any role.
    pub(crate) fn cmdline(&self) -> String {
        [self.exe(), &ARGS.join(" ")].join(" ")
    }

    /// The command that starts it in a role.
    pub(crate) fn command(&self, user: u32, role: &str) -> Command {
        let mut command = Command::new(&self.exe);
        command.env(ROLE, role).env(USER, user.to_string());
        command.args(ARGS);
        command
    }

    #[track_caller]
    fn start_as(&self, user: u32, namespace: &Namespace, role: &str) -> Running {
        Self::start_command(namespace, self.command(user, role))
    }
}

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Waits until it has told this.
    #[track_caller]
    pub(crate) fn wait_for(&self, word: &str) {
        let what = format!("a program to tell `{word}`");
        wait_for(&what, || self.process.stderr().contains(word).then_some(()));
    }

    /// Tells it to go on.
    #[track_caller]
    pub(crate) fn go_on(&mut self) {
        self.process.send_line("go on");
    }

    /// What it has told so far.
    pub(crate) fn told(&self) -> Told {
        Told { pid: self.pid(), text: self.process.stderr() }
    }

    /// Waits for its end, which must be a success.
    #[track_caller]
    pub(crate) fn finish(self) -> Told {
        let pid = self.pid();
        let finished = self.process.finish();
        assert!(finished.status.success(), "{finished}");
        Told { pid, text: finished.stderr }
    }
}

impl Told {
    /// The numbers that it told with this word.
    pub(crate) fn numbers(&self, word: &str) -> Vec<i64> {
        let lines = self.text.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
        lines.map(|number| number.parse().unwrap()).collect()
    }

    /// Whether it told this line.
    pub(crate) fn has(&self, line: &str) -> bool {
        self.text.lines().any(|told| told == line)
    }

    /// The numbers that it told with words that are this one and a number.
    pub(crate) fn numbered(&self, word: &str) -> impl Iterator<Item = (i64, i64)> {
        let lines = self.text.lines().filter_map(move |line| line.strip_prefix(word)?.split_once(' '));
        lines.map(|(first, second)| (first.parse().unwrap(), second.parse().unwrap()))
    }

    /// The only number that it told with this word.
    #[track_caller]
    pub(crate) fn number(&self, word: &str) -> i64 {
        let numbers = self.numbers(word);
        assert_eq!(numbers.len(), 1, "one `{word}` in what a program told:\n{}", self.text);
        numbers[0]
    }
}

/// The main function of the programs. Among the tests it has nothing to do.
#[test]
fn play_a_role() {
    let Ok(role) = env::var(ROLE) else { return };
    // A test runs on a thread that has its name. The kernel tells the name of the thread that opens a
    // socket, which in a usual program is the main one.
    let exe = PathBuf::from(env::args_os().next().unwrap());
    fs::write("/proc/thread-self/comm", exe.file_name().unwrap().as_encoded_bytes()).unwrap();
    let user: u32 = env::var(USER).unwrap().parse().unwrap();
    if user != 0 {
        setgid(Gid::from_raw(user)).unwrap();
        setuid(Uid::from_raw(user)).unwrap();
    }
    roles::play(&role.split(' ').collect::<Vec<_>>());
}

/// For a role: waits until the test says to go on.
pub(crate) fn wait_to_go_on() {
    let mut line = String::new();
    io::stdin().read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "the test has ended");
}
