//! Whether what flowlog remembers of sockets is enough for this host: from its timeouts, and from how many connections
//! it opens now.

use std::fs;
use std::time::Duration;

use super::{Finding, Level};
use crate::attribution::processes::MEMORY_BYTES;
use crate::connections::timeouts::Timeouts;

const CHECK: &str = "memory for sockets";

/// What a TCP connection over IPv4 takes at an end that is local, with its place in the indexes.
const SOCKET_BYTES: usize = 100;

/// How long connections are counted.
const SAMPLE: Duration = Duration::from_millis(500);

/// Checks the namespace of the calling thread.
pub fn check_memory() -> Finding {
    let time_wait_s = Timeouts::read().of_time_wait().max(1);
    let before = opened();
    std::thread::sleep(SAMPLE);
    let opened = before.zip(opened()).map(|(before, after)| after.saturating_sub(before));
    let rate = opened.map(|opened| opened * 1000 / u64::try_from(SAMPLE.as_millis()).unwrap_or(1));
    finding(time_wait_s, rate)
}

fn finding(time_wait_s: u32, rate: Option<u64>) -> Finding {
    let sockets = (MEMORY_BYTES / SOCKET_BYTES) as u64;
    let holds = sockets / u64::from(time_wait_s);
    let mut found = format!(
        "{} MiB have room for {sockets} sockets: {holds} connections a second that stay {time_wait_s} s in TIME_WAIT",
        MEMORY_BYTES >> 20
    );
    let Some(rate) = rate else { return Finding::ok(CHECK, found) };
    found += &format!("; now {rate} a second");
    if rate <= holds {
        return Finding::ok(CHECK, found);
    }
    let wanted_mib = ((rate * u64::from(time_wait_s) * SOCKET_BYTES as u64) >> 20).next_power_of_two();
    let advice = format!("set `attribution.memory` to \"{wanted_mib}MiB\"");
    Finding::bad(CHECK, Level::Warning, found, advice)
}

/// How many TCP connections were opened and accepted since the namespace was made: `ActiveOpens` and `PassiveOpens`.
fn opened() -> Option<u64> {
    sum(&fs::read_to_string("/proc/thread-self/net/snmp").ok()?)
}

fn sum(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |name: &str| {
        let position = names.split(' ').position(|found| found == name)?;
        values.split(' ').nth(position)?.parse::<u64>().ok()
    };
    Some(value("ActiveOpens")? + value("PassiveOpens")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_those_that_were_opened_and_accepted() {
        let snmp =
            "Ip: Forwarding\nIp: 1\nTcp: RtoAlgorithm ActiveOpens PassiveOpens InSegs\nTcp: 1 20 300 4000\n";
        assert_eq!(sum(snmp), Some(320));
        assert_eq!(sum("Tcp: ActiveOpens\n"), None);
        assert!(opened().is_some());
    }

    #[test]
    fn a_rate_beyond_the_memory_is_a_warning_that_says_how_much_is_enough() {
        assert_eq!(finding(120, None).level, Level::Ok);
        assert_eq!(finding(120, Some(22_000)).level, Level::Ok);
        let Finding { level, advice, .. } = finding(120, Some(30_000));
        assert_eq!(level, Level::Warning);
        assert_eq!(advice.as_deref(), Some("set `attribution.memory` to \"512MiB\""));
    }
}
