//! When it is tried again what the disk refused.

use std::time::SystemTime;

use tracing::error;

/// How many seconds pass at first between two attempts.
const FIRST_SECONDS: u64 = 5;

/// How many they become. Each attempt takes twice as long to come, since it may write all that was written by the
/// one before.
const MAX_SECONDS: u64 = 60;

/// The attempts.
pub(super) struct Retry {
    /// When it was refused or tried last.
    tried: SystemTime,
    /// How long after that it is tried again.
    pause_seconds: u64,
    /// What was said of it.
    said: Option<String>,
}

impl Retry {
    pub(super) fn new(now: SystemTime) -> Self {
        Self { tried: now, pause_seconds: FIRST_SECONDS, said: None }
    }

    /// Whether it is time.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        // A clock that was set back makes it due, too.
        now.duration_since(self.tried).map_or(true, |waited| waited.as_secs() >= self.pause_seconds)
    }

    /// It was refused or is tried now.
    pub(super) fn begin(&mut self, now: SystemTime) {
        self.tried = now;
    }

    /// It is tried at once, since there is no other time.
    pub(super) fn hurry(&mut self) {
        self.tried = SystemTime::UNIX_EPOCH;
    }

    /// It was tried: in vain or not.
    pub(super) fn end(&mut self, is_refused: bool) {
        self.pause_seconds =
            if is_refused { (self.pause_seconds * 2).min(MAX_SECONDS) } else { FIRST_SECONDS };
    }

    /// Says what is wrong once, and not at each attempt.
    pub(super) fn say(&mut self, what: String) {
        if self.said.as_ref() != Some(&what) {
            error!("{what}; flowlog keeps trying");
            self.said = Some(what);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn attempts_become_rarer_until_one_succeeds() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(1000 + seconds);
        let mut retry = Retry::new(at(0));
        let mut attempts = Vec::new();
        for second in 1..=200 {
            if retry.is_due(at(second)) {
                retry.begin(at(second));
                attempts.push(second);
                retry.end(second < 100);
            }
        }
        assert_eq!(
            attempts,
            [5, 15, 35, 75, 135, 140, 145, 150, 155, 160, 165, 170, 175, 180, 185, 190, 195, 200]
        );
        assert!(retry.is_due(at(0)), "the clock was set back");
        retry.begin(at(200));
        assert!(!retry.is_due(at(201)));
        retry.hurry();
        assert!(retry.is_due(at(201)));
    }
}
