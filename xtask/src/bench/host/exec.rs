//! Programs that end at once, one after the other, as shell scripts and builds run them.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Done, Setting, Traffic};
use crate::bench::loopback;

const DEFAULT_SECONDS: u32 = 5;

/// How many are run between two looks at the clock.
const AT_ONCE: u32 = 50;

struct Programs<'a>(Setting<'a>);

pub(super) fn start<'a>(setting: &Setting<'a>) -> Result<Box<dyn Traffic + 'a>> {
    Ok(Box::new(Programs(setting.clone())))
}

impl Traffic for Programs<'_> {
    fn run(&mut self) -> Result<Done> {
        let wanted = Duration::from_secs(self.0.seconds.unwrap_or(DEFAULT_SECONDS).into());
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < wanted && !self.0.interrupt.is_set() {
            loopback::processes(AT_ONCE)?;
            count += AT_ONCE;
        }
        Ok(Done { count: count.into(), rate: f64::from(count) / start.elapsed().as_secs_f64() })
    }

    fn end(self: Box<Self>) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}
