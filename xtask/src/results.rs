//! What tests came to.

use std::io::BufRead;

use anyhow::{Context as _, Result};

/// How tests that cannot show something on this machine, or on this kernel, begin to say so.
const SKIPPED: [&str; 2] = ["skipped: ", "this kernel lacks "];

/// Results of tests.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    /// Also those without a result.
    pub(crate) failed: u64,
    /// What failed tests said, each after its name: for those who only see the end of the output.
    pub(crate) failures: Vec<String>,
    /// Tests that passed by saying why they show nothing here, and what else was left out, each with the reason.
    pub(crate) skipped: Vec<String>,
}

impl Counts {
    /// Adds those of others.
    pub(crate) fn add(&mut self, Self { passed, failed, failures, skipped }: Self) {
        self.passed += passed;
        self.failed += failed;
        self.failures.extend(failures);
        self.skipped.extend(skipped);
    }

    /// Prints what was skipped and what failed, and the sums as the last line.
    pub(crate) fn print(&self) {
        let Self { passed, failed, failures, skipped } = self;
        println!();
        for what in skipped {
            println!("skipped: {what}");
        }
        for what in failures {
            println!("failed: {what}");
        }
        println!("{passed} passed, {failed} failed, {} skipped", skipped.len());
    }

    /// Reads the output of `cargo test -- --show-output`, and hands on what is for people: not what tests say that
    /// passed.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(crate) fn of_libtest(output: impl BufRead, mut show: impl FnMut(&str)) -> Result<Self> {
        let mut counts = Self::default();
        let mut speaker = String::new();
        let mut is_said_by_passed = false;
        let mut said_by_failed: Option<Vec<String>> = None;
        for line in output.lines() {
            let line = line.context("cannot read the output of the tests")?;
            if let Some(result) = line.strip_prefix("test result: ") {
                is_said_by_passed = false;
                counts.add_result(result);
            } else if line == "failures:" {
                is_said_by_passed = false;
                counts.failures.extend(said_by_failed.take().map(|said| last_words(&said)));
            } else if line == "successes:" {
                is_said_by_passed = true;
            }
            if !is_said_by_passed {
                show(&line);
                if let Some(name) = self::speaker(&line) {
                    let before = said_by_failed.replace(vec![name.to_owned()]);
                    counts.failures.extend(before.map(|said| last_words(&said)));
                } else if let Some(said) = &mut said_by_failed {
                    said.push(line);
                }
            } else if let Some(name) = self::speaker(&line) {
                name.clone_into(&mut speaker);
            } else if let Some(why) = why_skipped(&line) {
                counts.skipped.push(format!("{speaker}: {why}"));
            }
        }
        counts.passed = counts.passed.saturating_sub(u64::try_from(counts.skipped.len())?);
        Ok(counts)
    }

    /// Adds the closing line of a test binary: `ok. 3 passed; 0 failed; 0 ignored; ...`.
    fn add_result(&mut self, result: &str) {
        let count = |name| {
            let words: Vec<&str> = result.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
            let position = words.iter().position(|word| *word == name)?;
            words.get(position.checked_sub(1)?)?.parse::<u64>().ok()
        };
        self.passed += count("passed").unwrap_or(0);
        self.failed += count("failed").unwrap_or(0);
    }
}

/// The name of a test and the last of what it said.
fn last_words(said: &[String]) -> String {
    /// A panic with its message, and the log of a daemon before it.
    const LINES: usize = 30;
    let (name, said) = said.split_first().map_or(("", said), |(name, said)| (name.as_str(), said));
    let last = said.get(said.len().saturating_sub(LINES)..).unwrap_or_default();
    format!("{name}\n{}", last.join("\n"))
}

/// The test whose words follow.
pub(crate) fn speaker(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.split(' ').next()
}

/// Why a test shows nothing, where a line says so.
pub(crate) fn why_skipped(line: &str) -> Option<&str> {
    let [skipped, lacks] = SKIPPED;
    line.strip_prefix(skipped).or_else(|| line.starts_with(lacks).then_some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_summed_and_tests_that_show_nothing_are_named() {
        let output = "\
running 3 tests
test tests::test_result ... ok

successes:

---- a::plain stdout ----
said by a test that passed

---- b::go stdout ----
skipped: no Go compiler on this machine

---- c::old stdout ----
this kernel lacks flow tables


successes:
    a::plain
    b::go
    c::old

test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

running 22 tests

failures:

---- d::bad stdout ----
skipped: not to be believed

---- e::bad stdout ----
wrong

failures:
    d::bad
    e::bad

test result: FAILED. 20 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.20s
";
        let mut shown = Vec::new();
        let counts = Counts::of_libtest(output.as_bytes(), |line| shown.push(line.to_owned())).unwrap();
        assert_eq!((counts.passed, counts.failed), (21, 2));
        assert_eq!(
            counts.skipped,
            ["b::go: no Go compiler on this machine", "c::old: this kernel lacks flow tables"]
        );
        assert_eq!(counts.failures, ["d::bad\nskipped: not to be believed\n", "e::bad\nwrong\n"]);
        assert!(shown.contains(&"---- d::bad stdout ----".to_owned()));
        assert!(!shown.iter().any(|line| line.contains("a::plain") || line.contains("said by")), "{shown:?}");
    }
}
