//! Settings come from the file, then the environment, then flags.

use std::fs;

use crate::harness::daemon::{Daemon, binary, run_command};
use crate::harness::dataset::Dataset;
use crate::harness::entries::make_and_flush;
use crate::harness::namespace::Namespace;
use crate::harness::process::Process;

#[test]
fn each_source_is_used() {
    let namespace = Namespace::tracked();
    let directory = tempfile::tempdir().unwrap();
    let [file, output, other] = ["flowlog.toml", "output", "other"].map(|name| directory.path().join(name));
    let text = format!(
        "output = {other:?}\nnetns = [{:?}]\n[rotate]\nrows = 3\n[attribution]\nring_buffer = '64KiB'\n",
        namespace.name()
    );
    fs::write(&file, text).unwrap();
    let mut command = std::process::Command::new(binary());
    command.env_remove("FLOWLOG_LOG").args(["run", "--config"]).arg(&file);
    command.env("FLOWLOG__OUTPUT", &output).env("FLOWLOG__ROTATE__ROWS", "4");
    command.args(["--rotate-rows", "5"]);
    let daemon = Daemon::spawn(command);
    make_and_flush(&namespace, 0..10);
    let log = daemon.stop();
    assert!(log.contains("processes from eBPF"), "{log}");
    let files = Dataset::read(&output).files.iter().map(|file| file.rows.len()).collect::<Vec<_>>();
    assert_eq!(files, [5, 5], "{log}");
    assert!(!other.exists());
}

#[test]
fn settings_that_make_each_other_void_are_refused_or_said() {
    let namespace = Namespace::tracked();
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("log");
    let run = |settings: &[(&str, &str)]| {
        let mut command = run_command(&output, &[&namespace]);
        command.envs(settings.iter().copied());
        command
    };
    for (settings, expected) in [
        (
            &[
                ("FLOWLOG__FILTER__ONLY__PROTOCOL", "['tcp']"),
                ("FLOWLOG__FILTER__EXCEPT__PROTOCOL", "['tcp']"),
            ][..],
            "nothing would be recorded: `filter.except.protocol`",
        ),
        (&[("FLOWLOG__RETENTION__MIN_FREE", "900TiB")], "nothing would be kept: `retention.min_free`"),
    ] {
        let finished = Process::spawn(run(settings)).finish();
        assert_eq!(finished.status.code(), Some(2), "{finished}");
        assert!(finished.stderr.contains(expected), "{finished}");
    }
    let mut command = run(&[("FLOWLOG__ROTATE__INTERVAL", "2h")]);
    command.env_remove("FLOWLOG_LOG");
    let log = Daemon::spawn(command).stop();
    assert!(log.contains("`rotate.interval` is 2h, but flowlog finishes each file"), "{log}");
}
