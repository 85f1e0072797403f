//! Commands that are programs of their own: `flowlog NAME` executes `flowlog-NAME`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::harness::daemon::binary;
use crate::harness::process::run;

#[test]
fn a_program_on_the_path_is_a_command() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("flowlog-hello");
    fs::write(&program, "#!/bin/sh\necho \"$# $1 $2\"\nexit 7\n").unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(binary());
    command.env("PATH", path).args(["hello", "--a flag", "-x"]);
    let finished = run(command);
    assert_eq!(
        (finished.stdout.as_str(), finished.status.code()),
        ("2 --a flag -x\n", Some(7)),
        "{finished}"
    );
}

#[test]
fn what_is_not_installed_is_named() {
    // By itself: no program is beside it.
    let dir = tempfile::tempdir().unwrap();
    let alone = dir.path().join("flowlog");
    fs::copy(binary(), &alone).unwrap();
    let flowlog = |args: &[&str]| {
        let mut command = Command::new(&alone);
        command.env("PATH", "/nowhere").args(args);
        run(command)
    };
    for (args, found) in [
        (&["lake", "files"][..], "`flowlog lake` is not installed: install the package flowlog-lake"),
        (&["verfy"], "there is no command `verfy`"),
        (&["../flowlog"], "there is no command `../flowlog`"),
    ] {
        let finished = flowlog(args);
        assert_eq!((finished.status.code(), finished.stdout.as_str()), (Some(2), ""), "{finished}");
        assert!(finished.stderr.contains(found), "{finished}");
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
    }
    let help = flowlog(&["--help"]).success();
    assert!(help.contains("(package flowlog-lake)"), "{help}");
}
