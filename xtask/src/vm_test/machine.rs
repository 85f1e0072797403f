//! A virtual machine that runs the tests, and what it tells.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::kernels::Bootable;
use super::qemu::Qemu;
use crate::background::Background;
use crate::interrupt::Interrupt;
use crate::results;

/// What the kernel is told: where its console is, to end at a panic, and to do without what makes an
/// emulated processor slower still.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=4 panic=-1 mitigations=off";

/// What `init.sh` looks for on the command line, to keep both processors busy while the tests run.
const LOAD: &str = "flowlog_load";

/// What a kernel says on its console when it gives up.
const PANIC: &str = "Kernel panic";

/// Where a kernel says what it does.
const CONSOLE: &str = "console.log";

/// What came of a test.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Failed,
    /// It is about something that is not there, and passed by saying so.
    Skipped(String),
}

/// Under what conditions a kernel runs the tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    /// The clock source, as the kernel names it; without one, the machine chooses.
    pub(super) clock: Option<String>,
    /// Both processors are kept busy meanwhile.
    pub(super) load: bool,
}

impl Conditions {
    /// A kernel under these conditions, for people and for a directory.
    pub(super) fn name(&self, release: &str) -> String {
        let Self { clock, load } = self;
        let clock = clock.iter().map(|clock| format!("-{clock}"));
        let load = load.then(|| "-load".to_owned());
        [release.to_owned()].into_iter().chain(clock).chain(load).collect()
    }

    fn command_line(&self) -> String {
        let Self { clock, load } = self;
        let clock = clock.iter().map(|clock| format!(" clocksource={clock}"));
        let load = load.then(|| format!(" {LOAD}"));
        [COMMAND_LINE.to_owned()].into_iter().chain(clock).chain(load).collect()
    }
}

/// What a kernel showed.
#[derive(Default)]
pub(super) struct Outcome {
    /// By the names of the tests that came to their end.
    pub(super) verdicts: BTreeMap<String, Verdict>,
    /// The findings of `flowlog doctor`.
    pub(super) findings: Vec<Value>,
    /// How long the machine ran.
    pub(super) seconds: u64,
    /// What the kernel of a first machine said when it panicked before any test had ended.
    pub(super) panic: Option<String>,
}

/// A virtual machine.
pub(super) struct Machine<'m> {
    pub(super) qemu: &'m Qemu,
    pub(super) kernel: &'m Bootable,
    pub(super) conditions: &'m Conditions,
    /// Its initial file system, without the modules of the kernel.
    pub(super) base: &'m Path,
    /// Where what it says is kept.
    pub(super) directory: &'m Path,
    /// How long it may run.
    pub(super) limit: Duration,
}

impl Machine<'_> {
    /// Boots it, and waits until it has run the tests. Emulated kernels panic at their start at times, whatever they are
    /// to run: such a machine is started again, once.
    ///
    /// # Errors
    ///
    /// When the emulator cannot be started or fails, and when interrupted. A machine that takes longer than the limit is
    /// ended, and what it told counts.
    pub(super) fn run(&self, interrupt: &Interrupt) -> Result<Outcome> {
        let console = self.directory.join(CONSOLE);
        let first = self.run_once(interrupt)?;
        let outcome = match first.panic {
            Some(panic) if first.verdicts.is_empty() => {
                println!("vm-test: started again, since the kernel panicked at its start: {panic}");
                fs::rename(&console, self.directory.join("console-of-panic.log"))
                    .context("cannot keep what a kernel said")?;
                Outcome { panic: Some(panic), ..self.run_once(interrupt)? }
            }
            _ => first,
        };
        if outcome.verdicts.is_empty() {
            bail!("it ran no test; its console is in `{}`", console.display());
        }
        Ok(outcome)
    }

    fn run_once(&self, interrupt: &Interrupt) -> Result<Outcome> {
        let Self { qemu, kernel, conditions, base, directory, limit } = *self;
        fs::create_dir_all(directory).context("cannot make a directory")?;
        let initrd = directory.join("initrd");
        join(&[base, &kernel.modules], &initrd).context("cannot write an initial file system")?;
        let [console, results, log] = [CONSOLE, "results.log", "qemu.log"].map(|name| directory.join(name));
        let mut qemu = qemu.command();
        // KVM would be faster, and is not to be had everywhere.
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3G"])
            .args(["-nodefaults", "-display", "none", "-no-reboot", "-append", &conditions.command_line()])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(&initrd);
        for line in [&console, &results] {
            qemu.arg("-serial").arg(format!("file:{}", line.display()));
        }
        let start = Instant::now();
        let mut machine = Background::start(qemu, &log)?;
        let mut has_ended = false;
        interrupt.wait_for("a virtual machine", limit * 2, || {
            has_ended = machine.has_succeeded()?;
            Ok(has_ended || start.elapsed() > limit)
        })?;
        drop(machine);
        fs::remove_file(initrd).context("cannot remove an initial file system")?;
        if !has_ended {
            eprintln!("vm-test: ended the machine after {} s", limit.as_secs());
        }
        let told = fs::read(&results).unwrap_or_default();
        let mut outcome = parse(&String::from_utf8_lossy(&told));
        outcome.seconds = start.elapsed().as_secs();
        outcome.panic = panic(&String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()));
        Ok(outcome)
    }
}

/// The line in which a kernel says that it panics.
fn panic(console: &str) -> Option<String> {
    let line = console.lines().find(|line| line.contains(PANIC))?;
    Some(line.trim().to_owned())
}

fn join(parts: &[&Path], whole: &Path) -> io::Result<()> {
    let mut whole = File::create(whole)?;
    for part in parts {
        io::copy(&mut File::open(part)?, &mut whole)?;
    }
    Ok(())
}

/// Parses what `init.sh` writes: parts that begin with `== `.
fn parse(told: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut part, mut doctor, mut speaker) = ("", String::new(), "");
    for line in told.lines().map(|line| line.trim_end_matches('\r')) {
        if let Some(title) = line.strip_prefix("== ") {
            part = title;
        } else if part == "doctor" {
            doctor += line;
        } else if let Some(name) = results::speaker(line) {
            speaker = name;
        } else if let Some(why) = results::why_skipped(line) {
            // What it lacks is no excuse for a test that failed.
            if let Some(verdict @ Verdict::Passed) = outcome.verdicts.get_mut(speaker) {
                *verdict = Verdict::Skipped(why.to_owned());
            }
        } else if let Some((test, verdict)) =
            line.strip_prefix("test ").and_then(|line| line.rsplit_once(" ... "))
        {
            let verdict = match verdict {
                "ok" => Verdict::Passed,
                "FAILED" => Verdict::Failed,
                _ => continue,
            };
            outcome.verdicts.insert(test.to_owned(), verdict);
        }
    }
    // Logs may come before the report.
    let report = doctor.find('{').and_then(|start| doctor.get(start..)).unwrap_or_default();
    let report: Value = serde_json::from_str(report).unwrap_or_default();
    outcome.findings = report.get("findings").and_then(Value::as_array).cloned().unwrap_or_default();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_tells_is_parsed() {
        let told = "== kernel 6.1.0\r\n== doctor\r\nWARN log\r\n{\r\n\"findings\": [{\"check\": \"BTF\"}]\r\n}\r\n\
                    == tests\r\nrunning 4 tests\r\ntest nat::a ... ok\r\ntest nat::b ... FAILED\r\n\
                    test soak::c ... ignored, takes long\r\ntest nat::d has been running for over 60 seconds\r\n\
                    test older::e ... ok\r\n\r\nsuccesses:\r\n\r\n---- older::e stdout ----\r\n\
                    this kernel lacks SO_NETNS_COOKIE\r\n";
        let outcome = parse(told);
        let verdicts: Vec<_> = outcome.verdicts.iter().map(|(test, verdict)| (&**test, verdict)).collect();
        let lacks = Verdict::Skipped("this kernel lacks SO_NETNS_COOKIE".to_owned());
        assert_eq!(
            verdicts,
            [("nat::a", &Verdict::Passed), ("nat::b", &Verdict::Failed), ("older::e", &lacks)]
        );
        assert_eq!(outcome.findings, [serde_json::json!({"check": "BTF"})]);
    }

    #[test]
    fn conditions_are_on_the_command_line_and_in_the_name() {
        let usual = Conditions::default();
        assert_eq!((usual.name("6.1"), usual.command_line()), ("6.1".to_owned(), COMMAND_LINE.to_owned()));
        let slow = Conditions { clock: Some("acpi_pm".to_owned()), load: true };
        assert_eq!(slow.name("6.1"), "6.1-acpi_pm-load");
        assert_eq!(slow.command_line(), format!("{COMMAND_LINE} clocksource=acpi_pm flowlog_load"));
    }

    #[test]
    fn a_panic_is_seen() {
        let console = "[    0.1] Linux\r\n[    2.0] Kernel panic - not syncing: IO-APIC + timer\r\n";
        assert_eq!(panic(console).as_deref(), Some("[    2.0] Kernel panic - not syncing: IO-APIC + timer"));
        assert_eq!(panic("[    0.1] Linux\r\n"), None);
    }
}
