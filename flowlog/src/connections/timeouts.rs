//! How long connection tracking keeps an entry after its last packet, by protocol and state: what it
//! takes to estimate when that packet was.

use std::fs;

use crate::flow::{Flow, ProtoState, Protocol, SctpState, Status, TcpState};
use crate::time::NS_PER_S;

/// Directory of the sysctls. /proc shows those of the namespace of the thread that opens a file.
const SYSCTLS: &str = "/proc/sys/net/netfilter/nf_conntrack_";

/// The timeouts of a network namespace in seconds; `None` where the kernel has no such sysctl.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// By the number of the state; the order of `enum tcp_conntrack`.
    tcp: [Option<u32>; 9],
    /// Of connections of which data is not acknowledged, or was sent again too often.
    tcp_unanswered: [Option<u32>; 2],
    /// By the number of the state; the order of `enum sctp_conntrack`.
    sctp: [Option<u32>; 9],
    udp: Option<u32>,
    udp_stream: Option<u32>,
    gre: Option<u32>,
    gre_stream: Option<u32>,
    icmp: Option<u32>,
    icmpv6: Option<u32>,
    generic: Option<u32>,
}

impl Timeouts {
    /// Reads the timeouts of the namespace of the calling thread.
    pub fn read() -> Self {
        let read = |name: &str| fs::read_to_string(format!("{SYSCTLS}{name}")).ok()?.trim().parse().ok();
        let tcp = |state| read(&format!("tcp_timeout_{state}"));
        let sctp = |state| read(&format!("sctp_timeout_{state}"));
        Self {
            tcp: [
                None,
                tcp("syn_sent"),
                tcp("syn_recv"),
                tcp("established"),
                tcp("fin_wait"),
                tcp("close_wait"),
                tcp("last_ack"),
                tcp("time_wait"),
                tcp("close"),
            ],
            tcp_unanswered: [tcp("unacknowledged"), tcp("max_retrans")],
            sctp: [
                None,
                sctp("closed"),
                sctp("cookie_wait"),
                sctp("cookie_echoed"),
                sctp("established"),
                sctp("shutdown_sent"),
                sctp("shutdown_recd"),
                sctp("shutdown_ack_sent"),
                sctp("heartbeat_sent"),
            ],
            udp: read("udp_timeout"),
            udp_stream: read("udp_timeout_stream"),
            gre: read("gre_timeout"),
            gre_stream: read("gre_timeout_stream"),
            icmp: read("icmp_timeout"),
            icmpv6: read("icmpv6_timeout"),
            generic: read("generic_timeout"),
        }
    }

    /// The longest time in seconds for which an entry of TCP is kept whose socket on this host may be closed, or never
    /// was connected.
    pub fn of_closed_tcp(&self) -> u32 {
        let established = usize::from(TcpState::ESTABLISHED.0);
        let states = self.tcp.iter().enumerate().filter(|(state, _)| *state != established);
        let set = states.filter_map(|(_, seconds)| *seconds).chain(self.tcp_unanswered.into_iter().flatten());
        set.max().unwrap_or(300)
    }

    /// How long an entry is kept after both ends of a TCP connection have closed, in seconds.
    pub fn of_time_wait(&self) -> u32 {
        self.tcp.get(usize::from(TcpState::TIME_WAIT.0)).copied().flatten().unwrap_or(120)
    }

    /// The longest time for which an entry of UDP is kept, in seconds.
    pub fn of_udp(&self) -> u32 {
        self.udp.max(self.udp_stream).unwrap_or(120)
    }

    /// The longest time for which an entry of ICMP or ICMPv6 is kept, in seconds.
    pub fn of_icmp(&self) -> u32 {
        self.icmp.max(self.icmpv6).unwrap_or(30)
    }

    /// The longest time for which an entry of a protocol without connections is kept, in seconds.
    pub fn of_others(&self) -> u32 {
        self.generic.max(self.gre_stream).max(self.gre).unwrap_or(600)
    }

    /// When the last packet of a flow was: its end, or the time of the message, less what its timeout had
    /// run down by then. An estimate, since rules may set timeouts of their own, and some packets do not
    /// renew it. In nanoseconds; `None` where the kernel gave no time, or the estimate is before the start by more than
    /// the second to which the kernel rounds down what is left of a timeout.
    pub fn last_seen_ns(&self, flow: &Flow) -> Option<u64> {
        let idle_s = self.of(flow)?.checked_sub(flow.timeout_s.unwrap_or(0))?;
        let last_ns = flow.stop_ns.or(flow.event_ns)?.checked_sub(u64::from(idle_s) * NS_PER_S)?;
        match flow.start_ns {
            Some(start_ns) if start_ns > last_ns.saturating_add(NS_PER_S) => None,
            Some(start_ns) => Some(last_ns.max(start_ns)),
            None => Some(last_ns),
        }
    }

    /// The timeout that the last packet set.
    fn of(&self, flow: &Flow) -> Option<u32> {
        // A stream is what went both ways for longer than two seconds (nf_conntrack_udp_packet).
        let is_stream = flow.status.is_some_and(|status| status.contains(Status::ASSURED));
        match (flow.orig.proto, flow.state) {
            (_, Some(ProtoState::Tcp(TcpState(state)))) => *self.tcp.get(usize::from(state))?,
            (_, Some(ProtoState::Sctp(SctpState(state)))) => *self.sctp.get(usize::from(state))?,
            (Protocol::UDP | Protocol::UDPLITE, _) if is_stream => self.udp_stream,
            (Protocol::UDP | Protocol::UDPLITE, _) => self.udp,
            (Protocol::GRE, _) if is_stream => self.gre_stream,
            (Protocol::GRE, _) => self.gre,
            (Protocol::ICMP, _) => self.icmp,
            (Protocol::ICMPV6, _) => self.icmpv6,
            (Protocol::TCP | Protocol::SCTP | Protocol::DCCP, _) => None,
            _ => self.generic,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::L4;
    use crate::testing::tuple;

    const S: u64 = 1_000_000_000;

    fn check(flow: Flow, expected_s: Option<u64>) {
        let mut timeouts = Timeouts { udp: Some(30), udp_stream: Some(120), ..Timeouts::default() };
        timeouts.tcp[usize::from(TcpState::TIME_WAIT.0)] = Some(120);
        assert_eq!(timeouts.last_seen_ns(&flow), expected_s.map(|s| s * S), "{flow:?}");
    }

    fn flow(proto: Protocol) -> Flow {
        let tuple = tuple("10.0.0.1", "10.0.0.1", proto, L4::None);
        Flow { start_ns: Some(1000 * S), stop_ns: Some(1200 * S), ..Flow::new(tuple, tuple) }
    }

    #[test]
    fn the_last_packet_was_a_timeout_before_the_end() {
        let udp = flow(Protocol::UDP);
        check(udp.clone(), Some(1170));
        check(Flow { status: Some(Status::ASSURED), ..udp.clone() }, Some(1080));
        check(Flow { timeout_s: Some(10), ..udp.clone() }, Some(1180));
        check(Flow { timeout_s: Some(31), ..udp.clone() }, None);
        check(Flow { stop_ns: None, ..udp.clone() }, None);
        check(Flow { stop_ns: None, event_ns: Some(1200 * S), ..udp.clone() }, Some(1170));
        check(Flow { start_ns: Some(1171 * S), ..udp.clone() }, Some(1171));
        check(Flow { start_ns: Some(1172 * S), ..udp }, None);
    }

    #[test]
    fn the_state_of_tcp_decides() {
        let tcp = flow(Protocol::TCP);
        check(Flow { state: Some(ProtoState::Tcp(TcpState::TIME_WAIT)), ..tcp.clone() }, Some(1080));
        check(Flow { state: Some(ProtoState::Tcp(TcpState(77))), ..tcp.clone() }, None);
        check(tcp, None);
    }

    #[test]
    fn the_kernel_has_these_sysctls() {
        let Timeouts { tcp, udp, icmp, generic, .. } = Timeouts::read();
        assert!(tcp.iter().skip(1).all(Option::is_some), "{tcp:?}");
        assert!(udp.is_some() && icmp.is_some() && generic.is_some());
    }
}
