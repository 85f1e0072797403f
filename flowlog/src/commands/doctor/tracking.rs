//! Checks of connection tracking in one network namespace. All functions look at the namespace of the
//! calling thread: see [`Namespace::run`](crate::host::namespace::Namespace::run).

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use super::{Finding, Level};
use crate::connections::ctnetlink::Requests;
use crate::flow::{L4, Protocol, Tuple};
use crate::host::watch::Probe;

/// Directory of the sysctls. /proc shows the values of the namespace of the thread that opens a file.
const SYSCTLS: &str = "/proc/sys/net/netfilter";

/// What is found of tracking.
const TRACKED: &str = "connections are tracked";
const NOT_TRACKED: &str =
    "no connection is tracked, so none is recorded: no rule in this network namespace makes the kernel track";

/// Name of the check whether the kernel has what all others need.
const CTNETLINK: &str = "ctnetlink";

/// The sysctls that decide what is in an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `nf_conntrack_acct`: whether flows have counters.
    pub acct: Option<u8>,
    /// `nf_conntrack_timestamp`: whether flows have times.
    pub timestamp: Option<u8>,
    /// `nf_conntrack_events`: 0 none, 1 all, 2 for entries that are made while somebody listens.
    pub events: Option<u8>,
}

/// The sysctls now; `None` where there is no such file.
pub fn read_settings() -> Settings {
    Settings {
        acct: read_sysctl("nf_conntrack_acct").ok(),
        timestamp: read_sysctl("nf_conntrack_timestamp").ok(),
        events: read_sysctl("nf_conntrack_events").ok(),
    }
}

pub(super) fn read_sysctl(name: &str) -> io::Result<u8> {
    u8::try_from(read_number(name)?).map_err(io::Error::other)
}

pub(super) fn read_number(name: &str) -> io::Result<u32> {
    fs::read_to_string(format!("{SYSCTLS}/{name}"))?.trim().parse().map_err(io::Error::other)
}

pub(super) fn write_sysctl(name: &str, value: u8) -> io::Result<()> {
    fs::write(format!("{SYSCTLS}/{name}"), value.to_string())
}

/// Checks sysctls and rules of the namespace of the calling thread, which the user calls `name`; `None`
/// for the one that flowlog runs in. Two packets over loopback try whether connections are tracked; they
/// are flows for whoever logs this namespace.
pub fn check_namespace(name: Option<&str>) -> Vec<Finding> {
    let fix = match name {
        Some(name) => format!("flowlog doctor --fix --netns {name}"),
        None => "flowlog doctor --fix".to_owned(),
    };
    let opened = Requests::open().and_then(|mut requests| requests.count().map(|_| requests));
    let mut requests = match opened {
        Ok(requests) => requests,
        // It has advice in it.
        Err(error) => {
            let found = error.to_string();
            return vec![Finding { level: Level::Problem, ..Finding::ok(CTNETLINK, found) }];
        }
    };
    vec![
        Finding::ok(CTNETLINK, "connection tracking answers"),
        sysctl("nf_conntrack_acct", "flows have counters", "flows have no counters", &fix),
        sysctl("nf_conntrack_timestamp", "flows have start and end times", "flows have no start time", &fix),
        events(&fix),
        tracks("tracking of IPv4", Ipv4Addr::LOCALHOST.into(), &mut requests, &fix),
        tracks("tracking of IPv6", Ipv6Addr::LOCALHOST.into(), &mut requests, &fix),
    ]
}

fn sysctl(name: &'static str, on: &str, off: &str, fix: &str) -> Finding {
    match read_sysctl(name) {
        Ok(0) => Finding::bad(name, Level::Problem, format!("0: {off}"), fix),
        Ok(value) => Finding::ok(name, format!("{value}: {on}")),
        Err(error) => {
            Finding::bad(name, Level::Problem, format!("cannot be read: {error}"), "modprobe nf_conntrack")
        }
    }
}

fn events(fix: &str) -> Finding {
    const NAME: &str = "nf_conntrack_events";
    match read_sysctl(NAME) {
        Ok(0) => Finding::bad(NAME, Level::Problem, "0: the kernel reports no flow", fix),
        Ok(1) => Finding::ok(NAME, "1: the kernel reports every flow"),
        Ok(value) => Finding::bad(
            NAME,
            Level::Warning,
            format!(
                "{value}: connections that are older than flowlog end without an event: their rows come late, and their \
                 counters are not final"
            ),
            fix,
        ),
        Err(error) => Finding::bad(
            NAME,
            Level::Problem,
            format!("cannot be read: {error}"),
            "use a kernel with CONFIG_NF_CONNTRACK_EVENTS",
        ),
    }
}

/// A namespace tracks nothing until a rule in it needs it. Where the kernel does not list its hooks and nothing can
/// be tried without leaving a trace ([`Probe`]), one byte is sent over loopback, its entry looked for and removed.
fn tracks(check: &'static str, loopback: IpAddr, requests: &mut Requests, fix: &str) -> Finding {
    match Probe::open().is_tracked(loopback.is_ipv6(), requests) {
        Some(true) => return Finding::ok(check, TRACKED),
        Some(false) => return Finding::bad(check, Level::Problem, NOT_TRACKED, fix),
        None => {}
    }
    let tuple = match send_probe(loopback) {
        Ok(tuple) => tuple,
        Err(error) => {
            return Finding::bad(
                check,
                Level::Warning,
                format!("cannot be checked, because nothing can be sent to {loopback} here: {error}"),
                "set the interface `lo` of this namespace up",
            );
        }
    };
    // A rule may put everything into a zone, in which the entry is not found by its tuple.
    let found = requests.get(&tuple, None).and_then(|found| {
        let mut is_listed = found.is_some();
        if !is_listed {
            requests.dump(|entry| is_listed |= entry.is_ok_and(|entry| entry.flow.orig.l4 == tuple.l4))?;
        }
        Ok(is_listed)
    });
    match found {
        Ok(true) => {
            // A leftover expires by itself.
            let _ = requests.delete(&tuple, None);
            Finding::ok(check, TRACKED)
        }
        Ok(false) => Finding::bad(check, Level::Problem, NOT_TRACKED, fix),
        Err(error) => {
            Finding::bad(check, Level::Warning, format!("cannot be looked up: {error}"), "run as root")
        }
    }
}

fn send_probe(loopback: IpAddr) -> io::Result<Tuple> {
    let to = UdpSocket::bind((loopback, 0))?;
    let from = UdpSocket::bind((loopback, 0))?;
    from.send_to(&[0], to.local_addr()?)?;
    Ok(Tuple {
        src: loopback,
        dst: loopback,
        proto: Protocol::UDP,
        l4: L4::Ports { src: from.local_addr()?.port(), dst: to.local_addr()?.port() },
        zone: None,
    })
}
