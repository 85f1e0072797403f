//! What flowlog needs of its host, whether it has it, and what follows where it has not.
//!
//! Others on the host change it while flowlog runs: they reload the firewall, set a sysctl, detach a program. A
//! [`Needs`] is told what was found of one network namespace (or of the host), and answers with what has to be said,
//! mended and declared. A need that is not met is declared piece by piece: the first after a second, the next ones
//! each minute, the last one when it is met again. So whoever kills flowlog takes away a minute at most, which the
//! next start declares. Pure: times are arguments, in microseconds since 1970.

use flowlog_reader::gaps::{Cause, Gap, Stage};

/// How long a need is not met until that is declared for the first time: what is mended at once is one gap.
const FIRST_PIECE_US: i64 = 1_000_000;

/// How long the following pieces are.
const PIECE_US: i64 = 60_000_000;

/// What is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// A rule makes the kernel track IPv4.
    TracksIpv4,
    /// A rule makes the kernel track IPv6.
    TracksIpv6,
    /// `nf_conntrack_events` is not 0.
    Events,
    /// `nf_conntrack_acct` is not 0.
    Accounting,
    /// `nf_conntrack_timestamp` is not 0.
    Timestamps,
    /// The connection tracking table has room.
    Room,
    /// The eBPF programs are attached.
    Programs,
}

/// How bad it is where a need is not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Flows are lost.
    Error,
    /// Something is missing in rows, or soon will be.
    Warning,
}

impl Need {
    /// Those of a network namespace.
    pub const OF_NAMESPACE: [Self; 6] =
        [Self::TracksIpv4, Self::TracksIpv6, Self::Events, Self::Accounting, Self::Timestamps, Self::Room];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::TracksIpv4 => "tracking_ipv4",
            Self::TracksIpv6 => "tracking_ipv6",
            Self::Events => "events",
            Self::Accounting => "accounting",
            Self::Timestamps => "timestamps",
            Self::Room => "table_room",
            Self::Programs => "ebpf_programs",
        }
    }

    /// Whether flows are lost without it.
    pub fn severity(self) -> Severity {
        match self {
            Self::TracksIpv4 | Self::TracksIpv6 | Self::Events => Severity::Error,
            Self::Accounting | Self::Timestamps | Self::Room | Self::Programs => Severity::Warning,
        }
    }

    /// What is the case where it is not met.
    pub fn found(self) -> &'static str {
        match self {
            Self::TracksIpv4 => "no rule makes the kernel track connections over IPv4",
            Self::TracksIpv6 => "no rule makes the kernel track connections over IPv6",
            Self::Events => "nf_conntrack_events is 0",
            Self::Accounting => "nf_conntrack_acct is 0",
            Self::Timestamps => "nf_conntrack_timestamp is 0",
            Self::Room => "the connection tracking table is nearly full",
            Self::Programs => "somebody detached eBPF programs of flowlog",
        }
    }

    /// What follows from that.
    pub fn consequence(self) -> &'static str {
        match self {
            Self::TracksIpv4 | Self::TracksIpv6 => "they are not recorded",
            Self::Events => {
                "connections that begin now end without an event, and most of them are not recorded"
            }
            Self::Accounting => "connections that begin now have no counters",
            Self::Timestamps => {
                "connections that begin now have no start time, so their processes are `ambiguous`"
            }
            Self::Room => "the kernel drops packets of new connections when it is full",
            Self::Programs => "flows may have no process",
        }
    }

    /// The cause of what is missing, and how many flows may be missing; `None` where nothing is yet.
    fn loss(self) -> Option<(Cause, Stage, Option<u64>)> {
        match self {
            Self::TracksIpv4 | Self::TracksIpv6 => Some((Cause::NotTracked, Stage::Kernel, None)),
            Self::Events => Some((Cause::EventsOff, Stage::Kernel, None)),
            Self::Accounting => Some((Cause::AccountingOff, Stage::Kernel, Some(0))),
            Self::Timestamps => Some((Cause::TimestampsOff, Stage::Kernel, Some(0))),
            Self::Programs => Some((Cause::ProgramsDetached, Stage::Attribute, Some(0))),
            Self::Room => None,
        }
    }

    /// The need of an IP version.
    pub fn tracks(is_ipv6: bool) -> Self {
        if is_ipv6 { Self::TracksIpv6 } else { Self::TracksIpv4 }
    }
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is not met any more, or was not from the start.
    Lost {
        /// What.
        need: Need,
    },
    /// It is met again.
    Met {
        /// What.
        need: Need,
        /// For how long it was not, in microseconds.
        after_us: i64,
    },
}

/// A need that is not met.
#[derive(Clone, Copy, Debug)]
struct Unmet {
    since_us: i64,
    declared_until_us: i64,
}

/// The state of one need.
#[derive(Clone, Copy, Debug)]
struct State {
    need: Need,
    /// When it was seen to be met for the last time.
    met_us: i64,
    unmet: Option<Unmet>,
    /// flowlog mends it now.
    is_mended: bool,
}

/// The needs of one network namespace, or those of the host.
#[derive(Debug)]
pub struct Needs {
    /// What details begin with.
    place: String,
    states: Vec<State>,
}

impl Needs {
    /// Of a network namespace that is watched since `now_us`.
    pub fn of_namespace(name: &str, now_us: i64) -> Self {
        Self::new(format!("network namespace `{name}`: "), &Need::OF_NAMESPACE, now_us)
    }

    /// Of the host.
    pub fn of_host(now_us: i64) -> Self {
        Self::new(String::new(), &[Need::Programs], now_us)
    }

    fn new(place: String, needs: &[Need], now_us: i64) -> Self {
        let state = |need: &Need| State { need: *need, met_us: now_us, unmet: None, is_mended: false };
        Self { place, states: needs.iter().map(state).collect() }
    }

    /// Takes in what was found at `at_us`: what counts is when the look began. `None`: it could not be found out, and
    /// nothing changes.
    pub fn observe(&mut self, need: Need, is_met: Option<bool>, at_us: i64) -> Option<Change> {
        let state = self.states.iter_mut().find(|state| state.need == need)?;
        match (is_met?, state.unmet) {
            (true, None) => {
                state.met_us = at_us;
                None
            }
            (false, None) => {
                // A clock that was set back must not make a time that ends before it begins.
                let since_us = state.met_us.min(at_us);
                state.unmet = Some(Unmet { since_us, declared_until_us: since_us });
                Some(Change::Lost { need })
            }
            (true, Some(Unmet { since_us, .. })) => {
                Some(Change::Met { need, after_us: at_us.saturating_sub(since_us) })
            }
            (false, Some(_)) => None,
        }
    }

    /// Closes what [`Change::Met`] told of: gives the last piece.
    pub fn close(&mut self, need: Need, at_us: i64) -> Option<Gap> {
        let place = &self.place;
        let state = self.states.iter_mut().find(|state| state.need == need)?;
        let Unmet { since_us, declared_until_us } = state.unmet.take()?;
        let by = if std::mem::take(&mut state.is_mended) { "resolved by flowlog" } else { "resolved" };
        state.met_us = at_us;
        let after = lasting(at_us.saturating_sub(since_us));
        let detail = format!("{place}{}, {by} after {after}", need.found());
        piece(need, declared_until_us, at_us, detail)
    }

    /// flowlog mends it, or has given up to do so; how it went, the next look shows.
    pub fn mended(&mut self, need: Need, is_mended: bool) {
        if let Some(state) = self.states.iter_mut().find(|state| state.need == need) {
            state.is_mended = is_mended;
        }
    }

    /// A need that may not have been met for a moment between two looks, and is met now: since it was seen to be met
    /// the last time.
    pub fn blinked(&mut self, need: Need, at_us: i64, why: &str) -> Option<Gap> {
        let state = self.states.iter_mut().find(|state| state.need == need)?;
        if state.unmet.is_some() {
            return None;
        }
        let from_us = state.met_us.min(at_us);
        state.met_us = at_us;
        piece(need, from_us, at_us, format!("{}{why}", self.place))
    }

    /// Declares what is due: what is not met goes on. At the end of the run (`is_last`) all of it is.
    pub fn declare(&mut self, now_us: i64, is_last: bool) -> Vec<Gap> {
        let place = &self.place;
        let pieces = self.states.iter_mut().filter_map(|State { need, unmet, .. }| {
            let unmet = unmet.as_mut()?;
            // If the clock was set back, what goes on is of the new time.
            unmet.declared_until_us = unmet.declared_until_us.min(now_us);
            unmet.since_us = unmet.since_us.min(now_us);
            let is_first = unmet.declared_until_us == unmet.since_us;
            let due_us =
                unmet.declared_until_us.saturating_add(if is_first { FIRST_PIECE_US } else { PIECE_US });
            if now_us < due_us && !is_last {
                return None;
            }
            let from_us = unmet.declared_until_us.min(now_us);
            unmet.declared_until_us = now_us;
            piece(*need, from_us, now_us, format!("{place}{}", need.found()))
        });
        pieces.collect()
    }

    /// Whether it is met, as far as is known.
    pub fn is_met(&self, need: Need) -> bool {
        self.states.iter().all(|state| state.need != need || state.unmet.is_none())
    }

    /// Each need, and whether it is met.
    pub fn each(&self) -> impl Iterator<Item = (Need, bool)> {
        self.states.iter().map(|state| (state.need, state.unmet.is_none()))
    }
}

fn piece(need: Need, from_us: i64, to_us: i64, detail: String) -> Option<Gap> {
    let (cause, stage, lost_flows) = need.loss()?;
    let gap = Gap::new(cause, stage, from_us.min(to_us), to_us);
    Some(Gap { lost_flows, detail: Some(detail), ..gap })
}

/// A time span for people.
pub fn lasting(us: i64) -> String {
    match us / 1_000 {
        ms @ ..1_000 => format!("{ms} ms"),
        ms @ ..120_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        ms => format!("{} min", ms / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    fn needs() -> Needs {
        Needs::of_namespace("blue", 0)
    }

    #[test]
    fn what_is_mended_at_once_is_one_gap() {
        let mut needs = needs();
        assert_eq!(needs.observe(Need::Events, Some(true), 11 * S - S / 20), None);
        let lost = Change::Lost { need: Need::Events };
        assert_eq!(needs.observe(Need::Events, Some(false), 11 * S), Some(lost));
        assert!(!needs.is_met(Need::Events));
        assert_eq!(needs.declare(11 * S + S / 2, false), []);
        needs.mended(Need::Events, true);
        let met = Change::Met { need: Need::Events, after_us: S / 2 + S / 20 };
        assert_eq!(needs.observe(Need::Events, Some(true), 11 * S + S / 2), Some(met));
        let gap = needs.close(Need::Events, 11 * S + S / 2).unwrap();
        assert_eq!((gap.cause, gap.stage, gap.lost_flows), (Cause::EventsOff, Stage::Kernel, None));
        assert_eq!(
            (gap.from_us, gap.to_us),
            (11 * S - S / 20, 11 * S + S / 2),
            "since it was met the last time"
        );
        let detail = "network namespace `blue`: nf_conntrack_events is 0, resolved by flowlog after 550 ms";
        assert_eq!(gap.detail.as_deref(), Some(detail));
        assert!(needs.is_met(Need::Events));
        assert_eq!(needs.declare(90 * S, true), []);
    }

    #[test]
    fn pieces_follow_each_other_without_holes() {
        let mut needs = needs();
        needs.observe(Need::TracksIpv4, Some(true), 5 * S);
        needs.observe(Need::TracksIpv4, Some(false), 6 * S);
        let mut pieces = Vec::new();
        for at_s in 6..200 {
            assert_eq!(needs.observe(Need::TracksIpv4, Some(false), at_s * S), None);
            pieces.extend(needs.declare(at_s * S, false));
        }
        needs.observe(Need::TracksIpv4, Some(true), 200 * S);
        pieces.extend(needs.close(Need::TracksIpv4, 200 * S));
        let times: Vec<_> = pieces.iter().map(|gap| (gap.from_us / S, gap.to_us / S)).collect();
        assert_eq!(times, [(5, 6), (6, 66), (66, 126), (126, 186), (186, 200)]);
        assert!(pieces.iter().all(|gap| gap.lost_flows.is_none() && gap.cause == Cause::NotTracked));
    }

    #[test]
    fn the_end_of_the_run_declares_what_goes_on() {
        let mut needs = needs();
        needs.observe(Need::Accounting, Some(false), 3 * S);
        let gaps = needs.declare(3 * S, true);
        assert_eq!(gaps.len(), 1);
        assert_eq!((gaps[0].from_us, gaps[0].to_us, gaps[0].lost_flows), (0, 3 * S, Some(0)));
    }

    #[test]
    fn what_cannot_be_found_out_changes_nothing() {
        let mut needs = needs();
        assert_eq!(needs.observe(Need::TracksIpv6, None, S), None);
        needs.observe(Need::TracksIpv6, Some(false), 2 * S);
        assert_eq!(needs.observe(Need::TracksIpv6, None, 3 * S), None);
        assert!(!needs.is_met(Need::TracksIpv6));
    }

    #[test]
    fn a_blink_is_declared_once() {
        let mut needs = needs();
        needs.observe(Need::TracksIpv4, Some(true), 7 * S);
        let gap = needs.blinked(Need::TracksIpv4, 8 * S, "the rules were reloaded in two steps").unwrap();
        assert_eq!((gap.from_us, gap.to_us, gap.lost_flows), (7 * S, 8 * S, None));
        needs.observe(Need::TracksIpv4, Some(false), 9 * S);
        assert_eq!(needs.blinked(Need::TracksIpv4, 10 * S, "again"), None, "it is declared as not met");
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_time_that_ends_before_it_begins() {
        let mut needs = needs();
        needs.observe(Need::Events, Some(true), 100 * S);
        needs.observe(Need::Events, Some(false), 50 * S);
        needs.observe(Need::Events, Some(true), 40 * S);
        let gap = needs.close(Need::Events, 40 * S).unwrap();
        assert!(gap.from_us <= gap.to_us, "{gap:?}");
    }

    #[test]
    fn room_alone_is_no_loss() {
        let mut needs = needs();
        assert!(needs.observe(Need::Room, Some(false), S).is_some());
        assert_eq!(needs.declare(100 * S, true), []);
        assert_eq!(needs.close(Need::Room, 101 * S), None);
        assert!(needs.is_met(Need::Room));
    }

    #[test]
    fn time_spans_are_for_people() {
        assert_eq!([90_000, 1_540_000, 600_000_000].map(lasting), ["90 ms", "1.5 s", "10 min"]);
    }
}
