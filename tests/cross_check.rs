//! `flowlog` and conntrack(8) side by side over mixed traffic: every line is one row, and no row is
//! left over.

use std::net::{IpAddr, SocketAddr};

use crate::harness::conntrack::{self, Conntrack, Destroyed, Tuple};
use crate::harness::daemon::Daemon;
use crate::harness::dataset::{Dataset, Row};
use crate::harness::kernel::{ENDS, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::traffic::Ends;
use crate::harness::wait::wait_for;

/// A port of the server whose packets are dropped.
const BLACK_HOLE: u16 = 81;
/// The server answers for connections to this port of its other address, which does not exist.
const DNAT_PORT: u16 = 8080;
/// Connections to this port leave with another source address.
const SNAT_PORT: u16 = 5001;
/// Connections to this port get a mark and a zone.
const MARKED_PORT: u16 = 5002;
/// The flow that is destroyed last.
const LAST_PORT: u16 = 9999;

/// One address family of the two namespaces.
struct Family {
    server: IpAddr,
    /// Another address of the client, for SNAT.
    snat: IpAddr,
    /// An address that exists nowhere, for DNAT.
    dnat: IpAddr,
}

#[test]
fn every_destroyed_entry_is_one_row() {
    let [v4, v6] = [
        Family {
            server: "10.77.0.2".parse().unwrap(),
            snat: "10.77.0.9".parse().unwrap(),
            dnat: "10.77.0.99".parse().unwrap(),
        },
        Family {
            server: "fd77::2".parse().unwrap(),
            snat: "fd77::9".parse().unwrap(),
            dnat: "fd77::99".parse().unwrap(),
        },
    ];
    let client = Namespace::tracked();
    let server = Namespace::bare();
    // Of several addresses the kernel sends from the first of IPv4 and from the last of IPv6.
    client.link(
        &[("10.77.0.1", 24), ("10.77.0.9", 24), ("fd77::9", 64), ("fd77::1", 64)],
        &server,
        &[("10.77.0.2", 24), ("fd77::2", 64)],
    );
    server.nft(&format!(
        "table inet hole {{
            chain in {{ type filter hook prerouting priority 0; tcp dport {BLACK_HOLE} drop; }}
        }}"
    ));
    client.nft(&client_rules(&v4, &v6));
    let ends = Ends { client: &client, server: &server };

    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&client], &[]);
    let witness = Conntrack::start(&client);

    // First everything with timeouts so short that what can expire does.
    for timeout in SHORT_TIMEOUTS {
        client.sysctl(&format!("net/netfilter/nf_conntrack_{timeout}"), "1");
    }
    let _open = [&v4, &v6].map(|family| mixed_traffic(ends, family));
    wait_for("entries to expire", || {
        let entries = conntrack::list(&client);
        let short_lived = ["udp ", "icmp", "TIME_WAIT", " CLOSE "];
        (!short_lived.iter().any(|word| entries.contains(word))).then_some(())
    });

    // Then again with longer ones, and all that is left is removed: also the connections that stay open
    // until the end of the test.
    for timeout in SHORT_TIMEOUTS {
        client.sysctl(&format!("net/netfilter/nf_conntrack_{timeout}"), "120");
    }
    let _open_too = [&v4, &v6].map(|family| mixed_traffic(ends, family));
    conntrack::flush(&client);
    ends.udp_unanswered((v4.server, LAST_PORT).into(), (v4.server, LAST_PORT).into());
    conntrack::flush(&client);

    let mut expected = witness.stop(LAST_PORT);
    daemon.stop();
    let dataset = Dataset::read(output.path());
    let mut logged: Vec<Destroyed> = dataset.rows().into_iter().map(from_row).collect();
    expected.sort();
    logged.sort();
    assert_eq!(logged, expected, "left: rows of flowlog, right: lines of conntrack");

    assert_all_kinds(&expected);
    for row in dataset.rows() {
        check_derived_columns(row, &client);
    }
}

/// Timeouts of the states in which flows of this test end by themselves.
const SHORT_TIMEOUTS: [&str; 6] = [
    "icmp_timeout",
    "icmpv6_timeout",
    "tcp_timeout_close",
    "tcp_timeout_time_wait",
    "udp_timeout",
    "udp_timeout_stream",
];

fn client_rules(v4: &Family, v6: &Family) -> String {
    let nat = |ip: &str, family: &Family| {
        let Family { server, snat, dnat } = family;
        format!(
            "table {ip} nat {{
                chain out {{ type nat hook output priority -100;
                    {ip} daddr {dnat} meta l4proto {{ tcp, udp }} th dport {DNAT_PORT} dnat to {server}; }}
                chain post {{ type nat hook postrouting priority srcnat;
                    meta l4proto {{ tcp, udp }} th dport {SNAT_PORT} snat to {snat}; }}
            }}"
        )
    };
    // The zone is chosen before the entry is looked up, which is at priority -200.
    let mark_and_zone = format!(
        "table inet marks {{
            chain zone_out {{ type filter hook output priority raw; udp dport {MARKED_PORT} ct zone set 7; }}
            chain zone_in {{ type filter hook prerouting priority raw; udp sport {MARKED_PORT} ct zone set 7; }}
            chain mark_out {{ type filter hook output priority mangle;
                meta l4proto {{ tcp, udp }} th dport {MARKED_PORT} ct mark set 0xfffffff0; }}
        }}"
    );
    [nat("ip", v4), nat("ip6", v6), mark_and_zone].join("\n")
}

/// One connection of every kind. The one that stays open is given back.
fn mixed_traffic(ends: Ends<'_>, family: &Family) -> impl Sized + use<> {
    let at = |port: u16| SocketAddr::from((family.server, port));
    ends.tcp_closed(at(5000), at(5000));
    ends.tcp_reset(at(5003), at(5003));
    ends.tcp_refused(at(5004));
    ends.tcp_half_open(at(BLACK_HOLE));
    ends.udp_answered(at(5000), at(5000));
    ends.udp_unanswered(at(5005), at(5005));
    ends.ping(family.server);
    ends.tcp_closed(at(SNAT_PORT), at(SNAT_PORT));
    ends.udp_answered(at(SNAT_PORT), at(SNAT_PORT));
    ends.tcp_closed(at(DNAT_PORT), (family.dnat, DNAT_PORT).into());
    ends.udp_answered(at(DNAT_PORT), (family.dnat, DNAT_PORT).into());
    ends.tcp_closed(at(MARKED_PORT), at(MARKED_PORT));
    ends.udp_answered(at(MARKED_PORT), at(MARKED_PORT));
    ends.tcp_open(at(5006), at(5006))
}

/// A row in conntrack's terms. What NAT left unchanged is NULL in the row.
fn from_row(row: &Row) -> Destroyed {
    let address = |column: &str| {
        row.text(column).map(|text| {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(address.to_string(), text, "`{column}` is written as RFC 5952 says");
            address
        })
    };
    let orig = Tuple {
        src: address("src_ip").unwrap(),
        src_port: row.int("src_port"),
        dst: address("dst_ip").unwrap(),
        dst_port: row.int("dst_port"),
    };
    let reply = Tuple {
        src: address("nat_dst_ip").unwrap_or(orig.dst),
        src_port: row.int("nat_dst_port").or(orig.dst_port),
        dst: address("nat_src_ip").unwrap_or(orig.src),
        dst_port: row.int("nat_src_port").or(orig.src_port),
    };
    Destroyed {
        id: row.int("ct_id").unwrap(),
        proto: row.int("proto").unwrap(),
        proto_name: row.text("proto_name").unwrap().to_owned(),
        orig,
        reply,
        icmp: row
            .int("icmp_type")
            .map(|icmp_type| [icmp_type, row.int("icmp_code").unwrap(), row.int("icmp_id").unwrap()]),
        state: row.text("ct_state").map(str::to_owned),
        seen_reply: row.bool("seen_reply").unwrap(),
        assured: row.bool("assured").unwrap(),
        end_reason: row.text("end_reason").unwrap().to_owned(),
        orig_counters: [row.int("orig_packets"), row.int("orig_bytes")],
        reply_counters: [row.int("reply_packets"), row.int("reply_bytes")],
        mark: row.int("ct_mark"),
        zone: row.int("ct_zone"),
        start: row.time("start_time"),
        stop: row.time("end_time"),
    }
}

/// Nothing that the test is about may be missing on both sides.
fn assert_all_kinds(destroyed: &[Destroyed]) {
    type Kind = (&'static str, fn(&Destroyed) -> bool);
    let kinds: [Kind; 17] = [
        ("TCP, closed", |entry| entry.proto == 6 && entry.end_reason == "closed"),
        ("TCP, reset", |entry| entry.proto == 6 && entry.end_reason == "reset" && entry.assured),
        ("TCP, refused", |entry| entry.proto == 6 && entry.end_reason == "reset" && !entry.assured),
        ("TCP, half-open", |entry| entry.state.as_deref() == Some("syn_sent") && !entry.seen_reply),
        ("TCP, removed while open", |entry| {
            entry.state.as_deref() == Some("established") && entry.end_reason == "deleted"
        }),
        ("UDP, answered", |entry| entry.proto == 17 && entry.seen_reply),
        ("UDP, unanswered", |entry| entry.proto == 17 && !entry.seen_reply),
        ("UDP, expired", |entry| entry.proto == 17 && entry.end_reason == "timeout"),
        ("UDP, removed", |entry| entry.proto == 17 && entry.end_reason == "deleted"),
        ("ICMP", |entry| entry.proto == 1 && entry.icmp.is_some_and(|[kind, ..]| kind == 8)),
        ("ICMPv6", |entry| entry.proto == 58 && entry.icmp.is_some_and(|[kind, ..]| kind == 128)),
        ("SNAT of IPv4", |entry| entry.orig.src.is_ipv4() && entry.reply.dst != entry.orig.src),
        ("SNAT of IPv6", |entry| entry.orig.src.is_ipv6() && entry.reply.dst != entry.orig.src),
        ("DNAT of IPv4", |entry| entry.orig.dst.is_ipv4() && entry.reply.src != entry.orig.dst),
        ("DNAT of IPv6", |entry| entry.orig.dst.is_ipv6() && entry.reply.src != entry.orig.dst),
        ("mark", |entry| entry.mark == Some(0xffff_fff0)),
        ("zone", |entry| entry.zone == Some(7)),
    ];
    let are_ends_told = !lacks(ENDS);
    let tells_end = |name: &str| name.starts_with("TCP") || name == "UDP, removed";
    for (name, is_kind) in kinds.into_iter().filter(|(name, _)| are_ends_told || !tells_end(name)) {
        assert!(destroyed.iter().any(is_kind), "the traffic had no flow of the kind `{name}`");
    }
}

/// What follows from the compared columns.
fn check_derived_columns(row: &Row, observer: &Namespace) {
    let [start, end] = ["start_time", "end_time"].map(|column| row.time(column).unwrap());
    assert!(start <= end, "{row:?}");
    assert_eq!(row.text("time_source"), Some("kernel"), "{row:?}");
    assert_eq!(row.text("record_type"), Some("end"), "{row:?}");
    assert_eq!(row.text("end_source"), Some("destroy"), "{row:?}");
    assert_eq!(row.bool("counters_final"), Some(true), "{row:?}");
    assert_eq!(row.int("observer_netns"), Some(observer.inode()), "{row:?}");
    let is_ipv4 = row.text("src_ip").unwrap().parse::<IpAddr>().unwrap().is_ipv4();
    assert_eq!(row.int("ip_version"), Some(if is_ipv4 { 4 } else { 6 }), "{row:?}");
    let status = row.int("ct_status").unwrap();
    assert_eq!(status & 2 != 0, row.bool("seen_reply").unwrap(), "{row:?}");
    assert_eq!(status & 4 != 0, row.bool("assured").unwrap(), "{row:?}");
}
