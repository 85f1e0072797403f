//! What is known of a process besides its program: command line, parent, start and login user.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{self, Command};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, run_command};
use crate::harness::dataset::{Dataset, Row};
use crate::harness::namespace::Namespace;
use crate::harness::program::{Program, Running};

/// The times in /proc are in ticks of 10 ms.
const TICK_US: i64 = 10_000;

/// How much of the arguments is recorded.
const ARGS_LEN: usize = 4096;

fn at() -> SocketAddr {
    "127.0.0.1:5000".parse().unwrap()
}

/// What /proc says of a process while it lives.
struct Truth {
    pid: i32,
    cmdline: String,
    start_us: i64,
    /// `None`: not set.
    login_uid: Option<i64>,
}

impl Truth {
    #[track_caller]
    fn of(pid: i32) -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        let stat = read("stat");
        // The name before may have spaces; `starttime` is the 20th after it.
        let start_ticks: i64 =
            stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
        let now_us =
            |clock| i64::try_from(Duration::from(clock_gettime(clock).unwrap()).as_micros()).unwrap();
        let boot_us = now_us(ClockId::CLOCK_REALTIME) - now_us(ClockId::CLOCK_BOOTTIME);
        let login_uid: i64 = read("loginuid").parse().unwrap();
        Self {
            pid,
            cmdline: read("cmdline").trim_end_matches('\0').replace('\0', " "),
            start_us: boot_us + start_ticks * TICK_US,
            login_uid: (login_uid != i64::from(u32::MAX)).then_some(login_uid),
        }
    }

    #[track_caller]
    fn assert_is_src_of(&self, row: &Row, program: &Program) {
        assert_eq!(row.int("src_pid"), Some(self.pid.into()), "{row:?}");
        assert_eq!(row.text("src_exe"), Some(program.exe()), "{row:?}");
        assert_eq!(row.text("src_cmdline"), Some(self.cmdline.as_str()), "{row:?}");
        let start_us = row.time("src_process_start_time").unwrap();
        assert!((start_us - self.start_us).abs() <= 2 * TICK_US, "{} in /proc: {row:?}", self.start_us);
        assert_eq!(row.int("src_login_uid"), self.login_uid, "{row:?}");
        assert_eq!(row.int("src_ppid"), Some(process::id().into()), "{row:?}");
        assert_eq!(row.text("src_parent_exe"), env::current_exe().unwrap().to_str(), "{row:?}");
    }
}

/// A daemon, and a server at [`at`].
struct Logged {
    namespace: Namespace,
    output: tempfile::TempDir,
    programs: tempfile::TempDir,
    daemon: Daemon,
    _server: Running,
}

impl Logged {
    #[track_caller]
    fn start(environment: &[(&str, &str)]) -> Self {
        Self::start_after(environment, |_, _| ()).0
    }

    /// `before` is done before the daemon starts.
    #[track_caller]
    fn start_after<T>(
        environment: &[(&str, &str)],
        before: impl FnOnce(&Namespace, &tempfile::TempDir) -> T,
    ) -> (Self, T) {
        let namespace = Namespace::tracked();
        let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let result = before(&namespace, &programs);
        let mut command = run_command(output.path(), &[&namespace]);
        command.envs(environment.iter().copied());
        let daemon = Daemon::spawn(command);
        let server = Program::new(programs.path(), "fl-server").serve(&namespace, 0, at());
        (Self { namespace, output, programs, daemon, _server: server }, result)
    }

    fn program(&self, name: &str) -> Program {
        Program::new(self.programs.path(), name)
    }

    /// The files, when all connections have closed.
    #[track_caller]
    fn finish(self) -> Dataset {
        conntrack::flush_closed(&self.namespace);
        self.daemon.stop();
        Dataset::read(self.output.path())
    }
}

#[test]
fn of_a_process_that_is_gone_all_is_known() {
    let logged = Logged::start(&[]);
    let client = logged.program("fl-client");
    let mut running = client.start(&logged.namespace, &format!("connect-when-told {}", at()));
    running.wait_for("waiting");
    let truth = Truth::of(running.pid());
    running.go_on();
    running.finish();

    let dataset = logged.finish();
    let row = dataset.row_to(5000);
    truth.assert_is_src_of(row, &client);
    assert_eq!(truth.cmdline, client.cmdline());
}

#[test]
fn of_a_process_that_is_older_all_is_known() {
    let (logged, (client, mut running)) = Logged::start_after(&[], |namespace, programs| {
        let client = Program::new(programs.path(), "fl-client");
        let running = client.start(namespace, &format!("connect-when-told {}", at()));
        running.wait_for("waiting");
        (client, running)
    });
    let truth = Truth::of(running.pid());
    running.go_on();
    running.finish();

    let dataset = logged.finish();
    truth.assert_is_src_of(dataset.row_to(5000), &client);
}

#[test]
fn secrets_are_masked_as_configured() {
    let arg = "--password=hunter2";
    for (mode, expected) in [("masked", Some("--password=***")), ("full", Some(arg)), ("off", None)] {
        let logged = Logged::start(&[("FLOWLOG__PROCESS__CMDLINE", mode)]);
        let client = logged.program("fl-client");
        let mut command = client.command(0, &format!("connect {}", at()));
        // The harness of the tests takes it for the name of a test after this.
        command.args(["--", arg]);
        Program::start_command(&logged.namespace, command).finish();
        let dataset = logged.finish();
        let row = dataset.row_to(5000);
        let expected = expected.map(|arg| format!("{} -- {arg}", client.cmdline()));
        assert_eq!(row.text("src_cmdline"), expected.as_deref(), "{mode}: {row:?}");
        assert_eq!(row.text("src_exe"), Some(client.exe()), "{row:?}");
        assert_eq!(row.text("dst_cmdline").is_some(), mode != "off", "{row:?}");
    }
}

#[test]
fn a_script_has_the_command_line_of_its_interpreter() {
    let logged = Logged::start(&[]);
    let interpreter = logged.program("fl-interpreter");
    let script = logged.programs.path().join("fl-script");
    fs::write(&script, format!("#!{}\n", interpreter.exe())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let script = Program::at(script.to_str().unwrap());
    script.run(&logged.namespace, &format!("connect {}", at()));

    let dataset = logged.finish();
    let row = dataset.row_to(5000);
    let expected = format!("{} {}", interpreter.exe(), script.cmdline());
    assert_eq!(row.text("src_cmdline"), Some(expected.as_str()), "{row:?}");
    assert_eq!(row.text("src_exe"), Some(interpreter.exe()), "{row:?}");
}

#[test]
fn long_command_lines_are_cut_and_say_so() {
    let logged = Logged::start(&[]);
    let client = logged.program("fl-client");
    let many = vec!["many".to_owned(); 2000];
    let cases = [("one", vec!["x".repeat(100_000)]), ("many", many), ("none", Vec::new())];
    let mut expected = Vec::new();
    for (_, args) in &cases {
        let mut command = client.command(0, &format!("connect {}", at()));
        command.args(args);
        let running = Program::start_command(&logged.namespace, command);
        let all = [&[client.cmdline()], args.as_slice()].concat().join(" ");
        let cut = all.get(..ARGS_LEN).map(|cut| format!("{}...", cut.trim_end()));
        expected.push((running.finish().pid, cut.unwrap_or(all)));
    }
    let dataset = logged.finish();
    for (pid, expected) in expected {
        let rows = dataset.rows_to(5000);
        let row = rows.iter().find(|row| row.int("src_pid") == Some(pid.into())).unwrap();
        assert_eq!(row.text("src_cmdline"), Some(expected.as_str()));
    }
}

/// A kernel that does not describe its types.
#[test]
fn what_the_kernel_does_not_describe_is_null() {
    let namespace = Namespace::tracked();
    let [output, programs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let run = run_command(output.path(), &[&namespace]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", r#"mount -t tmpfs none /sys/kernel/btf && exec "$0" "$@""#]);
    command.arg(run.get_program()).args(run.get_args()).env_remove("FLOWLOG_LOG");
    let daemon = Daemon::spawn(command);
    let [server, client] = ["fl-server", "fl-client"].map(|name| Program::new(programs.path(), name));
    let _serving = server.serve(&namespace, 0, at());
    client.connect(&namespace, 0, at());
    conntrack::flush_closed(&namespace);
    let log = daemon.stop();

    assert!(log.contains("command lines and login users of new processes are not known"), "{log}");
    let dataset = Dataset::read(output.path());
    let row = dataset.row_to(5000);
    let as_given = format!("{} (as given)", client.exe());
    assert_eq!(row.text("src_exe"), Some(as_given.as_str()), "{row:?}");
    assert_eq!(row.int("src_ppid"), Some(process::id().into()), "{row:?}");
    assert_eq!((row.text("src_cmdline"), row.int("src_login_uid")), (None, None), "{row:?}");
}

/// The ways in which a process comes to its program, with the number of the process that began it.
#[test]
fn every_way_to_execute_is_seen() {
    let logged = Logged::start(&[]);
    let [starter, client] = ["fl-starter", "fl-client"].map(|name| logged.program(name));
    let connect = format!("connect {}", at());
    let run =
        |how: &str| starter.run(&logged.namespace, &format!("execute {how} {} {connect}", client.exe())).pid;
    let from_thread = run("from-thread");
    let by_descriptor = run("by-descriptor");
    let as_login = run("as-login-54321");
    let in_vain = starter.run(&logged.namespace, &format!("execute-in-vain {}", at())).pid;

    let dataset = logged.finish();
    let rows = dataset.rows_to(5000);
    assert_eq!(rows.len(), 4);
    let check = |pid: i32, program: &Program, login_uid: Option<i64>| {
        let row = rows.iter().find(|row| row.int("src_pid") == Some(pid.into())).unwrap();
        assert_eq!(row.text("src_cmdline"), Some(program.cmdline().as_str()), "{row:?}");
        assert_eq!(row.text("src_exe"), Some(program.exe()), "{row:?}");
        assert_eq!(row.int("src_login_uid"), login_uid, "{row:?}");
        // That of the process, whatever it runs.
        assert!(row.time("src_process_start_time").is_some(), "{row:?}");
        assert_eq!(row.int("src_ppid"), Some(process::id().into()), "{row:?}");
        assert_eq!(row.text("src_parent_exe"), env::current_exe().unwrap().to_str(), "{row:?}");
    };
    let own = Truth::of(i32::try_from(process::id()).unwrap()).login_uid;
    check(from_thread, &client, own);
    check(by_descriptor, &client, own);
    check(as_login, &client, Some(54321));
    check(in_vain, &starter, own);
}
