//! What the programs of the tests do, by the words of their role. A role ends with the test that
//! started it, at the latest when its standard input ends.
//!
//! What a test has to know of it, such as a port, a program writes to its standard error: a word and
//! a number.

/// What flowlog forbids itself.
mod confined;
/// Sockets without a connection.
mod datagram;
/// Other programs in the same process.
mod execute;
/// Sockets that go from one process to another.
mod handover;
/// One end of each kind.
mod kinds;
/// Packets made by hand.
mod raw;
/// Connections.
mod tcp;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{self, Command};
use std::thread;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// Plays the role that `words` name.
// Long, since each role is a line or two.
#[track_caller]
pub(crate) fn play(words: &[&str]) {
    match *words {
        ["serve", at] => tcp::serve(at.parse().unwrap()),
        ["connect", to] => tcp::connect_and_exit(to.parse().unwrap()),
        ["serve-kind", kind, at] => kinds::serve(kind, at.parse().unwrap()),
        ["activate", at, exe] => kinds::activate(at.parse().unwrap(), exe),
        ["serve-activated"] => kinds::serve_activated(),
        ["connect-kind", kind, port] => kinds::connect(kind, port.parse().unwrap()),
        ["connect-when-told", to] => tcp::connect_when_told(to.parse().unwrap()),
        ["talk-to-itself", listens_at, answers_at] => {
            tcp::talk_to_itself(listens_at.parse().unwrap(), answers_at.parse().unwrap());
        }
        ["confined", side, below, elsewhere] => {
            confined::try_all(side, below.as_ref(), elsewhere.as_ref());
        }
        ["listen-unbound"] => tcp::listen_unbound(),
        ["connect-many", to, times] => tcp::connect_many(to.parse().unwrap(), times.parse().unwrap()),
        ["connect-and-wait", to, times] => {
            tcp::connect_and_wait(to.parse().unwrap(), times.parse().unwrap());
        }
        ["take-turns", from, to, bytes, rounds, own, other] => tcp::take_turns(
            (from.parse().unwrap(), to.parse().unwrap()),
            bytes.parse().unwrap(),
            rounds.parse().unwrap(),
            [own, other],
        ),
        ["start-many", times, exe, ref role @ ..] => {
            tcp::start_many(times.parse().unwrap(), exe, &role.join(" "));
        }
        ["start-shells", times, shell, to] => {
            tcp::start_shells(times.parse().unwrap(), shell, to.parse().unwrap());
        }
        ["execute", how, exe, ref role @ ..] => execute::execute(how, exe, &role.join(" ")),
        ["execute-in-vain", to] => execute::in_vain(to.parse().unwrap()),
        ["serve-with-workers", kind, workers, exe, ref role @ ..] => {
            handover::serve_with_workers(kind, workers.parse().unwrap(), exe, &role.join(" "));
        }
        ["end-with-parent", ref role @ ..] => {
            // Only for children of a program. The kernel means the end of the thread that started this one: the test
            // starts programs on threads that end at once.
            set_pdeathsig(Signal::SIGKILL).unwrap();
            play(role);
        }
        ["accept-lent", how] => handover::accept_lent(how),
        ["lend", kind, exe, ref role @ ..] => handover::lend(kind, exe, &role.join(" ")),
        ["leave", kind, exe] => handover::leave(kind, exe),
        ["connect-lent", to] => handover::connect_lent(to.parse().unwrap()),
        ["send-lent", to] => handover::send_lent(to.parse().unwrap()),
        ["receive-many-lent"] => handover::receive_many_lent(),
        ["hold-lent"] => handover::hold_lent(),
        ["keep-and-execute", kind, exe, ref role @ ..] => {
            handover::keep_and_execute(kind, exe, &role.join(" "));
        }
        ["answer-lent"] => handover::answer_lent(),
        ["receive-lent"] => handover::receive_lent(),
        ["look-at", pid] => handover::look_at(pid),
        ["pass-on", kind, at] => handover::pass_on(kind, at),
        ["take-and-connect", at, to] => handover::take_and_connect(at, to.parse().unwrap()),
        ["udp-connect", to] => datagram::connect(to.parse().unwrap()),
        ["flood", to, rounds] => flood(to.parse().unwrap(), rounds.parse().unwrap()),
        ["udp-send", to] => datagram::send(to.parse().unwrap()),
        ["udp-send-from", port, to, times] => {
            datagram::send_from(port.parse().unwrap(), to.parse().unwrap(), times.parse().unwrap());
        }
        ["udp-listen", at] => datagram::listen(at.parse().unwrap()),
        ["udp-serve", at] => datagram::serve(at.parse().unwrap(), false),
        ["udp-serve-shared", at] => datagram::serve(at.parse().unwrap(), true),
        ["udp-serve-as", uid, at] => datagram::serve_as(uid.parse().unwrap(), at.parse().unwrap()),
        ["raw-echo", to, id] => datagram::raw_echo(to.parse().unwrap(), id.parse().unwrap()),
        ["raw", to, protocol] => datagram::raw(to.parse().unwrap(), protocol.parse().unwrap()),
        ["raw-send", kind, from, to, count] => {
            let [from, to] = [from, to].map(|at| at.parse().unwrap());
            raw::send_to_ports(kind, from, to, count.parse().unwrap());
        }
        ["raw-send-when-told", kind, from, to] => {
            raw::send_when_told(kind, from.parse().unwrap(), to.parse().unwrap());
        }
        ["raw-flood", kind, from, to, ports, times] => {
            let [from, to] = [from, to].map(|at| at.parse().unwrap());
            raw::flood(kind, from, to, ports.parse().unwrap(), times.parse().unwrap());
        }
        ["raw-send-lent", kind, from, to] => {
            raw::send_lent(kind, from.parse().unwrap(), to.parse().unwrap());
        }
        ["raw-send-and-connect", kind, from, to, connect_to] => {
            let [from, to, connect_to] = [from, to, connect_to].map(|at| at.parse().unwrap());
            raw::send_and_connect(kind, from, to, connect_to);
        }
        ["raw-answer", kind, at] => raw::answer(kind, at.parse().unwrap()),
        ["connect-fast-open", to] => tcp::connect_fast_open(to.parse().unwrap()),
        ["connect-fast-open-later", to] => tcp::connect_fast_open_later(to.parse().unwrap()),
        ["connect-mptcp", to] => tcp::connect_mptcp(to.parse().unwrap()),
        ["connect-bound-to-device", device, to] => {
            tcp::connect_bound_to_device(device, to.parse().unwrap());
        }
        _ => panic!("no such role: {words:?}"),
    }
}

/// Opens sockets of UDP and TCP as fast as it goes, whether somebody listens or not, and runs a program now and then.
fn flood(to: SocketAddr, rounds: usize) {
    const OF_EACH: usize = 20;
    for _ in 0..rounds {
        for _ in 0..OF_EACH {
            datagram::connect_and_send(to);
            let _ = TcpStream::connect(to);
        }
        Command::new("/bin/true").status().unwrap();
    }
}

/// Tells the test a line. At once: a parent and its child may tell on one pipe.
fn tell(line: &str) {
    io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Ends this program when the test closes its standard input, or ends.
fn end_with_the_test() {
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        process::exit(0);
    });
}
