//! Command lines, and how much memory they take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A command line. Clones share its text.
#[derive(Clone, Debug)]
pub struct CommandLine {
    text: Arc<str>,
    /// Its part of what is kept, where it is: only held, to be dropped with the last clone.
    _part: Option<Arc<Part>>,
}

impl CommandLine {
    /// Arguments separated by spaces, with secrets masked as configured.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }
}

impl<T: Into<Arc<str>>> From<T> for CommandLine {
    fn from(text: T) -> Self {
        Self { text: text.into(), _part: None }
    }
}

impl PartialEq for CommandLine {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for CommandLine {}

/// The bytes of a command line that is kept, until its last clone is dropped.
#[derive(Debug)]
struct Part {
    bytes: usize,
    all_bytes: Arc<AtomicUsize>,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.all_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Decides which command lines are kept.
#[derive(Debug)]
pub(crate) struct Kept {
    /// How many bytes the command lines of all processes may have that still run or had a socket. Without a limit a host on
    /// which many processes with long command lines connect would need 4 KiB for each of them.
    max_bytes: usize,
    all_bytes: Arc<AtomicUsize>,
    /// How many were not.
    pub(crate) refused: u64,
}

impl Kept {
    /// Keeps nothing yet, and at most so much.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, all_bytes: Arc::default(), refused: 0 }
    }

    /// What those that are kept take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.all_bytes.load(Ordering::Relaxed)
    }

    /// The command line; `None` where there is no room for it.
    pub(crate) fn keep(&mut self, line: CommandLine) -> Option<CommandLine> {
        let CommandLine { text, .. } = line;
        let bytes = text.len();
        // Others only make room meanwhile: all that is added is added here.
        if self.bytes() + bytes > self.max_bytes {
            self.refused += 1;
            return None;
        }
        self.all_bytes.fetch_add(bytes, Ordering::Relaxed);
        let part = Part { bytes, all_bytes: Arc::clone(&self.all_bytes) };
        Some(CommandLine { text, _part: Some(Arc::new(part)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_kept_up_to_a_limit_until_the_last_clone_is_dropped() {
        let line = || CommandLine::from("x".repeat(256));
        let mut kept = Kept::new(1024);
        let mut lines: Vec<_> = (0..5).filter_map(|_| kept.keep(line())).collect();
        assert_eq!((lines.len(), kept.refused), (4, 1));
        let clone = lines.pop();
        let other = clone.clone();
        drop(clone);
        assert_eq!(kept.keep(line()), None, "a socket still has it");
        drop(other);
        assert_eq!(kept.keep(line()), Some(line()));
        drop(lines);
        assert_eq!(kept.bytes(), 0);
    }
}
