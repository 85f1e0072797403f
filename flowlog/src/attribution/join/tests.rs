//! Joins of single events and flows. With messages, see `commands/daemon/observed/tests.rs`.

use flowlog_common::{EventHeader, SYSCALL_UNKNOWN};
use nix::libc;

use super::*;
use crate::attribution::processes::MEMORY_BYTES;
use crate::testing::executes;

const TGID: u32 = 7;

fn exec(exe: &str, time_ns: u64) -> RingEvent {
    executes(TGID, exe, time_ns)
}

fn exe(tables: &mut Tables, time_ns: u64) -> Option<String> {
    let owner = Owner { tgid: TGID, time_ns, ..Owner::UNKNOWN };
    let holder = tables.holder(owner, false, time_ns, |_| Origin::default());
    tables.holders.get(holder).process.as_ref()?.exe.as_deref().map(str::to_owned)
}

/// The ring buffer is full of old events when new ones are lost, and takes more while it is read. What
/// is read then may tell of a program that another one has replaced since.
#[test]
fn between_lost_events_no_program_is_known() {
    let mut tables = Tables::new(MEMORY_BYTES, cmdline::Mode::Full);
    let apply = |tables: &mut Tables, event| tables.apply(&event, &Clocks::fixed(0), |_| Origin::default());
    apply(&mut tables, exec("/bin/first", 100));
    tables.processes_are_unknown(200, 500);
    apply(&mut tables, exec("/bin/second", 300));
    assert_eq!(exe(&mut tables, 150).as_deref(), Some("/bin/first"));
    assert_eq!(exe(&mut tables, 350), None, "the number may be of another process since");
    assert_eq!(exe(&mut tables, 450), None);
    apply(&mut tables, exec("/bin/third", 600));
    assert_eq!(exe(&mut tables, 650).as_deref(), Some("/bin/third"));
}

/// A process fails to connect and hands the socket to another one, whose attempt is among what was lost.
#[test]
fn between_lost_events_a_connection_is_not_of_who_tried_before() {
    let header = |time_ns| EventHeader { kind: 0, pad: 0, time_ns };
    let owner_of = |connect_ns: u64, open_ns: u64, lost_until_ns: Option<u64>| {
        let mut tables = Tables::new(MEMORY_BYTES, cmdline::Mode::Off);
        let owner = Owner { tgid: TGID, time_ns: connect_ns, ..Owner::UNKNOWN };
        if let Some(until_ns) = lost_until_ns {
            tables.processes_are_unknown(connect_ns, until_ns);
        }
        for event in [
            RingEvent::TcpConnect(TcpConnect { header: header(connect_ns), socket_cookie: 1, owner }),
            RingEvent::TcpOpen(TcpOpen {
                header: header(open_ns),
                socket_cookie: 1,
                owner: Owner::UNKNOWN,
                local_addr: [1; 16],
                remote_addr: [2; 16],
                local_port: 1,
                remote_port: 2,
                passive: 0,
            }),
        ] {
            tables.apply(&event, &Clocks::fixed(0), |_| Origin::default());
        }
        tables.holders.get(tables.sockets.get(1).unwrap().holder).owner.tgid
    };
    assert_eq!(owner_of(1_000_000, 1_005_000, None), TGID);
    assert_eq!(owner_of(1_000_000, 9_000_000, None), TGID, "it may wait for a processor");
    assert_eq!(owner_of(1_000_000, 1_005_000, Some(9_500_000)), 0, "there may have been another one");
    assert_eq!(owner_of(10_000_000, 19_000_000, Some(9_500_000)), TGID, "after the loss");
}

const KERNEL_THREAD: u32 = 50;

fn header(time_ns: u64) -> EventHeader {
    EventHeader { kind: 0, pad: 0, time_ns }
}

fn owner(tgid: u32, time_ns: u64) -> Owner {
    Owner { tgid, time_ns, netns_cookie: 9, ..Owner::UNKNOWN }
}

fn tcp_open(owner: Owner, passive: u32, time_ns: u64) -> RingEvent {
    RingEvent::TcpOpen(TcpOpen {
        header: header(time_ns),
        socket_cookie: 1,
        owner,
        local_addr: mapped("10.0.0.1".parse().unwrap()),
        remote_addr: mapped("10.0.0.2".parse().unwrap()),
        local_port: 80,
        remote_port: 2000,
        passive,
    })
}

/// Tables that know a process and a thread of the kernel, after these events.
fn after(events: impl IntoIterator<Item = RingEvent>) -> Tables {
    let mut tables = Tables::new(MEMORY_BYTES, cmdline::Mode::Off);
    let kernel_thread = ProcessFork {
        header: header(50),
        tgid: KERNEL_THREAD,
        maker_tgid: 2,
        ppid: 2,
        login_uid: u32::MAX,
        cgroup_id: 0,
        uid: 0,
        pad: 0,
    };
    for event in [exec("/bin/server", 60), RingEvent::ProcessFork(kernel_thread)].into_iter().chain(events) {
        tables.apply(&event, &Clocks::fixed(0), |_| Origin::default());
    }
    tables
}

/// A process ends with a socket that io_uring has still open: a worker of the kernel closes it.
#[test]
fn a_thread_of_the_kernel_is_no_closer() {
    let closer_of = |tgid: u32| {
        let release = release(tgid, syscall(libc::SYS_close), 0);
        let tables = after([tcp_open(owner(TGID, 100), 1, 200), RingEvent::SocketRelease(release)]);
        let found = of_socket(&tables.sockets.get(1).unwrap(), &tables);
        found.end.map(|end| (found.method, end.holder.owner.tgid))
    };
    assert_eq!(closer_of(TGID), Some((Method::Closer, TGID)));
    assert_eq!(closer_of(KERNEL_THREAD), Some((Method::Inherited, TGID)));
}

/// Who lists the descriptors of a process may have the last reference to one that it closes meanwhile.
#[test]
fn who_only_looks_at_a_socket_is_no_closer() {
    const OTHER: u32 = TGID + 1;
    let method_of = |tgid: u32, syscall: u32, exiting: u32, ppid: u32| {
        let fork = ProcessFork {
            header: header(50),
            tgid,
            maker_tgid: ppid,
            ppid,
            login_uid: u32::MAX,
            cgroup_id: 0,
            uid: 0,
            pad: 0,
        };
        let release = release(tgid, syscall, exiting);
        let tables = after([
            RingEvent::ProcessFork(fork),
            tcp_open(owner(TGID, 100), 1, 200),
            RingEvent::SocketRelease(release),
        ]);
        of_socket(&tables.sockets.get(1).unwrap(), &tables).method
    };
    let [readlink, execve, uring] =
        [libc::SYS_readlinkat, libc::SYS_execve, libc::SYS_io_uring_enter].map(syscall);
    for (tgid, syscall, exiting, ppid, expected) in [
        (OTHER, readlink, 0, 1, Method::Inherited),
        (OTHER, readlink, 0, TGID, Method::Inherited),
        (OTHER, readlink, 4, 1, Method::Closer),
        (OTHER, execve, 0, TGID, Method::Inherited),
        (OTHER, uring, 0, 1, Method::Closer),
        (OTHER, SYSCALL_UNKNOWN, 0, 1, Method::Inherited),
        (OTHER, SYSCALL_UNKNOWN, 0, TGID, Method::Closer),
        (TGID, SYSCALL_UNKNOWN, 0, 1, Method::Closer),
    ] {
        let found = method_of(tgid, syscall, exiting, ppid);
        assert_eq!(found, expected, "process {tgid} of {ppid}, call {syscall}, exiting {exiting}");
    }
}

fn syscall(number: libc::c_long) -> u32 {
    u32::try_from(number).unwrap()
}

fn release(tgid: u32, syscall: u32, exiting: u32) -> SocketRelease {
    SocketRelease { header: header(300), socket_cookie: 1, closer: owner(tgid, 300), syscall, exiting }
}

/// A worker of the kernel opens a subflow of MPTCP.
#[test]
fn a_thread_of_the_kernel_owns_nothing() {
    let is_owner_known = |tgid: u32, is_told_before: bool| {
        let owner = owner(tgid, 100);
        let connect = TcpConnect { header: header(100), socket_cookie: 1, owner };
        let tables = if is_told_before {
            after([RingEvent::TcpConnect(connect), tcp_open(Owner::UNKNOWN, 0, 200)])
        } else {
            after([tcp_open(owner, 0, 200)])
        };
        let life = tables.sockets.get(1).unwrap();
        let netns_cookie = tables.holders.get(life.holder).owner.netns_cookie;
        assert_eq!(netns_cookie, 9, "it is where it is, all the same");
        of_socket(&life, &tables).is_known()
    };
    for is_told_before in [true, false] {
        assert!(is_owner_known(TGID, is_told_before));
        assert!(!is_owner_known(KERNEL_THREAD, is_told_before));
    }
}

/// The program of a raw socket asks with one echo id after the other.
#[test]
fn a_raw_socket_had_its_echo_id_until_it_took_another() {
    let ping = |local_port: u16, time_ns: u64| {
        RingEvent::EndpointOpen(EndpointOpen {
            header: header(time_ns),
            socket_cookie: 1,
            owner: owner(TGID, 100),
            local_addr: [0; 16],
            remote_addr: [0; 16],
            packet_addr: [1; 16],
            local_port,
            remote_port: 0,
            protocol: 1,
            used: 1,
            pad: 0,
        })
    };
    let tables = after([ping(7, 200), ping(8, 300), ping(9, 400)]);
    let life_of = |number: u16| {
        let port = Port { protocol: Protocol(1), number };
        tables.endpoints.spans(port)
    };
    assert_eq!(life_of(7), [(100, Some(300))]);
    assert_eq!(life_of(8), [(300, Some(400))]);
    assert_eq!(life_of(9), [(400, None)]);
}

/// A server binds, and runs another program: its user may be another one, too.
#[test]
fn a_listener_is_of_the_program_that_its_process_runs_when_it_accepts() {
    let mut tables = Tables::new(MEMORY_BYTES, cmdline::Mode::Full);
    let apply = |tables: &mut Tables, event| tables.apply(&event, &Clocks::fixed(0), |_| Origin::default());
    tables.processes.fork(
        Fork {
            tgid: TGID,
            maker_tgid: 1,
            ppid: None,
            login_uid: None,
            start_ns: 50,
            group: Group::default(),
        },
        50,
    );
    apply(&mut tables, exec("/bin/binds", 100));
    let owner = Owner { tgid: TGID, time_ns: 150, ..Owner::UNKNOWN };
    let bound = tables.holder(owner, false, 150, |_| Origin::default());
    apply(&mut tables, exec("/bin/serves", 200));
    let mut exe_at = |at_ns: u64| {
        let bound = tables.holders.keep(bound);
        let going_on = tables.going_on(bound, at_ns);
        let Holder { owner, process, .. } = tables.holders.get(going_on);
        (process.as_ref().unwrap().exe.clone().unwrap().to_string(), owner.uid == u32::MAX)
    };
    assert_eq!(exe_at(199), ("/bin/binds".to_owned(), false));
    assert_eq!(exe_at(200), ("/bin/serves".to_owned(), true));
    tables.processes.exit(TGID, 300);
    let next = Fork {
        tgid: TGID,
        maker_tgid: 1,
        ppid: None,
        login_uid: None,
        start_ns: 2_000_000_000,
        group: Group::default(),
    };
    tables.processes.fork(next, 400);
    let holder = tables.going_on(bound, 450);
    assert_eq!(tables.holders.get(holder).process, None, "the number is of another one");
}
