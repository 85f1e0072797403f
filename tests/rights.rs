//! What flowlog may do, and what it gives up: as a user of its own, with the capabilities of the unit.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use caps::Capability;
use flowlog::host::confinement::landlock;
use flowlog::host::rights::RIGHTS;
use nix::errno::Errno;
use tempfile::TempDir;

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, no_starts, run_command};
use crate::harness::dataset::Dataset;
use crate::harness::host::{NOBODY, as_nobody, mount_tracefs, unmount_all, with_own_mounts};
use crate::harness::kernel::{OLDER_SOCKETS, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::process::run;
use crate::harness::program::{Program, Told};
use crate::harness::wait::wait_for;

/// What the log says once it has given up what it can.
const GAVE_UP: &str = "gave up what it needs no more";

/// All that the unit gives, but for these.
pub(crate) fn all_but(without: &[Capability]) -> Vec<Capability> {
    RIGHTS.iter().map(|right| right.capability).filter(|one| !without.contains(one)).collect()
}

/// A directory of the user of the tests.
fn of_nobody() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    directory
}

/// The unit, the documentation and the program name the same capabilities.
#[test]
fn the_unit_the_documentation_and_the_program_name_the_same() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let [unit, documentation] = ["packaging/flowlog.service", "flowlog/docs/service.md"].map(read);
    let mut names: Vec<_> = RIGHTS.iter().map(|right| right.capability.to_string()).collect();
    names.sort();
    for setting in ["AmbientCapabilities=", "CapabilityBoundingSet="] {
        let set = unit.lines().find_map(|line| line.strip_prefix(setting)).unwrap();
        let mut set: Vec<_> = set.split(' ').collect();
        set.sort_unstable();
        assert_eq!(set, names, "{setting}");
    }
    let rows = documentation.lines().filter(|line| line.starts_with("| `CAP_"));
    let mut documented: Vec<_> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    documented.sort_unstable();
    assert_eq!(documented, names);
}

/// What a daemon without some of the capabilities knows.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    /// The processes of a connection that is made while it runs.
    new: bool,
    /// The process of a connection that was there before.
    older: bool,
}

const ALL: Known = Known { new: true, older: true };
const WITHOUT_OLDER: Known = Known { new: true, older: false };
const NO_PROCESSES: Known = Known { new: false, older: false };

/// Runs flowlog without these, on a host that has mounted tracefs or has not; gives what it knows, and its log.
#[track_caller]
fn run_without(without: &[Capability], has_tracefs: bool) -> (Known, String) {
    let namespace = Namespace::tracked();
    namespace.sysctl("net/netfilter/nf_conntrack_events", "1");
    let [output, programs] = [of_nobody(), tempfile::tempdir().unwrap()];
    let [older, server, client] =
        ["fl-older", "fl-server", "fl-client"].map(|name| Program::new(programs.path(), name));
    let mut talking = older.start(&namespace, "talk-to-itself 127.0.0.1:6000 127.0.0.1:6001");
    talking.wait_for("waiting");

    let command = as_nobody(&run_command(output.path(), &[]), &all_but(without));
    let daemon = with_own_mounts(|| {
        if has_tracefs {
            mount_tracefs();
        } else {
            unmount_all("tracefs");
        }
        namespace.inside(|| Daemon::spawn(command))
    });
    talking.go_on();
    let older_pid = talking.finish().pid;
    let running = server.serve(&namespace, 0, "127.0.0.1:5000".parse().unwrap());
    let closing = no_starts();
    let (client_pid, _) = client.connect(&namespace, 0, "127.0.0.1:5000".parse().unwrap());
    conntrack::flush_closed(&namespace);
    conntrack::flush(&namespace);
    drop(closing);
    let log = daemon.stop();
    let dataset = Dataset::read(output.path());
    let pid = |port, end: &str| dataset.row_to(port).int(&format!("{end}_pid"));
    let is = |found: Option<i64>, pid: i32| found == Some(i64::from(pid));
    let new = is(pid(5000, "src"), client_pid) && is(pid(5000, "dst"), running.pid());
    let older = is(pid(6000, "src"), older_pid) && is(pid(6000, "dst"), older_pid);
    (Known { new, older }, log)
}

/// The table of the documentation, row by row: what is taken away, what is missing then, what the log says.
#[test]
fn without_a_capability_what_the_table_says_is_missing_and_nothing_else() {
    if lacks(OLDER_SOCKETS) {
        return;
    }
    use Capability::{CAP_BPF, CAP_DAC_READ_SEARCH, CAP_NET_RAW, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_PTRACE};
    for (without, has_tracefs, expected, said) in [
        (&[][..], true, ALL, &[][..]),
        (&[], false, ALL, &[]),
        (&[CAP_BPF], true, ALL, &[]),
        (&[CAP_PERFMON], true, ALL, &[]),
        (&[CAP_SYS_ADMIN], true, ALL, &[]),
        (&[CAP_SYS_ADMIN], false, NO_PROCESSES, &["without processes", "mount tracefs", "CAP_SYS_ADMIN"]),
        (&[CAP_BPF, CAP_SYS_ADMIN], true, NO_PROCESSES, &["without processes", "CAP_BPF"]),
        (&[CAP_PERFMON, CAP_SYS_ADMIN], true, NO_PROCESSES, &["without processes", "CAP_PERFMON"]),
        (&[CAP_DAC_READ_SEARCH], true, NO_PROCESSES, &["without processes", "CAP_DAC_READ_SEARCH"]),
        (&[CAP_SYS_PTRACE], true, WITHOUT_OLDER, &["CAP_SYS_PTRACE", "older than flowlog"]),
        (&[CAP_NET_RAW], true, ALL, &[]),
    ] {
        let (known, log) = run_without(without, has_tracefs);
        assert_eq!(known, expected, "without {without:?}:\n{log}");
        let warnings: Vec<_> = log.lines().filter(|line| line.contains(" WARN ")).collect();
        assert_eq!(warnings.len(), usize::from(!said.is_empty()), "without {without:?}:\n{log}");
        for (warning, word) in warnings.iter().flat_map(|line| said.iter().map(move |word| (line, word))) {
            assert!(warning.contains(word), "without {without:?}: does not say `{word}`: {warning}");
        }
    }
}

#[test]
fn without_cap_net_admin_it_does_not_start() {
    let namespace = Namespace::tracked();
    let output = of_nobody();
    let command = as_nobody(&run_command(output.path(), &[]), &all_but(&[Capability::CAP_NET_ADMIN]));
    let finished = namespace.inside(|| run(command));
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert!(finished.stderr.contains("found no CAP_NET_ADMIN"), "{finished}");
}

#[test]
fn without_cap_sys_admin_other_namespaces_are_not_watched() {
    let namespace = Namespace::tracked();
    let output = of_nobody();
    let command = run_command(output.path(), &[&namespace]);
    let finished = run(as_nobody(&command, &all_but(&[Capability::CAP_SYS_ADMIN])));
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert!(finished.stderr.contains("CAP_SYS_ADMIN"), "{finished}");
}

/// A line of `/proc/PID/task/TID/status` that is a number, of the thread with this name.
#[track_caller]
pub(crate) fn of_thread(pid: i32, thread: &str, key: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let is_it =
        |status: &String| status.lines().next().is_some_and(|name| name == format!("Name:\t{thread}"));
    let status =
        tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default());
    let status = status.into_iter().find(is_it).unwrap_or_else(|| panic!("no thread `{thread}`"));
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t")).unwrap();
    u64::from_str_radix(value, 16).unwrap()
}

/// The bits of capabilities.
fn bits(capabilities: &[Capability]) -> u64 {
    capabilities.iter().map(Capability::bitmask).sum()
}

/// Threads have what they need, and no more. `has_others`: other network namespaces are watched.
#[track_caller]
pub(crate) fn assert_given_up(pid: i32, has_others: bool) {
    let effective = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_BPF];
    let mut permitted = effective.to_vec();
    permitted.extend([Capability::CAP_DAC_READ_SEARCH, Capability::CAP_SYS_PTRACE]);
    if has_others {
        permitted.push(Capability::CAP_SYS_ADMIN);
    }
    for (key, receiving) in
        [("CapEff", &effective[..]), ("CapPrm", &permitted), ("CapInh", &[]), ("CapAmb", &[])]
    {
        assert_eq!(of_thread(pid, "flowlog", key), bits(receiving), "{key}");
        assert_eq!(of_thread(pid, "writer", key), 0, "{key}");
    }
    for thread in ["flowlog", "writer"] {
        assert_eq!(of_thread(pid, thread, "Seccomp"), 2, "{thread}");
        assert_eq!(of_thread(pid, thread, "NoNewPrivs"), 1, "{thread}");
    }
}

#[test]
fn all_threads_give_up_what_they_do_not_need() {
    let namespace = Namespace::tracked();
    for has_others in [false, true] {
        let output = of_nobody();
        let observed: &[&Namespace] = if has_others { &[&namespace] } else { &[] };
        let command = as_nobody(&run_command(output.path(), observed), &all_but(&[]));
        let daemon =
            if has_others { Daemon::spawn(command) } else { namespace.inside(|| Daemon::spawn(command)) };
        wait_for("it to give up rights", || daemon.log().contains(GAVE_UP).then_some(()));
        assert_given_up(daemon.pid(), has_others);
        let log = daemon.stop();
        let said: Vec<_> = log.lines().filter(|line| line.contains(GAVE_UP)).collect();
        assert_eq!(said.len(), 1, "{log}");
        let is_named = said[0].contains("CAP_SYS_ADMIN");
        assert_eq!(is_named, !has_others, "{log}");
        assert!(said[0].contains("CAP_PERFMON") && said[0].contains("programs"), "{log}");
    }
}

/// Tries everything as a side of flowlog; gives what it told.
#[track_caller]
fn try_as(side: &str) -> Told {
    // Nothing leads out of it.
    let namespace = Namespace::bare();
    let [below, programs] = [of_nobody(), of_nobody()];
    let elsewhere = tempfile::tempdir().unwrap();
    fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let linked = of_nobody();
    symlink(linked.path(), below.path().join("link")).unwrap();
    let program = Program::new(programs.path(), "fl-confined");
    let [below, elsewhere] = [&below, &elsewhere].map(|directory| directory.path().display());
    let command = program.command(0, &format!("confined {side} {below} {elsewhere}"));
    Program::start_command(&namespace, as_nobody(&command, &all_but(&[]))).finish()
}

/// Each of these succeeds with the capabilities of the start, and must fail like this after it.
#[track_caller]
fn assert_refused(told: &Told, refused: &[(&str, Errno)]) {
    for (what, errno) in refused {
        let [before, after] = ["before", "after"].map(|when| told.number(&format!("{when}-{what}")));
        let expected = match *what {
            // There is no way to the internet here, and the kernel may say so.
            "connect" => i64::from(Errno::ENETUNREACH as i32),
            _ => 0,
        };
        assert_eq!(before, expected, "{what}, before");
        assert_eq!(after, i64::from(*errno as i32), "{what}, after");
    }
}

#[test]
fn the_receiving_side_is_refused_files_programs_and_connections() {
    let told = try_as("receiving");
    assert_refused(
        &told,
        &[
            ("shadow", Errno::EACCES),
            ("exe", Errno::EACCES),
            ("execute", Errno::EPERM),
            ("connect", Errno::EPERM),
            ("datagram", Errno::EPERM),
            ("elsewhere", Errno::EPERM),
            ("sysctl", Errno::EPERM),
            ("below", Errno::EPERM),
            ("linked", Errno::EPERM),
            ("directory", Errno::EPERM),
            ("move", Errno::EPERM),
            ("unshare", Errno::EPERM),
        ],
    );
    for needed in ["after-passwd", "raised-exe", "raised-fd"] {
        assert_eq!(told.number(needed), 0, "{needed}");
    }
}

#[test]
fn the_writing_side_is_refused_all_but_its_directory() {
    if landlock().is_none() {
        println!("this kernel lacks Landlock");
        return;
    }
    let told = try_as("writing");
    assert_refused(
        &told,
        &[
            ("shadow", Errno::EACCES),
            ("passwd", Errno::EACCES),
            ("exe", Errno::EACCES),
            ("execute", Errno::EPERM),
            ("connect", Errno::EPERM),
            ("datagram", Errno::EPERM),
            ("elsewhere", Errno::EACCES),
            ("sysctl", Errno::EACCES),
            ("unshare", Errno::EPERM),
        ],
    );
    for needed in ["after-below", "after-linked", "after-directory", "after-move"] {
        assert_eq!(told.number(needed), 0, "{needed}");
    }
    for refused in ["raised-exe", "raised-fd"] {
        assert_ne!(told.number(refused), 0, "{refused}");
    }
}

/// Flows are recorded, and a line says what flowlog could do.
#[test]
fn a_kernel_without_landlock_costs_a_line() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = crate::harness::seccomp::without_landlock(|| {
        Daemon::spawn(run_command(output.path(), &[&namespace]))
    });
    wait_for("it to give up rights", || daemon.log().contains(GAVE_UP).then_some(()));
    let log = daemon.stop();
    let said: Vec<_> = log.lines().filter(|line| line.contains("this kernel has no Landlock")).collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(said[0].contains(" INFO "), "{log}");
}

/// `doctor` names what the process may do, and what follows where it may not.
#[test]
fn doctor_names_what_is_missing_and_what_follows() {
    let namespace = Namespace::tracked();
    let output = of_nobody();
    let report = |without: &[Capability]| {
        let mut command = Command::new(crate::harness::daemon::binary());
        command.args(["doctor", "--json", "--output"]).arg(output.path());
        namespace.inside(|| run(as_nobody(&command, &all_but(without)))).stdout
    };
    let well = report(&[]);
    assert!(well.contains("has all that flowlog needs"), "{well}");
    assert!(well.contains("seccomp") && well.contains("Landlock"), "{well}");
    for right in &RIGHTS {
        let mut without = vec![right.capability];
        if [Capability::CAP_BPF, Capability::CAP_PERFMON].contains(&right.capability) {
            without.push(Capability::CAP_SYS_ADMIN);
        }
        let report = report(&without);
        assert!(report.contains(&right.capability.to_string()), "{}: {report}", right.capability);
        let follows = right.without.split(',').next().unwrap();
        assert!(report.contains(follows), "{}: {follows}: {report}", right.capability);
    }
}
