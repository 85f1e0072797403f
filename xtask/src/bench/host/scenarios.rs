//! The kinds of load that there are.

use super::mode::Mode;
use super::{Keys, Scenario, datagrams, exec, iperf, open, redis, web};

/// All, in the order in which they are measured.
pub(super) static SCENARIOS: [Scenario; 8] = [
    Scenario {
        name: "nginx",
        keys: Keys { rows: "nginx_rows", parts: "nginx_parts", programs: "nginx_programs" },
        title: "nginx with one worker, `ab -c 20` without keep-alive, over veth",
        unit: "connection",
        programs: &WEB,
        modes: &Mode::ALL,
        rounds: 5,
        entries: 20_000,
        counts_programs: true,
        start: web::rate,
    },
    Scenario {
        name: "time-wait",
        keys: Keys { rows: "time_wait_rows", parts: "time_wait_parts", programs: "time_wait_programs" },
        title: "nginx with 24 ports and `ab -c 20`, both ends on the host: all flows wait in TIME_WAIT",
        unit: "connection",
        programs: &WEB,
        modes: NOT_PEERS,
        rounds: 1,
        entries: 120_000,
        counts_programs: false,
        start: web::many,
    },
    Scenario {
        name: "udp",
        keys: Keys { rows: "udp_rows", parts: "udp_parts", programs: "udp_programs" },
        title: "Two programs, each with one socket for each datagram, over loopback",
        unit: "socket",
        programs: &[],
        modes: NOT_PEERS,
        rounds: 1,
        entries: 60_000,
        counts_programs: true,
        start: datagrams::start,
    },
    Scenario {
        name: "redis",
        keys: Keys { rows: "redis_rows", parts: "redis_parts", programs: "redis_programs" },
        title: "redis and `redis-benchmark -c 20 -t get -k 0` over veth: a connection for each request",
        unit: "connection",
        programs: &REDIS,
        modes: &Mode::ALL,
        rounds: 3,
        entries: 20_000,
        counts_programs: true,
        start: redis::short,
    },
    Scenario {
        name: "redis-keepalive",
        keys: Keys {
            rows: "redis_keepalive_rows",
            parts: "redis_keepalive_parts",
            programs: "redis_keepalive_programs",
        },
        title: "redis and `redis-benchmark -c 20 -t get` over veth: connections that stay",
        unit: "request",
        programs: &REDIS,
        modes: &Mode::ALL,
        rounds: 3,
        entries: 100,
        counts_programs: true,
        start: redis::kept_alive,
    },
    Scenario {
        name: "iperf3",
        keys: Keys { rows: "iperf3_rows", parts: "iperf3_parts", programs: "iperf3_programs" },
        title: "iperf3 with one connection over veth; the rate is in MB a second",
        unit: "MB",
        programs: &[("iperf3", "iperf3")],
        modes: NOT_PEERS,
        rounds: 3,
        entries: 100,
        counts_programs: true,
        start: iperf::start,
    },
    Scenario {
        name: "exec",
        keys: Keys { rows: "exec_rows", parts: "exec_parts", programs: "exec_programs" },
        title: "`true`, one after the other",
        unit: "process",
        programs: &[],
        modes: NOT_PEERS,
        rounds: 3,
        entries: 100,
        counts_programs: true,
        start: exec::start,
    },
    Scenario {
        name: "open",
        keys: Keys { rows: "open_rows", parts: "open_parts", programs: "open_programs" },
        title: "Connections that are all open at once, both ends on the host",
        unit: "connection",
        programs: &[],
        modes: &[Mode::NoEbpf, Mode::Whole],
        rounds: 1,
        entries: 500_000,
        counts_programs: false,
        start: open::start,
    },
];

const WEB: [(&str, &str); 2] = [("nginx", "nginx"), ("ab", "apache2-utils")];

const REDIS: [(&str, &str); 2] = [("redis-server", "redis-server"), ("redis-benchmark", "redis-tools")];

/// Those that show something where no connections come and go, or where the peer would only repeat itself.
const NOT_PEERS: &[Mode] = &[Mode::Without, Mode::NoEbpf, Mode::Stopped, Mode::Whole];
