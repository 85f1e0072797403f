//! What cannot work fails at once, with one line that says what was found and what to do.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, binary, flowlog, run_command};
use crate::harness::dataset::{Dataset, files_below};
use crate::harness::entries::make_and_flush;
use crate::harness::host::NOBODY;
use crate::harness::namespace::Namespace;
use crate::harness::process::{Finished, run};
use crate::harness::seccomp::without_ctnetlink;

#[test]
fn a_user_without_rights_is_told_so() {
    let namespace = Namespace::tracked();
    let directory = tempfile::tempdir().unwrap();
    // The build directory may be closed to other users.
    let flowlog = directory.path().join("flowlog");
    fs::copy(binary(), &flowlog).unwrap();
    let output = directory.path().join("output");
    fs::create_dir(&output).unwrap();
    for (path, mode) in [(directory.path(), 0o755), (&flowlog, 0o755), (&output, 0o777)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let mut command = Command::new(&flowlog);
    command.args(["run", "--output"]).arg(&output).uid(NOBODY).gid(NOBODY);
    let finished = namespace.inside(|| fail(command));
    assert_one_line(&finished, 1, &["CAP_NET_ADMIN", "sudo"]);
}

#[test]
fn an_output_that_is_a_file_is_named() {
    let namespace = Namespace::tracked();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let finished = fail(run_command(&file, &[&namespace]));
    assert_one_line(&finished, 1, &[file.to_str().unwrap()]);
}

#[test]
fn an_output_that_is_read_only_is_named() {
    let namespace = Namespace::tracked();
    // Nobody can make directories there, not even root.
    let output = Path::new("/sys/flowlog");
    let finished = fail(run_command(output, &[&namespace]));
    assert_one_line(&finished, 1, &["/sys/flowlog"]);
}

#[test]
fn a_namespace_that_is_given_twice_is_watched_once() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace, &namespace], &[]);
    let count = 10;
    make_and_flush(&namespace, 0..count);
    daemon.stop();
    let dataset = Dataset::read(output.path());
    assert_eq!(dataset.rows().len(), usize::try_from(count).unwrap());
}

#[test]
fn an_unknown_flag_is_wrong_usage() {
    let finished = flowlog(&["run", "--no-such-flag"]);
    assert_eq!(finished.status.code(), Some(2), "{finished}");
    assert!(finished.stderr.lines().next().unwrap().contains("--no-such-flag"), "{finished}");
    assert_eq!(finished.stdout, "", "{finished}");
}

#[test]
fn a_bad_value_of_a_flag_is_wrong_usage() {
    for flag in [
        "--rotate-rows=0",
        "--rotate-interval=soon",
        "--rotate-bytes=many",
        "--delivery=fast",
        "--active-interval=0s",
        "--metrics=:80",
    ] {
        let finished = flowlog(&["run", flag]);
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        let (name, value) = flag.split_once('=').unwrap();
        let message = finished.stderr.lines().next().unwrap();
        assert!(message.contains(name) && message.contains(value), "{finished}");
    }
}

#[test]
fn an_unknown_key_is_wrong_usage() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("flowlog.toml");
    fs::write(&file, "[rotate]\nrows = 5\nintervall = '1h'\n").unwrap();
    let mut command = run_command(directory.path(), &[]);
    command.arg("--config").arg(&file);
    let place = format!("{}:3:1: ", file.display());
    assert_one_line(&fail(command), 2, &[&place, "`intervall`", "`interval`"]);

    let mut command = run_command(directory.path(), &[]);
    command.env("FLOWLOG__ROTATE__INTERVALL", "1h");
    assert_one_line(&fail(command), 2, &["FLOWLOG__ROTATE__INTERVALL", "`intervall`", "`interval`"]);

    let missing = directory.path().join("missing.toml");
    let mut command = run_command(directory.path(), &[]);
    command.arg("--config").arg(&missing);
    assert_one_line(&fail(command), 2, &[missing.to_str().unwrap(), "No such file"]);
}

#[test]
fn an_unknown_namespace_is_named() {
    let output = tempfile::tempdir().unwrap();
    let mut command = run_command(output.path(), &[]);
    command.args(["--netns", "fl-no-such"]);
    assert_one_line(&fail(command), 1, &["fl-no-such", "ip netns"]);
}

#[test]
fn a_kernel_without_ctnetlink_is_told_from_other_faults() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let finished = without_ctnetlink(|| fail(run_command(output.path(), &[&namespace])));
    assert_one_line(&finished, 1, &["ctnetlink", "nf_conntrack_netlink"]);
}

#[test]
fn a_second_daemon_leaves_the_files_of_the_first_alone() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let first = Daemon::start(output.path(), &[&namespace], &[]);
    let before = files_below(output.path());
    let finished = fail(run_command(output.path(), &[&namespace]));
    assert_one_line(&finished, 1, &[output.path().to_str().unwrap()]);
    assert_eq!(files_below(output.path()), before);
    conntrack::flush(&namespace);
    first.stop();
    assert_eq!(Dataset::read(output.path()).rows().len(), 0, "the second makes no connections");
}

/// Runs a command that must not succeed, without its log, so that only the error is left.
#[track_caller]
fn fail(mut command: Command) -> Finished {
    command.env("FLOWLOG_LOG", "off");
    run(command)
}

/// Exactly one line, with all of `words`.
#[track_caller]
fn assert_one_line(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.status.code(), Some(code), "{finished}");
    assert_eq!(finished.stderr.lines().count(), 1, "one line says what is wrong: {finished}");
    for word in words {
        assert!(finished.stderr.contains(word), "the error does not say `{word}`: {finished}");
    }
    assert_eq!(finished.stdout, "", "{finished}");
}
