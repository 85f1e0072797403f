//! The cgroup of a process, and the container and pod that its path tells.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use flowlog::attribution::ebpf::cgroup2_root;

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, run_command};
use crate::harness::dataset::{Dataset, Row};
use crate::harness::kernel::is_virtual_machine;
use crate::harness::namespace::Namespace;
use crate::harness::program::{Program, Running, Told};
use crate::harness::wait::wait_for;

const CONTAINER: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// A branch of cgroup v2, removed with the test.
pub(crate) struct Branch {
    /// From the first directory that was made down to the last.
    made: Vec<PathBuf>,
}

impl Branch {
    #[track_caller]
    pub(crate) fn new(names: &[&str]) -> Self {
        let mut path = cgroup2_root().expect("cgroup v2 is mounted");
        let mut made = Vec::new();
        for name in names {
            path.push(name);
            if !path.exists() {
                fs::create_dir(&path).unwrap();
                made.push(path.clone());
            }
        }
        Self { made }
    }

    /// Its last directory.
    pub(crate) fn path(&self) -> &Path {
        self.made.last().unwrap()
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        for directory in self.made.iter().rev() {
            // Fails where a process that was ended is not gone yet.
            let _ = fs::remove_dir(directory);
        }
    }
}

#[test]
fn the_container_of_a_process_is_named() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let top = format!("flowlog-test-{}.slice", std::process::id());
    let pod = "kubepods-pod1b4e28ba_2fa1_11d2_883f_0016d3cca427.slice";
    let scope = format!("cri-containerd-{CONTAINER}.scope");
    let branch = Branch::new(&[&top, pod, &scope]);
    let directory = branch.path().to_str().unwrap();

    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    namespace.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:5000").unwrap();
        let script =
            format!("echo $$ > {directory}/cgroup.procs; exec 3<>/dev/tcp/127.0.0.1/5000; read -u 3");
        let mut client = Command::new("bash").args(["-c", &script]).spawn().unwrap();
        drop(listener.accept().unwrap());
        client.wait().unwrap();
    });
    conntrack::flush_closed(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let row = dataset.row_to(5000);
    assert_eq!(row.text("src_comm"), Some("bash"), "{row:?}");
    assert_eq!(row.text("src_cgroup"), Some(&*format!("/{top}/{pod}/{scope}")), "{row:?}");
    assert_eq!(row.text("src_unit"), Some(&*scope), "{row:?}");
    assert_eq!(row.text("src_container_id"), Some(CONTAINER), "{row:?}");
    assert_eq!(row.text("src_pod_uid"), Some("1b4e28ba-2fa1-11d2-883f-0016d3cca427"), "{row:?}");
    assert_eq!(row.text("src_user"), Some("root"), "{row:?}");
    assert_eq!(row.text("dst_container_id"), None, "{row:?}");
}

/// A daemon that `ip netns exec` starts, where no cgroups are to be seen.
#[track_caller]
fn start_below_ip(namespace: &Namespace, output: &Path) -> Daemon {
    let flowlog = run_command(output, &[]);
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name()]).arg(flowlog.get_program()).args(flowlog.get_args());
    command.env_remove("FLOWLOG_LOG");
    Daemon::spawn(command)
}

/// Waits until the daemon has read all events until now: until it has published a flow that began now.
#[track_caller]
fn wait_until_read(daemon: &mut Daemon, namespace: &Namespace, output: &Path) {
    namespace.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:5001").unwrap();
        drop(TcpStream::connect("127.0.0.1:5001").unwrap());
        drop(listener.accept().unwrap());
    });
    wait_for("the connection to be closed", || {
        let entries = conntrack::list(namespace);
        let mut its = entries.lines().filter(|line| line.contains("dport=5001"));
        its.all(|line| line.contains("TIME_WAIT") || line.contains(" CLOSE ")).then_some(())
    });
    let mut command = Command::new("conntrack");
    command.args(["-D", "-p", "tcp", "--dport", "5001"]);
    namespace.exec(command);
    wait_for("a flow to be published", || {
        daemon.rotate();
        (!Dataset::read(output).rows_to(5001).is_empty()).then_some(())
    });
}

/// Runs a shell that makes cgroups below this one, each like that of a container with the number for its id. A process
/// in each of them connects, and ends after so many seconds; then the cgroup is removed.
#[track_caller]
fn start_containers(namespace: &Namespace, below: &Path, numbers: (u32, u32), seconds: &str) -> Running {
    let script = "for i in $(seq $1 $2); do printf -v id %064x $i; mkdir $0/$id; \
                  (echo $BASHPID > $0/$id/cgroup.procs; echo pid-of-$i $BASHPID >&2; \
                  exec 3<>/dev/tcp/127.0.0.1/5000; [ $3 = 0 ] || sleep $3); \
                  until rmdir $0/$id 2>/dev/null; do :; done; done";
    let mut command = Command::new("bash");
    command.args(["-c", script]).arg(below);
    command.args([numbers.0.to_string(), numbers.1.to_string(), seconds.to_owned()]);
    Program::start_command(namespace, command)
}

/// How many of these rows name the container that their process was in. None names another.
#[track_caller]
fn named(rows: &[&Row], told: &[Told]) -> usize {
    let numbers: HashMap<i64, i64> =
        told.iter().flat_map(|told| told.numbered("pid-of-")).map(|(number, pid)| (pid, number)).collect();
    let named = rows.iter().filter(|row| {
        let expected = format!("{:064x}", numbers[&row.int("src_pid").unwrap()]);
        let container = row.text("src_container_id");
        assert!(container.is_none_or(|container| container == expected), "{row:?}");
        assert!(row.text("src_cgroup").is_none_or(|path| path.ends_with(&expected)), "{row:?}");
        container.is_some()
    });
    named.count()
}

fn assert_short_containers_are_named(name: &str, start: impl FnOnce(&Namespace, &Path) -> Daemon) {
    // How many live for about a millisecond, and for twenty. Emulated processors take a second for a few.
    let (short_lived, longer_lived) = if is_virtual_machine() { (100, 10) } else { (2000, 200) };
    let all = short_lived + longer_lived + 1;
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let branch = Branch::new(&[&format!("flowlog-test-{}-{name}", std::process::id()), "docker"]);
    let older = Branch::new(&[
        &format!("flowlog-test-{}-{name}-older", std::process::id()),
        "docker",
        &format!("{:064x}", 999_999),
    ]);
    let listener = namespace.inside(|| TcpListener::bind("127.0.0.1:5000").unwrap());
    let daemon = start(&namespace, output.path());
    let told = thread::scope(|scope| {
        let accepting = scope.spawn(|| (0..all).for_each(|_| drop(listener.accept().unwrap())));
        let short = start_containers(&namespace, branch.path(), (1, short_lived), "0");
        let longer = start_containers(
            &namespace,
            branch.path(),
            (short_lived + 1, short_lived + longer_lived),
            "0.02",
        );
        let mut command = Command::new("bash");
        let script = "echo $$ > $0/cgroup.procs; echo pid-of-999999 $$ >&2; exec 3<>/dev/tcp/127.0.0.1/5000";
        command.args(["-c", script]).arg(older.path());
        let older = Program::start_command(&namespace, command);
        let told = [short, longer, older].map(Running::finish);
        accepting.join().unwrap();
        told
    });
    drop(listener);
    conntrack::flush_closed(&namespace);
    let log = daemon.stop();
    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(5000);
    let all = usize::try_from(all).unwrap();
    assert_eq!(rows.len(), all, "{log}");
    let named = named(&rows, &told);
    println!("{named} of {all} are named");
    assert!(named * 1000 >= all * 999, "{named} of {all} are named: {log}");
    let is_older = |row: &&&Row| row.text("src_cgroup").is_some_and(|path| path.contains("-older/"));
    assert_eq!(rows.iter().filter(is_older).count(), 1, "{log}");
}

#[test]
fn containers_that_live_for_a_millisecond_are_named() {
    assert_short_containers_are_named("short", |namespace, output| Daemon::start(output, &[namespace], &[]));
}

#[test]
fn containers_are_named_where_ip_netns_exec_hides_their_cgroups() {
    assert_short_containers_are_named("hidden", start_below_ip);
}

/// Jobs come and go all day.
#[test]
fn cgroups_that_are_gone_take_no_memory_for_long() {
    const CGROUPS: u32 = 20_000;
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let branch = Branch::new(&[&format!("flowlog-test-{}-many", std::process::id()), "docker"]);
    let mut daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let make = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let directory = branch.path().join(format!("{number:064x}"));
            fs::create_dir(&directory).unwrap();
            fs::remove_dir(&directory).unwrap();
        }
    };
    // What the first ones take is not for cgroups alone.
    make(0..100);
    let before = daemon.own_memory_bytes();
    make(100..CGROUPS);
    // A connection from the last one that is named says that all of them were read.
    let listener = namespace.inside(|| TcpListener::bind("127.0.0.1:5000").unwrap());
    let running = start_containers(&namespace, branch.path(), (CGROUPS, CGROUPS), "0");
    drop(listener.accept().unwrap());
    let told = running.finish();
    drop(listener);
    wait_until_read(&mut daemon, &namespace, output.path());
    let grown = daemon.own_memory_bytes().saturating_sub(before);
    conntrack::flush_closed(&namespace);
    daemon.stop();
    println!("{grown} bytes for {CGROUPS} cgroups");
    let dataset = Dataset::read(output.path());
    assert_eq!(named(&dataset.rows_to(5000), &[told]), 1);
    assert!(grown <= 10 << 20, "{grown} bytes");
}

/// The kernel tells at most 1023 bytes of a path. A process that still runs is asked for the rest.
#[test]
fn a_path_that_the_kernel_does_not_tell_whole_is_found() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let long = "x".repeat(250);
    let mut daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let top = format!("flowlog-test-{}-long", std::process::id());
    let branch = Branch::new(&[&top, &long, &long, &long, &long, CONTAINER]);
    let listener = namespace.inside(|| TcpListener::bind("127.0.0.1:5000").unwrap());
    let mut command = Command::new("bash");
    let script = "echo $$ > $0/cgroup.procs; exec 3<>/dev/tcp/127.0.0.1/5000; read -u 3 || true";
    command.args(["-c", script]).arg(branch.path());
    let running = Program::start_command(&namespace, command);
    let accepted = listener.accept().unwrap();
    // While the process waits, its event is read.
    wait_until_read(&mut daemon, &namespace, output.path());
    drop(accepted);
    running.finish();
    drop(listener);
    conntrack::flush_closed(&namespace);
    daemon.stop();
    let dataset = Dataset::read(output.path());
    let row = dataset.row_to(5000);
    assert_eq!(row.text("src_container_id"), Some(CONTAINER), "{row:?}");
    let expected = format!("/{top}/{long}/{long}/{long}/{long}/{CONTAINER}");
    assert_eq!(row.text("src_cgroup"), Some(expected.as_str()), "{row:?}");
}

/// What is known of an id stays true: so no event is needed for that.
#[test]
fn the_kernel_does_not_rename_cgroups_of_version_2() {
    let branch = Branch::new(&[&format!("flowlog-test-{}-name", std::process::id())]);
    let renamed = fs::rename(branch.path(), branch.path().with_extension("renamed"));
    assert_eq!(renamed.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
}
