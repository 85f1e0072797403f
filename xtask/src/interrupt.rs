//! Signals that end a command, and waiting that they cut short.
//!
//! A signal sets a flag only. The code that sees it returns an error, so that everything that was
//! started is cleaned up on the way out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How often a condition is looked at: an unnoticeable delay that costs next to nothing.
const POLL: Duration = Duration::from_millis(50);

/// Whether a signal asked to end.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on SIGINT, SIGTERM and SIGHUP no longer end the process by themselves.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the handlers.
    pub(crate) fn catch() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .with_context(|| format!("cannot handle signal {signal}"))?;
        }
        Ok(Self(flag))
    }

    /// True once a signal came.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits until `condition` holds.
    ///
    /// # Errors
    ///
    /// When it fails, does not hold within `limit`, or a signal came.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let start = Instant::now();
        while !condition()? {
            if self.is_set() {
                bail!("interrupted");
            }
            if start.elapsed() > limit {
                bail!("waited {} s for {what}", limit.as_secs());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}
