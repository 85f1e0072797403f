//! flowlog as a service of systemd, by the unit of `packaging`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::NamedTempFile;

use crate::harness::daemon::binary;
use crate::harness::dataset::{Dataset, Row};
use crate::harness::process::run;
use crate::harness::systemd::Systemd;
use crate::harness::tally::gaps;
use crate::harness::wait::wait_for;
use crate::rights::assert_given_up;

/// By what `systemd-analyze` says of it: from 0, nothing, to 10, everything.
const EXPOSED_AT_MOST: f64 = 3.0;

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name)
}

fn systemctl(systemd: &Systemd, args: &[&str]) -> String {
    systemd.run(&[&["systemctl"], args].concat()).success()
}

/// A service answers a client, in the network namespace of this name if it has one.
fn serve_and_ask(systemd: &Systemd, netns: &str) {
    let path = format!("NetworkNamespacePath=/run/netns/{netns}");
    let place: &[&str] = if netns.is_empty() { &[] } else { &["--property", &path] };
    let server = ["--unit=fl-server", "python3", "-m", "http.server", "5000", "--bind", "127.0.0.1"];
    systemd.run(&[&["systemd-run", "--quiet"], place, &server].concat()).success();
    let client =
        ["--wait", "curl", "--silent", "--output", "/dev/null", "--retry", "60", "--retry-connrefused"];
    let to = ["--retry-delay", "1", "http://127.0.0.1:5000/"];
    systemd.run(&[&["systemd-run", "--quiet"], place, &client, &to].concat()).success();
    let mut flush = vec!["conntrack", "--flush"];
    if !netns.is_empty() {
        flush.splice(0..0, ["ip", "netns", "exec", netns]);
    }
    systemd.run(&flush).success();
}

/// Waits until the flow is in a file, with the program that asked and the service that answered.
fn wait_for_row(systemd: &Systemd) {
    let log = systemd.path("/var/log/flowlog");
    wait_for("the row", || {
        let dataset = Dataset::read(Path::new(&log));
        let is_it = |row: &&Row| row.int("dst_port") == Some(5000) && row.text("dst_exe").is_some();
        let row = dataset.rows().into_iter().find(is_it)?;
        assert!(row.text("src_exe").is_some_and(|exe| exe.ends_with("/curl")), "{row:?}");
        let of_server = |cgroup: &str| cgroup.ends_with("/system.slice/fl-server.service");
        assert!(row.text("dst_cgroup").is_some_and(of_server), "{row:?}");
        Some(())
    });
}

/// The process of the service.
fn main_pid(systemd: &Systemd) -> u32 {
    systemctl(systemd, &["show", "--value", "--property=MainPID", "flowlog"]).trim().parse().unwrap()
}

/// Waits until another process is the service.
fn wait_for_another(systemd: &Systemd, before: u32) -> u32 {
    wait_for("the service to be started again", || {
        let is_active = systemctl(systemd, &["show", "--value", "--property=ActiveState", "flowlog"]);
        let pid = main_pid(systemd);
        (is_active.trim() == "active" && pid != 0 && pid != before).then_some(pid)
    })
}

/// Boots a systemd that has the service, with these files besides.
fn boot(others: &[(&Path, &str)]) -> Option<Systemd> {
    let (binary, unit, user) = (binary(), packaging("flowlog.service"), packaging("flowlog.sysusers"));
    let files = [
        (&*binary, "/usr/bin/flowlog"),
        (&*unit, "/usr/lib/systemd/system/flowlog.service"),
        (&*user, "/usr/lib/sysusers.d/flowlog.conf"),
    ];
    Systemd::boot(&[&files, others].concat())
}

/// A file with this text.
fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn it_is_a_service_that_is_reloaded_watched_and_started_again() {
    let watchdog = file("[Service]\nWatchdogSec=10\n");
    let Some(systemd) = boot(&[(watchdog.path(), "/etc/systemd/system/flowlog.service.d/watchdog.conf")])
    else {
        return;
    };
    systemctl(&systemd, &["start", "flowlog"]);
    let pid = main_pid(&systemd);
    // In a pid namespace of its own, as in most containers, its number is another one here.
    let host_pid = systemd.host_pid(pid);
    assert_given_up(host_pid, false);

    serve_and_ask(&systemd, "");
    systemctl(&systemd, &["reload", "flowlog"]);
    wait_for_row(&systemd);
    assert_eq!(main_pid(&systemd), pid, "a reload is no restart");

    // It is stuck.
    systemctl(&systemd, &["kill", "--signal=SIGSTOP", "--kill-whom=main", "flowlog"]);
    let mut pid = wait_for_another(&systemd, pid);
    // More often than systemd allows of other services.
    for _ in 0..6 {
        systemctl(&systemd, &["kill", "--signal=SIGKILL", "--kill-whom=main", "flowlog"]);
        pid = wait_for_another(&systemd, pid);
    }
    systemctl(&systemd, &["restart", "flowlog"]);
    wait_for_another(&systemd, pid);
    systemctl(&systemd, &["stop", "flowlog"]);
    systemd.run(&["flowlog", "verify", "/var/log/flowlog"]).success();
    // All of that was no gap: systemd kept the sockets.
    let gaps = gaps(Path::new(&systemd.path("/var/log/flowlog")));
    assert!(gaps.iter().all(|gap| gap.cause != "daemon_down"), "{gaps:?}");
    let state = systemctl(&systemd, &["show", "--value", "--property=Result", "flowlog"]);
    assert_eq!(state.trim(), "success", "{}", systemd.run(&["journalctl", "-u", "flowlog"]).stdout);
}

/// A package with a higher version and the same files.
fn newer(deb: &Path, directory: &Path) -> PathBuf {
    let tree = directory.join("tree");
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--raw-extract").args([deb, &tree]);
    run(unpack).success();
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let version = text.lines().find(|line| line.starts_with("Version: ")).unwrap();
    fs::write(&control, text.replace(version, &format!("{version}.1"))).unwrap();
    let newer = directory.join("newer.deb");
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", "--build"]).args([&tree, &newer]);
    run(pack).success();
    newer
}

#[test]
#[ignore = "needs a package of `cargo xtask dist`"]
fn the_package_is_installed_upgraded_and_purged() {
    let Some(deb) = env::var_os("FLOWLOG_DEB").map(PathBuf::from) else {
        println!("FLOWLOG_DEB is not set: there is no package");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let newer = newer(&deb, directory.path());
    let Some(systemd) = Systemd::boot(&[(&deb, "/opt/flowlog.deb"), (&newer, "/opt/newer.deb")]) else {
        return;
    };
    // Images of containers have it, so that no package starts a service.
    systemd.run(&["rm", "-f", "/usr/sbin/policy-rc.d"]).success();
    let exists = |path: &str| Path::new(&systemd.path(path)).symlink_metadata().is_ok();
    systemd.run(&["dpkg", "--install", "/opt/flowlog.deb"]).success();
    assert_eq!(systemctl(&systemd, &["is-enabled", "flowlog"]).trim(), "enabled");
    let pid = wait_for_another(&systemd, 0);
    serve_and_ask(&systemd, "");
    systemctl(&systemd, &["reload", "flowlog"]);
    wait_for_row(&systemd);

    systemctl(&systemd, &["restart", "flowlog"]);
    let pid = wait_for_another(&systemd, pid);
    systemctl(&systemd, &["kill", "--signal=SIGKILL", "--kill-whom=main", "flowlog"]);
    let pid = wait_for_another(&systemd, pid);
    let settings = "/etc/flowlog/flowlog.toml";
    systemd.run(&["sed", "-i", "s/^#rows = .*/rows = 1000/", settings]).success();
    systemd.run(&["dpkg", "--install", "/opt/newer.deb"]).success();
    wait_for_another(&systemd, pid);
    assert!(systemd.run(&["cat", settings]).success().contains("\nrows = 1000\n"), "settings are kept");
    assert!(systemd.run(&["nft", "list", "tables"]).success().contains("table inet flowlog"));

    let files = systemd.run(&["dpkg", "--listfiles", "flowlog"]).success();
    let files: Vec<&str> = files.lines().filter(|file| file.contains("flowlog")).collect();
    assert!(files.len() > 20 && files.iter().all(|file| exists(file)), "{files:?}");
    systemctl(&systemd, &["stop", "flowlog"]);
    systemd.run(&["/usr/bin/flowlog", "verify", "/var/log/flowlog"]).success();
    systemd.run(&["dpkg", "--purge", "flowlog"]).success();
    let others = [
        "/var/log/flowlog",
        "/etc/systemd/system/multi-user.target.wants/flowlog.service",
        "/etc/systemd/system/flowlog.service",
        "/var/lib/systemd/deb-systemd-helper-enabled/flowlog.service.dsh-also",
    ];
    let left: Vec<&&str> = files.iter().chain(&others).filter(|file| exists(file)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!systemd.run(&["nft", "list", "tables"]).success().contains("flowlog"));
}

#[test]
fn it_watches_other_network_namespaces_as_the_documentation_says() {
    let documentation = fs::read_to_string(packaging("../flowlog/docs/service.md")).unwrap();
    let (_, text) = documentation.split_once("```ini\n").unwrap();
    let rights = file(text.split_once("```").unwrap().0);
    let settings = file("netns = ['other']");
    let Some(systemd) = boot(&[
        (rights.path(), "/etc/systemd/system/flowlog.service.d/namespaces.conf"),
        (settings.path(), "/etc/flowlog/flowlog.toml"),
    ]) else {
        return;
    };
    systemd.run(&["chmod", "644", "/etc/flowlog/flowlog.toml"]).success();
    systemd.run(&["ip", "netns", "add", "other"]).success();
    systemd.run(&["ip", "-n", "other", "link", "set", "lo", "up"]).success();
    systemctl(&systemd, &["start", "flowlog"]);
    serve_and_ask(&systemd, "other");
    systemctl(&systemd, &["reload", "flowlog"]);
    wait_for_row(&systemd);
}

#[test]
fn its_unit_exposes_little_of_the_host() {
    const ANALYZE: &str = "/usr/bin/systemd-analyze";
    if !Path::new(ANALYZE).exists() {
        println!("this machine lacks systemd");
        return;
    }
    let mut command = Command::new(ANALYZE);
    command.args(["security", "--offline=true"]).arg(packaging("flowlog.service"));
    let report = run(command).success();
    let overall =
        report.lines().find_map(|line| line.split_once("Overall exposure level for flowlog.service: "));
    let level: f64 = overall.unwrap().1.split(' ').next().unwrap().parse().unwrap();
    assert!(level <= EXPOSED_AT_MOST, "{report}");
}
