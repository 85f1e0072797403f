//! What a process uses, as the kernel counts it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Of one process, all its threads together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// User and system time, in steps of 10 ms.
    pub(super) cpu: Duration,
    /// Memory now.
    pub(super) rss_mib: f64,
    /// Of the memory now, what is no file and not shared: the rest is the program and the ring buffer.
    pub(super) anonymous_mib: f64,
    /// The most memory so far.
    pub(super) peak_mib: f64,
    /// How often a thread waited for something, and was woken.
    pub(super) waits: u64,
}

impl Usage {
    /// Of a process that runs.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("cannot read `{path}`"))
        };
        let mut waits = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // Threads may end meanwhile.
            let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
            waits += field(&status, "voluntary_ctxt_switches").unwrap_or(0);
        }
        let status = read("status")?;
        let mib = |name| {
            let kib =
                field(&status, name).with_context(|| format!("found no `{name}` in /proc/{pid}/status"))?;
            anyhow::Ok(f64::from(u32::try_from(kib)?) / 1024.0)
        };
        Ok(Self {
            cpu: cpu(&read("stat")?)?,
            rss_mib: mib("VmRSS")?,
            anonymous_mib: mib("RssAnon")?,
            peak_mib: mib("VmHWM")?,
            waits,
        })
    }
}

/// The time of the processors that children used who have ended and were waited for.
///
/// # Errors
///
/// Never on Linux.
pub(super) fn cpu_of_ended_children() -> Result<Duration> {
    cpu_of(UsageWho::RUSAGE_CHILDREN)
}

/// The time of the processors that this process used, and its children who have ended and were waited for.
///
/// # Errors
///
/// Never on Linux.
pub(super) fn cpu_of_own() -> Result<Duration> {
    Ok(cpu_of(UsageWho::RUSAGE_SELF)? + cpu_of(UsageWho::RUSAGE_CHILDREN)?)
}

fn cpu_of(who: UsageWho) -> Result<Duration> {
    let usage = getrusage(who)?;
    let duration = |time: TimeVal| {
        anyhow::Ok(Duration::new(u64::try_from(time.tv_sec())?, u32::try_from(time.tv_usec() * 1000)?))
    };
    Ok(duration(usage.user_time())? + duration(usage.system_time())?)
}

/// The time of the processors that a process has used, all its threads together, in nanoseconds.
///
/// # Errors
///
/// When it has ended.
pub(super) fn cpu_of_process(pid: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.try_into()?))
        .with_context(|| format!("cannot read the time of process {pid}"))?;
    Ok(clock_gettime(clock)?.into())
}

/// The time of the processors that each thread of a process has used, by its name.
///
/// # Errors
///
/// When the process has ended.
pub(super) fn cpu_of_threads(pid: u32) -> Result<BTreeMap<String, Duration>> {
    let mut threads: BTreeMap<String, Duration> = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let read = |file: &str| fs::read_to_string(task.join(file));
        // Threads may end meanwhile. Its time is the first of its numbers.
        let (Ok(name), Ok(times)) = (read("comm"), read("schedstat")) else { continue };
        let ns = times.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        *threads.entry(name.trim().to_owned()).or_default() += Duration::from_nanos(ns);
    }
    Ok(threads)
}

/// The time that all processors of the machine were busy so far, interrupts included.
///
/// # Errors
///
/// When the kernel does not tell.
pub(super) fn cpu_of_machine() -> Result<Duration> {
    busy(&fs::read_to_string("/proc/stat")?)
}

/// What is not idle in the first line of `/proc/stat`, and not taken by other machines.
fn busy(stat: &str) -> Result<Duration> {
    let numbers: Option<Vec<u32>> = stat
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))
        .and_then(|line| line.split_whitespace().map(|number| number.parse().ok()).collect());
    let Some([user, nice, system, _idle, _iowait, irq, softirq, ..]) = numbers.as_deref() else {
        bail!("found `{stat}`, expected what proc(5) says of /proc/stat");
    };
    let per_s = sysconf(SysconfVar::CLK_TCK)?.context("the kernel has no clock ticks")?;
    Ok(Duration::from_secs(1) * (user + nice + system + irq + softirq) / u32::try_from(per_s)?)
}

/// A number in `/proc/PID/status`.
fn field(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// The sum of utime and stime, the fields 14 and 15 of `/proc/PID/stat`.
fn cpu(stat: &str) -> Result<Duration> {
    // The name of the program, in brackets, may hold anything.
    let fields = stat.rsplit_once(')').map_or(stat, |(_, fields)| fields);
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    let ticks = match (times.next(), times.next()) {
        (Some(Ok(user)), Some(Ok(system))) => user + system,
        _ => bail!("found `{stat}`, expected what proc(5) says of /proc/PID/stat"),
    };
    let per_s = sysconf(SysconfVar::CLK_TCK)?.context("the kernel has no clock ticks")?;
    Ok(Duration::from_secs(1) * ticks / u32::try_from(per_s)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_fields_are_found() {
        let stat = "77 (a) b) S 1 77 77 0 -1 4194560 210 0 0 0 150 50 0 0 20 0 1 0 100 2949120 300";
        assert_eq!(cpu(stat).unwrap(), Duration::from_secs(2));
        assert!(cpu("77 (a) S 1").is_err());
        let status =
            "Name:\ta\nVmHWM:\t    2048 kB\nvoluntary_ctxt_switches:\t9\nnonvoluntary_ctxt_switches:\t5\n";
        assert_eq!(field(status, "VmHWM"), Some(2048));
        assert_eq!(field(status, "voluntary_ctxt_switches"), Some(9));
        assert_eq!(field(status, "VmRSS"), None);
    }

    #[test]
    fn a_machine_is_busy_with_all_but_idling_and_waiting() {
        let stat = "cpu  100 10 50 99999 88888 4 36 7777 0 0\ncpu0 100 10 50 99999 88888 4 36 7777 0 0\n";
        assert_eq!(busy(stat).unwrap(), Duration::from_secs(2));
        assert!(busy("cpu  100 10\n").is_err());
    }

    #[test]
    fn a_running_process_uses_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_mib > 0.0 && usage.peak_mib >= usage.rss_mib);
        assert!(cpu_of_process(std::process::id()).unwrap() > Duration::ZERO);
        assert!(!cpu_of_threads(std::process::id()).unwrap().is_empty());
        assert!(cpu_of_machine().unwrap() > Duration::ZERO);
    }
}
