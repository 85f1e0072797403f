//! Settings come from the file, then the environment, then flags.

use std::fs;

use crate::harness::daemon::{Daemon, binary};
use crate::harness::dataset::Dataset;
use crate::harness::entries::make_and_flush;
use crate::harness::namespace::Namespace;

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
