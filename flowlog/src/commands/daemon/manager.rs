//! What a service manager is told: that flowlog is ready, that it goes on if it asks for that, and that it stops.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::warn;

/// The service manager that started flowlog, if there is one.
pub(super) struct ServiceManager {
    /// How often it is told that flowlog goes on.
    interval: Option<Duration>,
    told: Instant,
}

impl ServiceManager {
    /// As the environment names it: `NOTIFY_SOCKET` and `WATCHDOG_USEC` (`sd_notify(3)`, `sd_watchdog_enabled(3)`).
    pub(super) fn of_environment() -> Self {
        let mut usec = 0;
        let is_watched = sd_notify::watchdog_enabled(false, &mut usec);
        // In half of the time after which it takes flowlog to be stuck, as it advises.
        Self { interval: is_watched.then(|| Duration::from_micros(usec / 2)), told: Instant::now() }
    }

    /// Flows are logged from now on.
    pub(super) fn is_ready(&self) {
        tell(NotifyState::Ready, "stop flowlog", "is ready");
    }

    /// From now on it waits for the end, as long as a stop may take, also where it has not asked for that.
    pub(super) fn is_stopping(&self) {
        tell(NotifyState::Stopping, "restart flowlog too early", "stops");
    }

    /// flowlog goes on. Tells that if it is time.
    pub(super) fn goes_on(&mut self) {
        let Some(interval) = self.interval else { return };
        let now = Instant::now();
        if now.duration_since(self.told) < interval {
            return;
        }
        self.told = now;
        tell(NotifyState::Watchdog, "restart flowlog", "goes on");
    }
}

fn tell(state: NotifyState<'_>, follows: &str, what: &str) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        warn!("the service manager may {follows}: cannot report to it that flowlog {what}: {error}");
    }
}
