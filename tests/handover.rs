//! Sockets that one process makes and another one uses: who uses it is named.

use std::net::SocketAddr;

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::program::{Program, Told};
use crate::processes::assert_process;

const V4: &str = "127.0.0.1:5000";
const V6: &str = "[::1]:5000";

/// A namespace that is observed, with the programs that a socket goes between.
struct Case {
    namespace: Namespace,
    output: tempfile::TempDir,
    programs: tempfile::TempDir,
    daemon: Daemon,
    maker: Program,
    user: Program,
}

impl Case {
    #[track_caller]
    fn new() -> Self {
        let namespace = Namespace::tracked();
        let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let daemon = Daemon::start(output.path(), &[&namespace], &[]);
        let [maker, user] = ["fl-maker", "fl-user"].map(|name| Program::new(programs.path(), name));
        Self { namespace, output, programs, daemon, maker, user }
    }

    /// Lets the maker make a socket and a child that uses it in a role.
    #[track_caller]
    fn lend(&self, kind: &str, role: &str) -> Told {
        self.maker.run(&self.namespace, &format!("lend {kind} {} {role}", self.user.exe()))
    }

    #[track_caller]
    fn stop(self) -> Dataset {
        conntrack::flush(&self.namespace);
        self.daemon.stop();
        Dataset::read(self.output.path())
    }
}

#[track_caller]
fn child(told: &Told) -> i32 {
    i32::try_from(told.number("child")).unwrap()
}

#[test]
fn a_tcp_socket_of_the_parent_that_the_child_connects_is_the_childs() {
    for (kind, at) in [("tcp4", V4), ("tcp6", V6)] {
        let case = Case::new();
        let server = Program::new(case.programs.path(), "fl-server");
        let _serving = server.serve(&case.namespace, 0, at.parse().unwrap());
        let told = case.lend(kind, &format!("connect-lent {at}"));
        conntrack::flush_closed(&case.namespace);
        let user = case.user.clone();
        assert_process(case.stop().row_to(5000), "src", "socket", &user, child(&told), 0);
    }
}

#[test]
fn a_passed_tcp_socket_is_of_who_connects_it() {
    for (kind, at) in [("tcp4", V4), ("tcp6", V6)] {
        let case = Case::new();
        let server = Program::new(case.programs.path(), "fl-server");
        let _serving = server.serve(&case.namespace, 0, at.parse().unwrap());
        let path = case.programs.path().join("pass").display().to_string();
        let giver = case.maker.start(&case.namespace, &format!("pass-on {kind} {path}"));
        giver.wait_for("listening");
        let taker = case.user.run(&case.namespace, &format!("take-and-connect {path} {at}"));
        giver.finish();
        conntrack::flush_closed(&case.namespace);
        let user = case.user.clone();
        assert_process(case.stop().row_to(5000), "src", "socket", &user, taker.pid, 0);
    }
}

#[test]
fn a_udp_socket_of_the_parent_that_the_child_sends_with_is_the_childs() {
    for (kind, at) in [("udp4", V4), ("udp6", V6), ("udp4=127.0.0.1:4000", V4)] {
        let case = Case::new();
        let server = Program::new(case.programs.path(), "fl-server");
        let running = server.start(&case.namespace, &format!("udp-serve {at}"));
        running.wait_for("listening");
        let told = case.lend(kind, &format!("send-lent {at}"));
        running.wait_for("answered");
        let user = case.user.clone();
        let dataset = case.stop();
        let row = dataset.row_to(5000);
        assert_eq!(row.int("src_port"), Some(told.number("port")));
        assert_process(row, "src", "endpoint", &user, child(&told), 0);
        assert_process(row, "dst", "endpoint", &server, running.pid(), 0);
    }
}

/// A datagram waits in the socket until somebody reads it, and its flow may have ended before.
#[test]
fn a_udp_socket_of_the_parent_that_the_child_receives_with_is_the_childs() {
    for at in [V4, V6].map(|at| at.parse::<SocketAddr>().unwrap()) {
        let case = Case::new();
        let family = if at.is_ipv4() { 4 } else { 6 };
        let role = format!("lend udp{family}={at} {} receive-lent", case.user.exe());
        let running = case.maker.start(&case.namespace, &role);
        running.wait_for("child");
        let sender = Program::new(case.programs.path(), "fl-sender");
        let sent = sender.run(&case.namespace, &format!("udp-send {at}"));
        let told = running.finish();
        assert_eq!(told.number("received"), sent.number("port"));
        let user = case.user.clone();
        let dataset = case.stop();
        let row = dataset.row_to(5000);
        assert_process(row, "src", "endpoint", &sender, sent.pid, 0);
        assert_process(row, "dst", "endpoint", &user, child(&told), 0);
    }
}
