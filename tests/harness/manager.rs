//! A service manager that keeps descriptors, as `sd_notify(3)` describes it: what flowlog has of systemd, without its
//! second for each start.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;

/// Descriptors that one message may have.
const MAX_DESCRIPTORS: usize = 16;

/// It keeps what it is told to keep, and hands it to each program that it starts.
pub(crate) struct Manager {
    directory: TempDir,
    socket: UnixDatagram,
    /// By their names.
    kept: RefCell<Vec<(String, OwnedFd)>>,
}

impl Manager {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { directory, socket, kept: RefCell::default() }
    }

    /// The command as it starts it: with what it keeps now.
    #[track_caller]
    pub(crate) fn command(&self, command: &Command) -> Command {
        self.read();
        let kept = self.kept.borrow();
        let (mut moves, mut names) = (String::new(), Vec::new());
        // Above those that the shell moves them to.
        let copies: Vec<OwnedFd> = kept
            .iter()
            .map(|(_, descriptor)| rustix::io::fcntl_dupfd_cloexec(descriptor, 200).unwrap())
            .collect();
        for ((name, _), (copy, number)) in kept.iter().zip(copies.iter().zip(3..)) {
            fcntl_setfd(copy, FdFlags::empty()).unwrap();
            let copy = copy.as_raw_fd();
            moves += &format!("exec {number}<&{copy} {copy}<&-; ");
            names.push(name.as_str());
        }
        let mut started = Command::new("bash");
        let script = format!("{moves}export LISTEN_PID=$$; exec \"$@\"");
        started.args(["-c", &script, "bash"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => started.env(name, value),
                None => started.env_remove(name),
            };
        }
        started.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        started.env("NOTIFY_SOCKET", self.directory.path().join("notify"));
        // Open until the command was started, which is before the next one is made.
        COPIES.with_borrow_mut(|open| *open = copies);
        started
    }

    /// The names of what it keeps.
    #[track_caller]
    pub(crate) fn names(&self) -> Vec<String> {
        self.read();
        let mut names: Vec<String> = self.kept.borrow().iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Keeps something else with a name, or nothing.
    #[track_caller]
    pub(crate) fn replace(&self, name: &str, with: Option<OwnedFd>) {
        self.read();
        let mut kept = self.kept.borrow_mut();
        assert!(kept.iter().any(|(kept, _)| kept == name), "`{name}` is not kept");
        kept.retain(|(kept, _)| kept != name);
        kept.extend(with.map(|with| (name.to_owned(), with)));
    }

    /// Keeps something besides.
    pub(crate) fn add(&self, name: &str, descriptor: OwnedFd) {
        self.kept.borrow_mut().push((name.to_owned(), descriptor));
    }

    /// Reads what it was told.
    #[track_caller]
    fn read(&self) {
        loop {
            let mut text = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut text)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            );
            let bytes = match received {
                Ok(received) => received.bytes,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return;
                }
            };
            let descriptors: Vec<OwnedFd> = ancillary
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                    _ => None,
                })
                .flatten()
                .collect();
            let text = String::from_utf8(text[..bytes].to_vec()).unwrap();
            let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            let mut kept = self.kept.borrow_mut();
            if value("FDSTOREREMOVE") == Some("1") {
                let name = value("FDNAME").unwrap();
                kept.retain(|(kept, _)| kept != name);
            }
            if value("FDSTORE") == Some("1") {
                assert_eq!(value("FDPOLL"), Some("0"), "systemd drops a socket with an overrun: {text}");
                let name = value("FDNAME").unwrap();
                kept.extend(descriptors.into_iter().map(|descriptor| (name.to_owned(), descriptor)));
            }
        }
    }
}

thread_local! {
    /// What the last command that was made hands over.
    static COPIES: RefCell<Vec<OwnedFd>> = const { RefCell::new(Vec::new()) };
}
