//! Hosts that lack something, or refuse it: the rest works, and log and doctor say what is missing.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;

use caps::Capability;
use serde_json::Value;

use crate::containers::Branch;
use crate::harness::daemon::{Daemon, binary, run_command};
use crate::harness::dataset::{Dataset, Row};
use crate::harness::host::{
    NOBODY, as_nobody, cover, mounted_for_ebpf, unmount_all, with_capabilities, with_own_mounts,
};
use crate::harness::namespace::Namespace;
use crate::harness::process::run;
use crate::harness::program::Program;
use crate::harness::seccomp::without_bpf;
use crate::processes::Pair;

const AT: &str = "127.0.0.1:5000";

/// What flowlog needs, see `flowlog doctor`.
const NEEDED: [Capability; 6] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
];

/// Whether flowlog, started as `spawn` does, names the processes of a connection, and what it logs.
#[track_caller]
fn assert_names_processes(spawn: impl FnOnce(&Namespace, &Path) -> Daemon) -> String {
    assert_names(Pair::assert_named, spawn)
}

#[track_caller]
fn assert_names(named: fn(&Pair, &Row), spawn: impl FnOnce(&Namespace, &Path) -> Daemon) -> String {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = spawn(&namespace, output.path());
    let pair = Pair::connect(&namespace, AT.parse().unwrap());
    let log = daemon.stop();
    let dataset = Dataset::read(output.path());
    assert_eq!(dataset.rows().len(), 1, "{log}");
    named(&pair, dataset.row_to(5000));
    log
}

/// Likewise, where it cannot: the flow is there, and one line of the log says why the processes are not.
#[track_caller]
fn assert_says_why_without_processes(spawn: impl FnOnce(&Namespace, &Path) -> Daemon, words: &[&str]) {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = spawn(&namespace, output.path());
    Pair::connect(&namespace, AT.parse().unwrap());
    let log = daemon.stop();
    let dataset = Dataset::read(output.path());
    assert_eq!(dataset.row_to(5000).of_process("src"), [""; 0]);
    let said: Vec<&str> = log.lines().filter(|line| line.contains("without processes")).collect();
    assert_eq!(said.len(), 1, "{log}");
    for word in words {
        assert!(said[0].contains(word), "does not say `{word}`: {}", said[0]);
    }
}

fn start(namespace: &Namespace, output: &Path) -> Daemon {
    Daemon::spawn(run_command(output, &[namespace]))
}

/// What `flowlog doctor` says of the host in this check: level, finding and advice.
#[track_caller]
fn doctor(check: &str) -> [String; 3] {
    let output = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.args(["doctor", "--json", "--output"]).arg(output.path());
    let report = run(command);
    let json: Value = serde_json::from_str(&report.stdout).unwrap_or_else(|err| panic!("{err}: {report}"));
    let findings = json["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["check"] == check);
    let finding = finding.unwrap_or_else(|| panic!("no check `{check}`: {report}"));
    ["level", "found", "advice"].map(|key| finding[key].as_str().unwrap_or_default().to_owned())
}

#[test]
fn processes_are_named_where_nothing_of_tracing_and_ebpf_is_mounted() {
    assert_names_processes(|namespace, output| {
        with_own_mounts(|| {
            for fs_type in ["tracefs", "debugfs", "bpf"] {
                unmount_all(fs_type);
            }
            let before = mounted_for_ebpf("thread-self");
            let daemon = start(namespace, output);
            let after = mounted_for_ebpf(&daemon.pid().to_string());
            assert_eq!(after, before, "it mounts nothing that others see");
            daemon
        })
    });
}

/// As a service that has a user of its own.
#[test]
fn processes_are_named_by_another_user_than_root_with_the_capabilities_that_it_needs() {
    let needed: Vec<_> = NEEDED.into_iter().chain([Capability::CAP_DAC_READ_SEARCH]).collect();
    assert_names_processes(|namespace, output| {
        chown(output, Some(NOBODY), Some(NOBODY)).unwrap();
        let daemon = Daemon::spawn(as_nobody(&run_command(output, &[namespace]), &needed));
        assert_eq!(fs::metadata(format!("/proc/{}", daemon.pid())).unwrap().uid(), NOBODY);
        daemon
    });
}

/// What else may be missing is in the log, not only in the rows.
#[test]
fn what_another_user_lacks_to_read_is_named() {
    let kept: Vec<_> = NEEDED.into_iter().filter(|one| *one != Capability::CAP_SYS_PTRACE).collect();
    let programs = tempfile::tempdir().unwrap();
    chown(programs.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let flowlog = Program::linked(programs.path(), "flowlog", binary());
    let start = |namespace: &Namespace, output: &Path, kept: &[Capability]| {
        chown(output, Some(NOBODY), Some(NOBODY)).unwrap();
        let mut command = Command::new(flowlog.exe());
        command.args(run_command(output, &[namespace]).get_args());
        Daemon::spawn(as_nobody(&command, kept))
    };
    assert_says_why_without_processes(
        |namespace, output| start(namespace, output, &kept),
        &["tracefs", "CAP_DAC_READ_SEARCH"],
    );
    let kept: Vec<_> = kept.into_iter().chain([Capability::CAP_DAC_READ_SEARCH]).collect();
    let log = assert_names_processes(|namespace, output| start(namespace, output, &kept));
    assert_eq!(log.matches("found no CAP_SYS_PTRACE").count(), 1, "{log}");
}

#[test]
fn settings_are_read_from_etc_where_no_other_file_is_given() {
    let output = tempfile::tempdir().unwrap();
    let other = output.path().join("other.toml");
    fs::write(&other, "outpu = 'x'").unwrap();
    with_own_mounts(|| {
        cover("/etc");
        fs::create_dir("/etc/flowlog").unwrap();
        fs::write("/etc/flowlog/flowlog.toml", "rotat = 'x'").unwrap();
        let mut command = run_command(output.path(), &[]);
        let finished = run(command);
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert!(finished.stderr.contains("/etc/flowlog/flowlog.toml"), "{finished}");
        command = run_command(output.path(), &[]);
        command.arg("--config").arg(&other);
        let finished = run(command);
        assert!(finished.stderr.contains("other.toml"), "{finished}");
    });
}

/// As on hosts that have the hierarchies of version 1 only.
#[test]
fn processes_are_named_where_no_cgroup_v2_is_mounted() {
    assert_names_processes(|namespace, output| {
        with_own_mounts(|| {
            unmount_all("cgroup2");
            let [level, found, _] = doctor("cgroup v2");
            assert_eq!((&*level, found.contains("not mounted")), ("ok", true), "{found}");
            start(namespace, output)
        })
    });
}

#[test]
fn programs_are_named_without_the_types_of_the_kernel_and_command_lines_are_not() {
    let log = assert_names(Pair::assert_named_as_given, |namespace, output| {
        with_own_mounts(|| {
            cover("/sys/kernel/btf");
            let [level, found, advice] = doctor("BTF");
            assert_eq!(level, "warning");
            assert!(found.contains("no command line") && advice.contains("BTF"), "{found}: {advice}");
            start(namespace, output)
        })
    });
    let said = log.lines().filter(|line| line.contains("command lines")).count();
    assert_eq!(said, 1, "{log}");
}

#[test]
fn a_container_with_the_needed_capabilities_names_processes() {
    assert_names_processes(|namespace, output| {
        with_own_mounts(|| with_capabilities(&NEEDED, || start(namespace, output)))
    });
}

/// Here bpf(2) is refused, and the host says that it would do so.
#[test]
fn a_kernel_that_is_locked_down_is_named() {
    assert_says_why_without_processes(
        |namespace, output| {
            with_own_mounts(|| {
                cover("/sys/kernel/security");
                fs::write("/sys/kernel/security/lockdown", "none integrity [confidentiality]\n").unwrap();
                without_bpf(|| {
                    let [level, _, advice] = doctor("eBPF programs");
                    assert_eq!(
                        (&*level, advice.contains("lockdown=integrity")),
                        ("warning", true),
                        "{advice}"
                    );
                    start(namespace, output)
                })
            })
        },
        &["locked down", "lockdown=integrity"],
    );
}

#[test]
fn selinux_that_enforces_is_named() {
    assert_says_why_without_processes(
        |namespace, output| {
            with_own_mounts(|| {
                unmount_all("cgroup2");
                cover("/sys/fs");
                // Cgroups belong there, too.
                for directory in ["/sys/fs/cgroup", "/sys/fs/selinux"] {
                    fs::create_dir(directory).unwrap();
                }
                fs::write("/sys/fs/selinux/enforce", "1").unwrap();
                without_bpf(|| {
                    let [level, _, advice] = doctor("eBPF programs");
                    assert_eq!((&*level, advice.contains("SELinux")), ("warning", true), "{advice}");
                    start(namespace, output)
                })
            })
        },
        &["SELinux", "ausearch"],
    );
}

#[test]
fn capabilities_that_are_missing_are_named() {
    // CAP_SYS_ADMIN contains the two for eBPF.
    assert_says_why_without_processes(
        |namespace, output| {
            namespace.inside(|| {
                with_capabilities(&[Capability::CAP_NET_ADMIN], || {
                    let [level, found, _] = doctor("capabilities");
                    assert_eq!((&*level, found.contains("CAP_BPF")), ("problem", true), "{found}");
                    Daemon::spawn(run_command(output, &[]))
                })
            })
        },
        &["CAP_BPF"],
    );
}

/// As in a container: flowlog can attach its programs only to its own branch of the cgroups.
#[test]
fn a_cgroup_namespace_of_its_own_is_named() {
    let branch = Branch::new(&[&format!("flowlog-test-{}-branch", std::process::id())]);
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let flowlog = run_command(output.path(), &[&namespace]);
    let mut command = Command::new("bash");
    let script = "echo $$ > \"$0/cgroup.procs\"; exec unshare --cgroup --mount -- bash -c \
                  'umount -l \"${0%/*}\"; exec \"$@\"' \"$@\"";
    command.args(["-c", script]).arg(branch.path()).arg(branch.path());
    command.arg(flowlog.get_program()).args(flowlog.get_args()).env_remove("FLOWLOG_LOG");
    let daemon = Daemon::spawn(command);
    Pair::connect(&namespace, AT.parse().unwrap());
    let log = daemon.stop();
    let said = log.lines().filter(|line| line.contains("cgroup namespace")).count();
    assert_eq!(said, 1, "{log}");
    let dataset = Dataset::read(output.path());
    assert_eq!(dataset.row_to(5000).of_process("src"), [""; 0], "it is outside");
}
