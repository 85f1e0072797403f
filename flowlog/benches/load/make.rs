//! Makes entries through ctnetlink, which no packet has to carry, and removes them.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use flowlog::connections::ctnetlink::Requests;
use flowlog::flow::{Flow, L4};
use serde_json::{Value, json};

use crate::fingerprint::Fingerprint;
use crate::mix::Mix;

/// Longer than any measurement, so that entries do not expire by themselves.
const TIMEOUT_S: u32 = 3600;

/// Arguments of `load make`.
#[derive(clap::Args)]
pub(crate) struct Make {
    /// How many entries
    #[arg(long)]
    count: usize,
    /// How many there are before all of them are removed
    #[arg(long)]
    at_once: usize,
    /// How many in a second; without it, as fast as it goes
    #[arg(long)]
    per_second: Option<u32>,
}

impl Make {
    /// Entries that are removed are different ones; then they come again.
    pub(crate) fn run(&self) -> Result<Value> {
        let mut mix = Mix::new()?;
        let flows: Vec<Flow> = (0..self.at_once.min(self.count)).map(|_| entry(mix.flow())).collect();
        drop(mix);
        let mut fingerprint = Fingerprint::default();
        let mut requests = Requests::open()?;
        let begin = Instant::now();
        let mut first_removed_ns = None;
        let mut left = self.count;
        while left > 0 {
            let flows = flows.get(..left.min(flows.len())).unwrap_or(&flows);
            requests.create(flows).context("cannot make the entries")?;
            first_removed_ns.get_or_insert(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos());
            requests.flush().context("cannot remove the entries")?;
            flows.iter().for_each(|flow| add(&mut fingerprint, flow));
            left -= flows.len();
            if let Some(per_second) = self.per_second {
                let due = Duration::from_secs_f64(figure(fingerprint.count) / f64::from(per_second));
                thread::sleep(due.saturating_sub(begin.elapsed()));
            }
        }
        Ok(json!({
            "made": fingerprint.count,
            "fingerprint": fingerprint.hex(),
            "first_removed_ns": first_removed_ns.unwrap_or_default().to_string(),
            "seconds": begin.elapsed().as_secs_f64(),
        }))
    }
}

/// What the kernel makes of a flow: the times and counters are its own.
fn entry(flow: Flow) -> Flow {
    Flow { timeout_s: Some(TIMEOUT_S), ..flow }
}

fn add(fingerprint: &mut Fingerprint, flow: &Flow) {
    let numbers = match flow.orig.l4 {
        L4::Ports { src, dst } => [src, dst],
        L4::Icmp { id, .. } => [id, 0],
        L4::None => [0, 0],
    };
    fingerprint.add(flow.orig.proto.0, [flow.orig.src, flow.orig.dst], numbers);
}

/// A count as a figure: exact far beyond what can be made here.
fn figure(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}
