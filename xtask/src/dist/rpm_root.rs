//! Installs, upgrades and removes the rpm with its scripts, in a root that has little more than a shell: what systemd would
//! be asked to do is noted.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{sh, workspace};

/// Stands for programs that the scripts call.
const NOTES: &str = "#!/bin/sh\necho \"${0##*/} $*\" >> /notes\n";

/// What is asked for at each step, in this order.
const INSTALL: &str =
    "systemd-sysusers flowlog.conf\nsystemctl daemon-reload\nsystemctl --no-reload preset flowlog.service\n";
const UPGRADE: &str = "systemd-sysusers flowlog.conf\nsystemctl daemon-reload\nsystemctl daemon-reload\n\
                       systemctl try-restart flowlog.service\n";
const REMOVE: &str = "systemctl --no-reload disable --now flowlog.service\nsystemctl daemon-reload\n\
                      nft delete table inet flowlog\n";

/// What each system has.
const DIRECTORIES: [&str; 16] = [
    "bin",
    "dev",
    "etc",
    "run/systemd/system",
    "tmp",
    "usr/bin",
    "usr/lib/systemd/system",
    "usr/lib/sysusers.d",
    "usr/share/bash-completion/completions",
    "usr/share/doc",
    "usr/share/fish/vendor_completions.d",
    "usr/share/licenses",
    "usr/share/man/man1",
    "usr/share/zsh/site-functions",
    "var/lib/rpm",
    "var/tmp",
];

/// Checks what the scripts do, and that nothing is left.
///
/// # Errors
///
/// When rpm fails, a script asks for something else, or a file is left.
pub(super) fn check(rpm: &Path) -> Result<()> {
    let root = workspace::target_dir().join("tmp/rpm-root");
    workspace::make_empty(&root)?;
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory)).with_context(|| format!("cannot make `{directory}`"))?;
    }
    sh::output(Command::new("mknod").arg(root.join("dev/null")).args(["c", "1", "3"]))?;
    copy_program(&root, "/bin/sh")?;
    copy_program(&root, "/bin/rmdir")?;
    for program in ["systemctl", "systemd-sysusers", "nft"] {
        let file = root.join("usr/bin").join(program);
        fs::write(&file, NOTES)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    }
    let call = |arguments: &[&str]| {
        let mut command = Command::new("rpm");
        // Its own database, not that of Debian, which is in the home directory.
        command.arg("--root").arg(&root).args(["--dbpath", "/var/lib/rpm", "--nodeps"]);
        sh::output(command.args(arguments))
    };
    let rpm = rpm.to_str().context("the path of the rpm is not UTF-8")?;
    let before = files(&root)?;
    let steps: [(&[&str], &str); 3] = [
        (&["--ignorearch", "--install", rpm], INSTALL),
        (&["--ignorearch", "--upgrade", "--replacepkgs", rpm], UPGRADE),
        (&["--erase", "flowlog"], REMOVE),
    ];
    for (arguments, expected) in steps {
        call(arguments)?;
        let notes = fs::read_to_string(root.join("notes")).unwrap_or_default();
        ensure!(notes == expected, "`rpm {}` did:\n{notes}expected:\n{expected}", arguments.join(" "));
        fs::remove_file(root.join("notes"))?;
        let is_there = root.join("usr/bin/flowlog").exists();
        ensure!(
            is_there != arguments.contains(&"--erase"),
            "after `rpm {}`: {is_there}",
            arguments.join(" ")
        );
    }
    let after = files(&root)?;
    let left: Vec<&String> = after.symmetric_difference(&before).collect();
    ensure!(left.is_empty(), "what the rpm leaves or takes: {left:?}");
    println!("the rpm is installed, upgraded and removed with its scripts");
    Ok(())
}

/// Files and directories, without rpm's database.
fn files(root: &Path) -> Result<BTreeSet<String>> {
    let mut find = Command::new("find");
    find.args([".", "-path", "./var/lib/rpm", "-prune", "-o", "-print"]).current_dir(root);
    Ok(sh::output(&mut find)?.lines().map(str::to_owned).collect())
}

/// A program of this machine, with its libraries.
fn copy_program(root: &Path, program: &str) -> Result<()> {
    fs::copy(program, root.join(program.trim_start_matches('/')))
        .with_context(|| format!("cannot copy `{program}`"))?;
    let libraries = sh::output(Command::new("ldd").arg(program))?;
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let place = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(place.parent().context("a library has no directory")?)?;
        fs::copy(library, &place).with_context(|| format!("cannot copy `{library}`"))?;
    }
    Ok(())
}
