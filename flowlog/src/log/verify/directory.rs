//! What is wrong with the output directory besides its published files.

use std::fs;
use std::io;
use std::path::Path;

use flowlog_reader::layout;

use super::report::{Check, Finding, Findings, Level};

/// What is left of a run that did not stop, and what becomes of it.
const LEFTOVERS: [(&str, &str); 2] = [
    (layout::STAGING, "unfinished files, which the next run removes"),
    (
        layout::WAL,
        "files of the write-ahead log, whose rows the next run publishes as far as it can read them",
    ),
];

/// Says what an unfinished run left.
pub(super) fn leftovers(output: &Path, findings: &mut Findings) {
    for (directory, what) in LEFTOVERS {
        let Ok(entries) = fs::read_dir(output.join(directory)) else { continue };
        let sizes =
            entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len());
        let (files, bytes) = sizes.fold((0_u64, 0_u64), |(files, bytes), size| (files + 1, bytes + size));
        if files > 0 {
            let found = format!("{what}: {files} files, {bytes} bytes");
            findings.add(Finding::new(Level::Information, Check::Leftover, found).path(directory));
        }
    }
}

/// A file that cannot be read.
pub(super) fn unreadable(error: &io::Error) -> Finding {
    Finding::fault(Check::File, format!("cannot be read: {error}")).expected("a file that was published")
}
