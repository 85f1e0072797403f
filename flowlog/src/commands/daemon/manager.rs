//! What a service manager is told: that flowlog is ready, that it goes on if it asks for that, and that it stops. And the
//! descriptors that it keeps from one start to the next.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use flowlog_common::descriptors;
use sd_notify::NotifyState;
use tracing::{info, warn};

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

/// The descriptors that a service manager keeps, by their names: `sd_pid_notify_with_fds(3)`.
#[derive(Debug, Default)]
pub struct Kept {
    descriptors: BTreeMap<String, OwnedFd>,
    /// There is a manager.
    is_kept: bool,
    /// It has kept something, or says that it does (`$FDSTORE`, since systemd 254).
    is_proved: bool,
    has_said: bool,
}

impl Kept {
    /// Those that it has kept since an earlier start. To be called once, before anything else is opened.
    pub fn of_environment() -> Self {
        let found = match sd_notify::listen_fds_with_names(false) {
            Ok(found) => found.unzip(),
            Err(error) => {
                warn!("the service manager hands over descriptors that flowlog cannot use: {error}");
                (Vec::new(), Vec::new())
            }
        };
        let (numbers, names): (Vec<_>, Vec<String>) = found;
        let named = names.into_iter().zip(descriptors::inherited(numbers));
        let descriptors: BTreeMap<_, _> =
            named.filter_map(|(name, descriptor)| Some((name, descriptor?))).collect();
        let is_kept = std::env::var_os("NOTIFY_SOCKET").is_some();
        let has_store = std::env::var("FDSTORE").is_ok_and(|max| max.parse().is_ok_and(|max: u32| max > 0));
        let is_proved = is_kept && (has_store || !descriptors.is_empty());
        Self { descriptors, is_kept, is_proved, has_said: false }
    }

    /// Whether the manager is known to keep descriptors.
    pub(super) fn is_proved(&self) -> bool {
        self.is_proved
    }

    /// Takes the one with this name. The manager keeps it all the same.
    pub(super) fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.descriptors.remove(name)
    }

    /// Lets the manager keep a descriptor. In place of what it kept with this name.
    pub(super) fn keep(&mut self, name: &str, descriptor: impl AsFd) {
        if !self.is_kept {
            return;
        }
        self.forget(name);
        // It would drop a socket with an overrun, which is one that epoll says has an error.
        let state = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
        let told = sd_notify::notify_with_fds(false, &state, &[descriptor.as_fd()]);
        if let Err(error) = told
            && !self.has_said
        {
            self.has_said = true;
            warn!(
                "a restart will be a gap: cannot let the service manager keep the socket of flowlog `{name}`: {error}"
            );
        }
    }

    /// The names of those that were not taken.
    pub(super) fn rest(&self) -> impl Iterator<Item = &str> {
        self.descriptors.keys().map(String::as_str)
    }

    /// What is left is of no use: the manager does not keep it any more.
    pub(super) fn forget_rest(&mut self) {
        for name in std::mem::take(&mut self.descriptors).into_keys() {
            info!("the service manager kept `{name}`, which is not needed any more");
            self.forget(&name);
        }
    }

    /// The manager does not keep the one with this name any more.
    pub(super) fn forget(&self, name: &str) {
        if self.is_kept {
            // A manager that knows none does nothing.
            let _ = sd_notify::notify(false, &[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
        }
    }
}

fn tell(state: NotifyState<'_>, follows: &str, what: &str) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        warn!("the service manager may {follows}: cannot report to it that flowlog {what}: {error}");
    }
}
