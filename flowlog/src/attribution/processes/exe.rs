//! The paths of programs, which events and /proc tell in the same words.

use std::sync::Arc;

use flowlog_common::{path, path_flags};

use crate::record::AS_GIVEN;

/// What the kernel writes behind the path of a file that has none any more.
const DELETED: &str = " (deleted)";

/// Stands for the directories above, where there are too many.
const CUT: &str = "...";

/// The path of an exec event, of which `kind` and `flags` are fields: absolute and without links, as `/proc/PID/exe`
/// has it, with ` (deleted)` where the file is not there any more. Where the kernel side could not resolve it, it is what
/// was given to `execve`, with ` (as given)`; of one longer than 4096 bytes the end, after `...`. What is no UTF-8 is
/// replaced. `None` where nothing is known.
pub fn executed(text: &[u8], kind: u32, flags: u32) -> Option<Arc<str>> {
    let text = text.strip_suffix(b"\0")?;
    match kind {
        path::RESOLVED => {
            let mut whole = Vec::with_capacity(CUT.len() + text.len() + 1 + DELETED.len());
            if flags & path_flags::CUT != 0 {
                whole.extend(CUT.bytes());
            }
            for name in text.rsplit(|byte| *byte == 0) {
                whole.push(b'/');
                whole.extend(name);
            }
            if flags & path_flags::DELETED != 0 {
                whole.extend(DELETED.bytes());
            }
            resolved(&whole)
        }
        path::NAMELESS => resolved(&[b"/", text, DELETED.as_bytes()].concat()),
        _ if text.is_empty() => None,
        _ => Some([&*String::from_utf8_lossy(text), AS_GIVEN].concat().into()),
    }
}

/// A path as the kernel tells it. `None` where it says that it cannot: the root is no program.
pub(super) fn resolved(path: &[u8]) -> Option<Arc<str>> {
    let place = path.strip_suffix(DELETED.as_bytes()).unwrap_or(path);
    let is_unknown = place.iter().all(|byte| *byte == b'/');
    (!is_unknown).then(|| String::from_utf8_lossy(path).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_proc() {
        let resolved = |text: &str, flags| executed(text.as_bytes(), path::RESOLVED, flags);
        assert_eq!(resolved("agent\0bin\0usr\0", 0).as_deref(), Some("/usr/bin/agent"));
        assert_eq!(resolved("agent\0", 0).as_deref(), Some("/agent"));
        assert_eq!(resolved("agent\0tmp\0", path_flags::DELETED).as_deref(), Some("/tmp/agent (deleted)"));
        assert_eq!(resolved("agent\0bin\0", path_flags::CUT).as_deref(), Some(".../bin/agent"));
        assert_eq!(
            executed(b"memfd:a/b\0", path::NAMELESS, 0).as_deref(),
            Some("/memfd:a/b (deleted)"),
            "a name may have any characters"
        );
        assert_eq!(executed(b"\xff\0a\0", path::RESOLVED, 0).as_deref(), Some("/a/\u{fffd}"));
    }

    #[test]
    fn what_was_given_is_marked_and_what_is_not_known_is_none() {
        assert_eq!(executed(b"./agent\0", path::AS_GIVEN, 0).as_deref(), Some("./agent (as given)"));
        assert_eq!(executed(b"\0", path::AS_GIVEN, 0), None);
        for kind in [path::AS_GIVEN, path::RESOLVED, path::NAMELESS] {
            assert_eq!(executed(b"", kind, 0), None);
        }
        // A file that was opened by its handle has no place.
        assert_eq!(executed(b"/\0", path::NAMELESS, 0), None);
        assert_eq!(super::resolved(b"/"), None);
        assert_eq!(super::resolved(b"/ (deleted)"), None);
    }
}
