//! What a watched namespace has of what flowlog needs: looked at on each tick, said, declared, and mended where that
//! is asked for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flowlog_reader::gaps::{Gap, Pending};
use tracing::{error, info, warn};

use super::clock::now_us;
use super::said::{Doubling, Said, Topic};
use crate::causes::one_line;
use crate::commands::doctor::{Fixed, add_rules};
use crate::connections::ctnetlink::{self, Buffers, Requests};
use crate::host::kernel_losses::{Counted, KernelLosses, Sums};
use crate::host::namespace::Namespace;
use crate::host::needs::{Change, Need, Needs, Severity, lasting};
use crate::host::watch::NamespaceWatch;

/// How long after a try to add rules the next one is made: whoever takes them away ten times a second must not keep
/// flowlog busy.
const MEND_EVERY: Duration = Duration::from_secs(1);

/// Above this part of its limit the table is nearly full.
const NEARLY_FULL_PERCENT: u64 = 90;

/// Below this part it has room again.
const ROOM_AGAIN_PERCENT: u64 = 80;

/// What rules are needed for.
const TRACKING: [Need; 2] = [Need::TracksIpv4, Need::TracksIpv6];

/// Why tracking may not have worked between two looks.
const RELOADED: &str = "the rules that make the kernel track were removed and added again, and connections in between \
                        may not have been tracked";

/// What the kernel had counted at a time.
#[derive(Clone, Copy)]
pub(super) struct Counts {
    pub(super) sums: Sums,
    /// Microseconds since 1970.
    pub(super) read_us: i64,
}

/// The needs of one network namespace.
pub(super) struct Needed {
    watch: NamespaceWatch,
    needs: Needs,
    losses: KernelLosses,
    /// When they were read for the last time.
    losses_read_us: i64,
    /// How many entries were said to be removed to make room.
    said_evicted: Doubling,
    /// What is missing is set right.
    keep: bool,
    /// When it was last tried to add rules.
    mended: Option<Instant>,
    said: Said,
    /// Why something could not be mended, as it was said.
    said_why: HashMap<Need, String>,
    has_said_unknown: bool,
}

impl Needed {
    /// Of the namespace of the calling thread.
    /// What the kernel counted since an `earlier` process read this counts as lost.
    pub(super) fn open(name: &str, keep: bool, earlier: Option<Counts>) -> Result<Self, ctnetlink::Error> {
        let now_us = now_us();
        let losses = earlier.map(|earlier| KernelLosses::from_earlier(earlier.sums));
        Ok(Self {
            watch: NamespaceWatch::open()?,
            needs: Needs::of_namespace(name, now_us),
            losses: losses.unwrap_or_default(),
            losses_read_us: earlier.map_or(now_us, |earlier| earlier.read_us),
            said_evicted: Doubling::default(),
            keep,
            mended: None,
            said: Said::default(),
            said_why: HashMap::new(),
            has_said_unknown: false,
        })
    }

    /// Looks at sysctls and rules. Says whether entries may be in the table that end without an event: events were
    /// off until now.
    pub(super) fn look(
        &mut self,
        namespace: &Namespace,
        requests: &mut Requests,
        buffers: &mut Buffers,
        gaps: &mut Pending,
    ) -> bool {
        let mut has_silent = false;
        let at_us = now_us();
        let sysctls: Vec<_> = self.watch.sysctls().collect();
        for (need, is_on) in sysctls {
            self.observe(need, Some(is_on), at_us, namespace, gaps);
            if !is_on && self.keep {
                let turned_on = self.watch.turn_on(need);
                let done =
                    turned_on.with_context(|| format!("{}, and flowlog cannot set it to 1", need.found()));
                if self.has_mended(&[need], done, namespace) {
                    self.observe(need, Some(true), now_us(), namespace, gaps);
                }
            }
            has_silent |= need == Need::Events && !is_on;
        }
        let at_us = now_us();
        let tracking = self.watch.tracking(requests, buffers, Instant::now());
        if tracking.iter().all(|tracking| tracking.is_blind) && !self.has_said_unknown {
            self.has_said_unknown = true;
            warn!(
                "cannot check whether the kernel tracks connections in the network namespace `{}`, so flowlog will not \
                 notice if it stops; run with CAP_NET_RAW, and set the interface `lo` up",
                namespace.label()
            );
        }
        for (tracking, is_ipv6) in tracking.into_iter().zip([false, true]) {
            let need = Need::tracks(is_ipv6);
            if tracking.blinked
                && let Some(gap) = self.needs.blinked(need, at_us, RELOADED)
            {
                gaps.add(gap);
                self.say_blink(namespace);
            }
            self.observe(need, tracking.now, at_us, namespace, gaps);
        }
        self.mend_tracking(namespace, requests);
        has_silent
    }

    /// Notes how full the table is.
    pub(super) fn look_at_room(&mut self, entries: u32, max: u32, namespace: &Namespace, gaps: &mut Pending) {
        let percent = if self.needs.is_met(Need::Room) { NEARLY_FULL_PERCENT } else { ROOM_AGAIN_PERCENT };
        // A limit of 0 is none.
        let has_room = max == 0 || u64::from(entries) * 100 < u64::from(max) * percent;
        self.observe(Need::Room, Some(has_room), now_us(), namespace, gaps);
    }

    /// Takes in what was found of a need.
    fn observe(
        &mut self,
        need: Need,
        is_met: Option<bool>,
        at_us: i64,
        namespace: &Namespace,
        gaps: &mut Pending,
    ) {
        let change = self.needs.observe(need, is_met, at_us);
        if let Some(Change::Met { need, .. }) = change {
            self.needs.close(need, at_us).into_iter().for_each(|gap| gaps.add(gap));
            self.said_why.remove(&need);
        }
        match self.said.change(need, change, Instant::now()) {
            Some(Change::Lost { need }) => self.say_lost(need, namespace),
            Some(Change::Met { need, after_us }) => info!(
                "resolved after {} in the network namespace `{}`: {}",
                lasting(after_us),
                namespace.label(),
                need.found()
            ),
            None => {}
        }
    }

    fn say_lost(&self, need: Need, namespace: &Namespace) {
        let name = namespace.label();
        let advice = match (need, self.keep) {
            (Need::Room, _) => "raise the sysctl net.netfilter.nf_conntrack_max".to_owned(),
            (_, true) => "flowlog is restoring it".to_owned(),
            (_, false) => {
                let netns = namespace.name().map(|name| format!(" --netns {name}")).unwrap_or_default();
                format!("run `flowlog doctor --fix{netns}`, or set `host.keep = true`")
            }
        };
        let (found, consequence) = (need.found(), need.consequence());
        match need.severity() {
            Severity::Error => error!("{found} in the network namespace `{name}`: {consequence}; {advice}"),
            Severity::Warning => warn!("{found} in the network namespace `{name}`: {consequence}; {advice}"),
        }
    }

    /// Says that connections may be missing, not each time where rules are reloaded all the time.
    fn say_blink(&mut self, namespace: &Namespace) {
        if !self.said.is_time(Topic::Blink, Instant::now()) {
            return;
        }
        error!(
            "connections in the network namespace `{}` may be missing: {RELOADED}; reload rules in one transaction, as \
             `nft -f` does with a file that begins with `flush ruleset`",
            namespace.label()
        );
    }

    /// Adds rules where none track. The next look sees whether they do.
    fn mend_tracking(&mut self, namespace: &Namespace, requests: &mut Requests) {
        let tracks = self.needs.is_met(Need::TracksIpv4) && self.needs.is_met(Need::TracksIpv6);
        let is_early = self.mended.is_some_and(|mended| mended.elapsed() < MEND_EVERY);
        if tracks || !self.keep || is_early {
            return;
        }
        self.mended = Some(Instant::now());
        let result = add_rules(requests).map(|Fixed { done, undo }| {
            let name = namespace.label();
            if self.said.is_time(Topic::Added, Instant::now()) {
                info!("in the network namespace `{name}`: {done}; to undo: {undo}");
            }
        });
        self.has_mended(&TRACKING, result, namespace);
    }

    /// Notes that needs that are not met are mended by flowlog, or says why not, once for each reason.
    fn has_mended(&mut self, needs: &[Need], result: Result<()>, namespace: &Namespace) -> bool {
        let unmet = needs.iter().copied().filter(|need| !self.needs.is_met(*need));
        let unmet: Vec<Need> = unmet.collect();
        match result {
            Ok(()) => {
                unmet.into_iter().for_each(|need| self.needs.mended(need, true));
                true
            }
            Err(error) => {
                let text = format!("{error:#}");
                let now = Instant::now();
                let mut is_new = false;
                for need in unmet {
                    self.needs.mended(need, false);
                    if self.said_why.get(&need) != Some(&text) && self.said.is_time(Topic::Why(need), now) {
                        self.said_why.insert(need, text.clone());
                        is_new = true;
                    }
                }
                if is_new {
                    error!(
                        "flows of the network namespace `{}` stay incomplete or missing: {text}",
                        namespace.label()
                    );
                }
                false
            }
        }
    }

    /// Reads what the kernel counted as lost, and declares it.
    pub(super) fn read_losses(
        &mut self,
        requests: &mut Requests,
        table_max: u32,
        namespace: &Namespace,
        gaps: &mut Pending,
    ) {
        let at_us = now_us();
        let mut processors = Vec::new();
        if let Err(error) = requests.cpu_statistics(|cpu, statistics| processors.push((cpu, statistics))) {
            warn!(
                "cannot read how many packets the kernel dropped in the network namespace `{}`: {}; flowlog declares \
                 them when it can read that again",
                namespace.label(),
                one_line(&error)
            );
            return;
        }
        let counted = self.losses.read(processors);
        let lost: Vec<Gap> = counted.gaps(namespace.label(), table_max, self.losses_read_us, at_us).collect();
        for gap in lost {
            error!(
                "up to {} connections are lost ({}): {}; `flowlog doctor` shows whether the table is too small",
                gap.lost_flows.unwrap_or_default(),
                gap.cause.name(),
                gap.detail.as_deref().unwrap_or_default(),
            );
            gaps.add(gap);
        }
        let evicted = self.losses.total().early_drop;
        if self.said_evicted.is_due(evicted) {
            warn!(
                "the kernel removed {evicted} connections of the network namespace `{}` from its full table before they \
                 ended: their rows are incomplete; raise the sysctl net.netfilter.nf_conntrack_max",
                namespace.label()
            );
        }
        self.losses_read_us = at_us;
    }

    /// Declares what goes on not to be met; all of it where the run ends.
    pub(super) fn declare(&mut self, gaps: &mut Pending, is_last: bool) {
        self.needs.declare(now_us(), is_last).into_iter().for_each(|gap| gaps.add(gap));
    }

    /// Whether it is met, as far as is known.
    pub(super) fn is_met(&self, need: Need) -> bool {
        self.needs.is_met(need)
    }

    /// Each need, and whether it is met.
    pub(super) fn each(&self) -> impl Iterator<Item = (Need, bool)> {
        self.needs.each()
    }

    /// What the kernel had counted when that was read last, for a later process.
    pub(super) fn counts(&self) -> Counts {
        Counts { sums: self.losses.sums(), read_us: self.losses_read_us }
    }

    /// What the kernel counted since the start.
    pub(super) fn counted(&self) -> Counted {
        self.losses.total()
    }
}
