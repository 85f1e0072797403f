//! What `flowlog/fuzz` feeds with bytes: each target takes any, and panics where they break a promise.
//!
//! Only in tests and in builds of cargo-fuzz (`--cfg fuzzing`). A target is a function here and a line in
//! `fuzz/fuzz_targets`; its seeds, and the inputs that once broke it, are in `fuzz/corpus`, which the
//! tests replay.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a broken promise is a panic")]
#![allow(missing_docs, reason = "the names say it, and nobody sees them")]

mod chain;
mod messages;
mod receive;
mod segments;
mod text;

pub use chain::ledger;
pub use messages::{decode, encode, filter};
pub use receive::events;
pub use segments::{columns, recovery, wal};
pub use text::{command_line, line};

use std::path::Path;

/// What is wrong with an output directory, in words.
fn faults(output: &Path) -> Vec<String> {
    let report = crate::log::verify::verify(output, None, &mut |_| {}).unwrap();
    if report.ok {
        Vec::new()
    } else {
        report.findings.iter().map(|finding| format!("{finding:?}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::PathBuf;

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 10] = [
        ("columns", super::columns),
        ("command_line", super::command_line),
        ("decode", super::decode),
        ("encode", super::encode),
        ("events", super::events),
        ("filter", super::filter),
        ("ledger", super::ledger),
        ("line", super::line),
        ("recovery", super::recovery),
        ("wal", super::wal),
    ];

    fn names(directory: &str) -> BTreeSet<String> {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(directory);
        let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        paths.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_target_has_its_line_and_its_seeds() {
        let known = TARGETS.map(|(name, _)| name.to_owned()).into();
        assert_eq!(names("fuzz_targets"), known);
        assert_eq!(names("corpus"), known);
    }

    #[test]
    fn inputs_of_the_corpora_keep_all_promises() {
        for (name, target) in TARGETS {
            let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let mut inputs: Vec<PathBuf> =
                fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
            inputs.sort();
            assert!(!inputs.is_empty(), "{name} has no seeds");
            for input in inputs {
                println!("{}", input.display());
                target(&fs::read(input).unwrap());
            }
        }
    }
}
