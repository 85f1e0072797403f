//! What the kernels showed, as tables that are Markdown, too.

use std::collections::BTreeMap;

use comfy_table::{Table, presets};
use serde_json::Value;

use super::machine::{Outcome, Verdict};

/// A kernel and what it showed.
pub(super) struct Tested {
    /// Its release, and under what conditions it ran.
    pub(super) name: String,
    pub(super) outcome: Outcome,
}

impl Tested {
    /// Whether a test passed, or is about what is not there.
    fn has_passed(&self, test: &str) -> bool {
        matches!(self.outcome.verdicts.get(test), Some(Verdict::Passed | Verdict::Skipped(_)))
    }

    /// What `flowlog doctor` found in one of its checks: the level, and its words.
    fn finding(&self, check: &str) -> Option<(&str, &str)> {
        let finding = self.outcome.findings.iter().find(|finding| text(finding, "check") == check)?;
        Some((text(finding, "level"), text(finding, "found")))
    }
}

/// A row for each test, a column for each kernel.
pub(super) fn tests(kernels: &[Tested], names: &[String]) -> Table {
    let mut table = table("test", kernels);
    for name in names {
        let verdicts = kernels.iter().map(|kernel| match kernel.outcome.verdicts.get(name) {
            Some(Verdict::Passed) => "passed",
            Some(Verdict::Skipped(_)) => "skipped",
            Some(Verdict::Failed) => "FAILED",
            None => "NO RESULT",
        });
        table.add_row([name.as_str()].into_iter().chain(verdicts));
    }
    table
}

/// A row for each file of tests, a column for each kernel: how many of them passed.
pub(super) fn files(kernels: &[Tested], names: &[String]) -> Table {
    let mut by_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in names {
        let (file, _) = name.split_once("::").unwrap_or((name, ""));
        by_file.entry(file).or_default().push(name);
    }
    let mut table = table("tests", kernels);
    for (file, names) in by_file {
        let passed = kernels.iter().map(|kernel| {
            let passed = names.iter().filter(|name| kernel.has_passed(name)).count();
            let verdicts = names.iter().filter_map(|name| kernel.outcome.verdicts.get(*name));
            let skipped = match verdicts.filter(|verdict| matches!(verdict, Verdict::Skipped(_))).count() {
                0 => String::new(),
                skipped => format!(" ({skipped} skipped)"),
            };
            format!("{passed}/{}{skipped}", names.len())
        });
        table.add_row([file.to_owned()].into_iter().chain(passed));
    }
    table
}

/// A row for each check of `flowlog doctor`, a column for each kernel.
pub(super) fn features(kernels: &[Tested]) -> Table {
    let mut table = table("feature", kernels);
    let mut checks: Vec<&str> = Vec::new();
    for finding in kernels.iter().flat_map(|kernel| &kernel.outcome.findings) {
        let check = text(finding, "check");
        if !checks.contains(&check) {
            checks.push(check);
        }
    }
    for check in checks {
        let found = kernels.iter().map(|kernel| match kernel.finding(check) {
            Some(("ok", _)) => "yes",
            Some((_, found)) => found,
            None => "not known",
        });
        table.add_row([check].into_iter().chain(found));
    }
    table
}

/// A line for each machine that was started again.
pub(super) fn panics(kernels: &[Tested]) -> impl Iterator<Item = String> {
    kernels.iter().filter_map(|Tested { name, outcome }| {
        let panic = outcome.panic.as_ref()?;
        Some(format!("Linux {name} panicked: {panic}"))
    })
}

fn text<'a>(finding: &'a Value, key: &str) -> &'a str {
    finding.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn table(corner: &str, kernels: &[Tested]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([corner].into_iter().chain(kernels.iter().map(|kernel| kernel.name.as_str())));
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_passed_what_was_skipped_and_what_is_missing_is_told() {
        let outcome = Outcome {
            verdicts: [
                ("a".to_owned(), Verdict::Passed),
                ("b".to_owned(), Verdict::Skipped("this kernel lacks cookie".to_owned())),
                ("c".to_owned(), Verdict::Failed),
            ]
            .into(),
            findings: vec![
                json!({"check": "BTF", "level": "ok", "found": "there"}),
                json!({"check": "older sockets", "level": "warning", "found": "unnamed"}),
            ],
            ..Outcome::default()
        };
        let tested = [Tested { name: "5.10".to_owned(), outcome }];
        let names = ["a", "b", "c", "d"].map(str::to_owned);
        assert_eq!(names.each_ref().map(|name| tested[0].has_passed(name)), [true, true, false, false]);
        let text = tests(&tested, &names).to_string();
        for (line, verdict) in text.lines().skip(2).zip(["passed", "skipped", "FAILED", "NO RESULT"]) {
            assert!(line.contains(verdict), "{text}");
        }
        let names = ["a::1", "a::2", "b::1"].map(str::to_owned);
        let verdicts = [
            ("a::1", Verdict::Passed),
            ("a::2", Verdict::Failed),
            ("b::1", Verdict::Skipped("x".to_owned())),
        ];
        let verdicts = verdicts.map(|(name, verdict)| (name.to_owned(), verdict)).into();
        let of_files =
            [Tested { name: "6.1".to_owned(), outcome: Outcome { verdicts, ..Outcome::default() } }];
        let text = files(&of_files, &names).to_string();
        assert!(text.contains("1/2 ") && text.contains("1/1 (1 skipped)"), "{text}");
        let text = features(&tested).to_string();
        assert!(text.contains("yes") && text.contains("unnamed"), "{text}");
    }
}
