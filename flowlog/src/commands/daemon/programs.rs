//! Whether the eBPF programs are still attached: looked at now and then, said, declared, and mended where that is
//! asked for.

use std::time::{Duration, Instant};

use anyhow::Result;
use flowlog_reader::gaps::Pending;
use nix::time::ClockId;
use tracing::{debug, info, warn};

use super::clock::{now_ns, now_us};
use super::local::Local;
use super::said::Said;
use crate::causes::one_line;
use crate::host::needs::{Change, Need, Needs, lasting};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The state of the programs.
pub(super) struct Programs {
    needs: Needs,
    looked: Instant,
    /// `CLOCK_MONOTONIC` when all of them were seen to be attached for the last time.
    attached_ns: u64,
    keep: bool,
    said: Said,
    /// It was said why they cannot be attached again.
    has_said: bool,
}

impl Programs {
    /// They are attached now.
    pub(super) fn new(keep: bool) -> Self {
        Self {
            needs: Needs::of_host(now_us()),
            looked: Instant::now(),
            attached_ns: now_ns(ClockId::CLOCK_MONOTONIC),
            keep,
            said: Said::default(),
            has_said: false,
        }
    }

    /// Looks whether the programs are attached, where the last look was some time ago.
    pub(super) fn look(&mut self, local: &mut Local, gaps: &mut Pending) -> Result<()> {
        if self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.look_now(local, gaps)
    }

    /// Looks whether the programs are attached.
    pub(super) fn look_now(&mut self, local: &mut Local, gaps: &mut Pending) -> Result<()> {
        self.looked = Instant::now();
        let Some(ebpf) = &local.ebpf else { return Ok(()) };
        let (at_us, at_ns) = (now_us(), now_ns(ClockId::CLOCK_MONOTONIC));
        // Where /proc does not tell, nothing is known.
        let is_attached = ebpf.is_attached().ok();
        let change = self.needs.observe(Need::Programs, is_attached, at_us);
        self.say(change);
        match is_attached {
            Some(true) => {
                self.attached_ns = at_ns;
                return Ok(());
            }
            None => return Ok(()),
            Some(false) => {}
        }
        // What happened to sockets since then was not told, or not all of it: what is known may be of others by now.
        local.drain()?;
        local.tables.sockets_are_unknown(self.attached_ns, now_ns(ClockId::CLOCK_MONOTONIC));
        if !self.keep {
            self.attached_ns = at_ns;
            return Ok(());
        }
        let Some(ebpf) = &mut local.ebpf else { return Ok(()) };
        match ebpf.attach_again() {
            Ok(()) => {
                // Before it is said: what connects from then on is known.
                local.tables.sockets_are_unknown(self.attached_ns, now_ns(ClockId::CLOCK_MONOTONIC));
                self.attached_ns = now_ns(ClockId::CLOCK_MONOTONIC);
                self.needs.mended(Need::Programs, true);
                let now_us = now_us();
                let change = self.needs.observe(Need::Programs, Some(true), now_us);
                self.needs.close(Need::Programs, now_us).into_iter().for_each(|gap| gaps.add(gap));
                self.say(change);
                self.has_said = false;
                debug!("attached programs again; sockets are looked for");
                local.want_again_soon();
            }
            Err(error) if !self.has_said => {
                self.has_said = true;
                warn!(
                    "cannot attach the eBPF programs again, so flows may have no process; restart flowlog: {}",
                    one_line(&error)
                );
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Says what has changed, or what could not be said when it had.
    fn say(&mut self, change: Option<Change>) {
        match self.said.change(Need::Programs, change, Instant::now()) {
            Some(Change::Lost { need }) => {
                let advice = if self.keep {
                    "flowlog is attaching them again"
                } else {
                    "restart flowlog, or set `host.keep = true`"
                };
                warn!("{}: {}; {advice}", need.found(), need.consequence());
            }
            Some(Change::Met { after_us, .. }) => {
                info!("attached the eBPF programs again after {}", lasting(after_us));
            }
            None => {}
        }
    }

    /// Declares that they go on not to be attached; all of it where the run ends.
    pub(super) fn declare(&mut self, gaps: &mut Pending, is_last: bool) {
        self.needs.declare(now_us(), is_last).into_iter().for_each(|gap| gaps.add(gap));
    }

    /// Each need, and whether it is met.
    pub(super) fn each(&self) -> impl Iterator<Item = (Need, bool)> {
        self.needs.each()
    }
}
