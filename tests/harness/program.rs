//! Programs with a name of their own that make connections.
//!
//! Each is this test binary, started by a link: the link is its `exe`, the name of the link its
//! `comm`. So every name is known before, and no other program needs to be installed.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::thread;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::unistd::{Gid, Uid, setgid, setuid};

use super::namespace::Namespace;
use super::process::Process;
use super::traffic::reset_on_close;
use super::wait::wait_for;

/// Says in the environment of a program what it is to do.
const ROLE: &str = "FLOWLOG_TEST_ROLE";
/// The user and group that it takes before it opens a socket.
const USER: &str = "FLOWLOG_TEST_USER";

/// A program in a directory.
pub(crate) struct Program {
    exe: PathBuf,
}

/// A program that runs.
pub(crate) struct Running {
    process: Process,
}

impl Program {
    /// A program with this name; at most 15 bytes of it are its `comm`.
    #[track_caller]
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        let exe = directory.join(name);
        symlink(env::current_exe().unwrap(), &exe).unwrap();
        Self { exe }
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
        let running = self.start(namespace, user, &format!("serve {at}"));
        wait_for("the server to listen", || running.process.stderr().contains("listening").then_some(()));
        running
    }

    /// Runs a client that connects, sends, and exits at once. Gives its process id and source port.
    #[track_caller]
    pub(crate) fn connect(&self, namespace: &Namespace, user: u32, to: SocketAddr) -> (i32, u16) {
        let running = self.start(namespace, user, &format!("connect {to}"));
        let pid = running.pid();
        let finished = running.process.finish();
        let port = finished.stderr.lines().find_map(|line| line.strip_prefix("port ")?.parse().ok());
        (pid, port.unwrap_or_else(|| panic!("{finished}")))
    }

    /// Starts a client that waits to be told to call: see [`Running::call`].
    #[track_caller]
    pub(crate) fn caller(
        &self,
        namespace: &Namespace,
        from: SocketAddrV4,
        to: SocketAddrV4,
        bytes: usize,
    ) -> Running {
        self.start(namespace, 0, &format!("call {from} {to} {bytes}"))
    }

    #[track_caller]
    fn start(&self, namespace: &Namespace, user: u32, role: &str) -> Running {
        let mut command = Command::new(&self.exe);
        command.env(ROLE, role).env(USER, user.to_string());
        command.args(["--exact", "harness::program::play_a_role", "--nocapture"]);
        Running { process: namespace.inside(|| Process::spawn(command)) }
    }
}

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Makes a caller connect from its port, send its bytes and reset the connection; `call` counts
    /// from 1.
    #[track_caller]
    pub(crate) fn call(&mut self, call: usize) {
        self.process.send_line("call");
        wait_for("the end of a call", || {
            (self.process.stderr().matches("called").count() == call).then_some(())
        });
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
    setgid(Gid::from_raw(user)).unwrap();
    setuid(Uid::from_raw(user)).unwrap();
    match role.split(' ').collect::<Vec<_>>()[..] {
        ["serve", at] => serve(at.parse().unwrap()),
        ["connect", to] => connect_and_exit(to.parse().unwrap()),
        ["call", from, to, bytes] => {
            call_when_told(from.parse().unwrap(), to.parse().unwrap(), bytes.parse().unwrap());
        }
        _ => panic!("no such role: {role}"),
    }
}

fn serve(at: SocketAddr) {
    // The test that started it closes its standard input, or ends.
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        process::exit(0);
    });
    let listener = TcpListener::bind(at).unwrap();
    eprintln!("listening");
    for stream in listener.incoming() {
        // A connection that was reset is an end, too.
        let _ = stream.and_then(|mut stream| stream.read_to_end(&mut Vec::new()));
    }
}

fn connect_and_exit(to: SocketAddr) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(b"request").unwrap();
    eprintln!("port {}", stream.local_addr().unwrap().port());
    process::exit(0);
}

fn call_when_told(from: SocketAddrV4, to: SocketAddrV4, bytes: usize) {
    let payload = vec![0; bytes];
    for _line in io::stdin().lines() {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
        setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
        let descriptor = socket.as_raw_fd();
        bind(descriptor, &SockaddrIn::from(from)).unwrap();
        connect(descriptor, &SockaddrIn::from(to)).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.write_all(&payload).unwrap();
        reset_on_close(&stream);
        drop(stream);
        eprintln!("called");
    }
}
