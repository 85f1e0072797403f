//! What a TCP socket measured, as the kernel tells it when the socket closes.

use flowlog_common::TcpClose;

use crate::record::TcpStats;

/// States of a closing socket in which the peer has acknowledged our FIN: `BPF_TCP_FIN_WAIT2`,
/// `BPF_TCP_TIME_WAIT`, `BPF_TCP_LAST_ACK`, `BPF_TCP_CLOSING`.
const FIN_ACKNOWLEDGED: [u32; 4] = [5, 6, 9, 11];

/// States in which the FIN of the peer has come: the above, and `BPF_TCP_CLOSE_WAIT`.
const FIN_RECEIVED: [u32; 5] = [5, 6, 8, 9, 11];

/// What the socket measured. The kernel counts SYN and FIN as bytes, which are no payload; the SYN of a
/// server is acknowledged before there is a socket that counts.
pub(super) fn of(close: &TcpClose, is_passive: bool) -> TcpStats {
    let TcpClose {
        bytes_acked, bytes_received, srtt_eighth_us, rtt_min_us, total_retrans, old_state, ..
    } = *close;
    TcpStats {
        srtt_us: (srtt_eighth_us != 0).then_some(srtt_eighth_us >> 3),
        min_rtt_us: (rtt_min_us != u32::MAX && srtt_eighth_us != 0).then_some(rtt_min_us),
        retrans: total_retrans,
        bytes_sent: bytes_acked
            .saturating_sub(u64::from(!is_passive))
            .saturating_sub(u64::from(FIN_ACKNOWLEDGED.contains(&old_state))),
        bytes_received: bytes_received.saturating_sub(u64::from(FIN_RECEIVED.contains(&old_state))),
    }
}
