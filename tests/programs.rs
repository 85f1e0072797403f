//! The path of a program: that of the file that runs, as `/proc/PID/exe` tells it, in whatever way it was started, and
//! whether it is older or newer than flowlog.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::fcntl::{OFlag, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::program::{Program, Running};

/// Waits until it is told to go on, and connects.
const CONNECT: &str = "echo waiting >&2; read; exec 3<>/dev/tcp/127.0.0.1/5000";

/// The longest path that the kernel takes, with its terminating zero byte.
const PATH_MAX: usize = 4096;

/// What the kernel calls a program, of which the name is what runs.
type Ways = BTreeMap<&'static str, Command>;

/// A program in all the ways in which it can be started.
struct Programs {
    directory: tempfile::TempDir,
    /// Files that are started by their descriptors.
    open: Vec<File>,
}

impl Programs {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), open: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A shell that is a file of its own there.
    fn shell(&self, name: &str) -> PathBuf {
        PathBuf::from(Program::linked(self.directory.path(), name, "/bin/bash").exe())
    }

    /// The path by which a program starts a file that it has open.
    fn descriptor(&mut self, file: File) -> String {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        self.open.push(file);
        path
    }

    // Long, since each way to run a program is a few lines.
    fn ways(&mut self) -> Ways {
        let shell = self.shell("fl-shell");
        let connect = |exe: &OsStr| {
            let mut command = Command::new(exe);
            command.args(["-c", CONNECT]);
            command
        };
        let directory = self.directory.path().to_owned();
        let script = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-ec", script, "sh", CONNECT]).arg(&directory);
            command
        };

        let mut relative = connect("./fl-shell".as_ref());
        relative.current_dir(self.directory.path());

        let link = self.path("fl-link");
        symlink(&shell, &link).unwrap();

        let interpreted = self.path("fl-script");
        fs::write(&interpreted, format!("#!{}\n{CONNECT}\n", shell.display())).unwrap();
        fs::set_permissions(&interpreted, fs::Permissions::from_mode(0o755)).unwrap();

        let odd = self.directory.path().join(OsStr::from_bytes(b"fl-\xff\xfe and spaces\n"));
        fs::hard_link(&shell, &odd).unwrap();

        // Directories with names of 200 bytes, so that the whole is just as long as the kernel takes it.
        let mut long = self.directory.path().to_owned();
        while long.as_os_str().len() + 202 < PATH_MAX - 300 {
            long.push("d".repeat(200));
        }
        let left = PATH_MAX - long.as_os_str().len() - 2;
        long.push("d".repeat(left - 250));
        fs::create_dir_all(&long).unwrap();
        let long = long.join("p".repeat(249));
        fs::hard_link(&shell, &long).unwrap();
        assert_eq!(long.as_os_str().len(), PATH_MAX - 1);

        // As many directories as a path can have.
        let mut deep = self.path("deep");
        while deep.as_os_str().len() + 20 < PATH_MAX {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        let deep = deep.join("fl-shell");
        fs::hard_link(&shell, &deep).unwrap();

        let mut longer_than_255 = self.path(&"l".repeat(200));
        longer_than_255.push("l".repeat(200));
        fs::create_dir_all(&longer_than_255).unwrap();
        let longer_than_255 = longer_than_255.join("fl-shell");
        fs::hard_link(&shell, &longer_than_255).unwrap();

        let gone = self.shell("fl-gone");
        // It stays open in the programs that are started.
        let file = File::from(open(&gone, OFlag::O_PATH, Mode::empty()).unwrap());
        fs::remove_file(&gone).unwrap();
        let mut memory = File::from(memfd_create(c"fl/memory", MFdFlags::empty()).unwrap());
        memory.write_all(&fs::read("/bin/bash").unwrap()).unwrap();
        let [gone, memory] = [file, memory].map(|file| self.descriptor(file));

        BTreeMap::from([
            ("absolute", connect(shell.as_os_str())),
            ("relative", relative),
            ("symbolic link", connect(link.as_os_str())),
            ("script", Command::new(interpreted)),
            ("no UTF-8", connect(odd.as_os_str())),
            ("more than 255 bytes", connect(longer_than_255.as_os_str())),
            ("4095 bytes", connect(long.as_os_str())),
            ("2000 directories", connect(deep.as_os_str())),
            ("removed", connect(gone.as_ref())),
            ("memfd", connect(memory.as_ref())),
            (
                "chroot",
                script(
                    r#"mkdir "$2/root"; exec unshare -m sh -ec 'mount --bind / "$2/root"; exec chroot "$2/root" /bin/bash -c "$1"' sh "$@""#,
                ),
            ),
            (
                "container",
                script(
                    r#"mkdir "$2/new"; exec unshare -m sh -ec 'mount --rbind / "$2/new"; cd "$2/new"; mount --move . /; exec chroot . /bin/bash -c "$1"' sh "$@""#,
                ),
            ),
            (
                "overlay",
                script(
                    r#"mkdir "$2/over"; exec unshare -m sh -ec 'cd "$2/over"; mount -t tmpfs none .; mkdir lower upper work merged; cp /bin/bash lower/fl-shell; mount -t overlay none -o lowerdir=lower,upperdir=upper,workdir=work merged; exec merged/fl-shell -c "$1"' sh "$@""#,
                ),
            ),
            (
                "bind mount",
                script(
                    r#"touch "$2/fl-bound"; exec unshare -m sh -ec 'mount --bind /bin/bash "$2/fl-bound"; exec "$2/fl-bound" -c "$1"' sh "$@""#,
                ),
            ),
        ])
    }
}

/// Starts it in one way, and waits until it runs.
fn start(namespace: &Namespace, command: Command) -> (Running, String) {
    let running = Program::start_command(namespace, command);
    running.wait_for("waiting");
    let exe = fs::read_link(format!("/proc/{}/exe", running.pid())).unwrap();
    (running, exe.to_string_lossy().into_owned())
}

#[test]
fn the_path_of_a_program_is_the_one_of_proc_however_it_was_started() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let listener = namespace.inside(|| TcpListener::bind("127.0.0.1:5000").unwrap());
    let mut expected = Vec::new();
    let [mut older, mut newer] = [Programs::new(), Programs::new()];
    let mut running = Vec::new();
    let mut run = |programs: &mut Programs, age: &str| {
        for (way, command) in programs.ways() {
            let (program, exe) = start(&namespace, command);
            expected.push((format!("{way}, {age}"), program.pid(), exe));
            running.push(program);
        }
    };
    run(&mut older, "older");
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    run(&mut newer, "newer");
    for mut program in running {
        program.go_on();
        drop(listener.accept().unwrap());
        program.finish();
    }
    drop(listener);
    conntrack::flush_closed(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(5000);
    let mut wrong = Vec::new();
    for (way, pid, exe) in &expected {
        let row = rows.iter().find(|row| row.int("src_pid") == Some((*pid).into())).unwrap();
        println!("{way}: {}", &exe[..exe.len().min(120)]);
        if row.text("src_exe") != Some(exe.as_str()) {
            wrong.push(format!("{way}: {:?}, and /proc has {exe:?}", row.text("src_exe")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(rows.len(), expected.len());
}

/// It ends before anybody could ask /proc, and its parent does not know where it is.
#[test]
fn a_program_of_a_millisecond_has_its_path() {
    const TIMES: usize = 100;
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let programs = Programs::new();
    let [shell, parent] = ["fl-shell", "fl-parent"].map(|name| programs.shell(name));
    let listener = namespace.inside(|| TcpListener::bind("127.0.0.1:5000").unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let mut command = Command::new("./fl-parent");
    let connect = "exec 3<>/dev/tcp/127.0.0.1/5000";
    command.current_dir(programs.directory.path());
    command.args(["-c", &format!("for i in {{1..{TIMES}}}; do ./fl-shell -c '{connect}'; done")]);
    let running = Program::start_command(&namespace, command);
    for _ in 0..TIMES {
        drop(listener.accept().unwrap());
    }
    running.finish();
    drop(listener);
    conntrack::flush_closed(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(5000);
    assert_eq!(rows.len(), TIMES);
    for row in rows {
        assert_eq!(row.text("src_exe"), shell.to_str(), "{row:?}");
        assert_eq!(row.text("src_parent_exe"), parent.to_str(), "{row:?}");
        assert_eq!(row.text("src_cmdline"), Some(&*format!("./fl-shell -c {connect}")), "{row:?}");
    }
}

/// Deeper than a path can say: the end of it is known, and it is marked.
#[test]
fn of_a_path_that_is_too_long_the_end_is_known() {
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let programs = Programs::new();
    let shell = programs.shell("fl-shell");
    let listener = namespace.inside(|| TcpListener::bind("127.0.0.1:5000").unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let name = "d".repeat(200);
    let mut command = Command::new("/bin/bash");
    let script = format!(
        "cd $0; for i in {{1..22}}; do mkdir {name}; cd {name}; done; cp {} fl-shell; \
         ./fl-shell -c 'exec 3<>/dev/tcp/127.0.0.1/5000'",
        shell.display()
    );
    command.args(["-c", &script]).arg(programs.directory.path());
    let running = Program::start_command(&namespace, command);
    drop(listener.accept().unwrap());
    running.finish();
    drop(listener);
    conntrack::flush_closed(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let exe = dataset.row_to(5000).text("src_exe").unwrap();
    assert!(exe.len() > PATH_MAX && exe.starts_with("..."), "{exe}");
    let end: PathBuf = exe.strip_prefix("...").unwrap().into();
    assert_eq!(end.file_name(), Some("fl-shell".as_ref()));
    assert!(end.parent().unwrap().iter().skip(1).all(|part| part == name.as_str()), "{exe}");
    // What `TempDir` does goes by paths.
    let removed = Command::new("rm").arg("-rf").arg(programs.directory.path()).status().unwrap();
    assert!(removed.success());
}

/// Directories change their names and places all the time: a path is one that there was, or what was given.
#[test]
fn a_path_that_changes_meanwhile_is_never_a_wrong_one() {
    const TIMES: usize = 300;
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let programs = Programs::new();
    let path = |name: &str| programs.path(name);
    for directory in ["a/m", "c"] {
        fs::create_dir_all(path(directory)).unwrap();
    }
    let shell = programs.shell("fl-shell");
    fs::rename(&shell, path("a/m/fl-shell")).unwrap();
    let mut open_shell = Programs::new();
    let file = File::from(open(&path("a/m/fl-shell"), OFlag::O_PATH, Mode::empty()).unwrap());
    let exe = open_shell.descriptor(file);
    let listener = namespace.inside(|| TcpListener::bind("127.0.0.1:5000").unwrap());
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let is_over = AtomicBool::new(false);
    let renames = thread::scope(|scope| {
        let renaming = scope.spawn(|| {
            let mut renames = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                // While `a` is called `z`, `m` is not in it.
                for (from, to) in [("a/m", "c/m"), ("a", "z"), ("z", "a"), ("c/m", "a/m")] {
                    fs::rename(path(from), path(to)).unwrap();
                    renames += 1;
                }
            }
            renames
        });
        for _ in 0..TIMES {
            let mut command = Command::new(&exe);
            command.args(["-c", "exec 3<>/dev/tcp/127.0.0.1/5000"]);
            let running = Program::start_command(&namespace, command);
            drop(listener.accept().unwrap());
            running.finish();
        }
        is_over.store(true, Ordering::Relaxed);
        renaming.join().unwrap()
    });
    drop(listener);
    conntrack::flush_closed(&namespace);
    daemon.stop();

    let dataset = Dataset::read(output.path());
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    let rows = dataset.rows_to(5000);
    for row in &rows {
        *found.entry(row.text("src_exe").unwrap()).or_default() += 1;
    }
    println!("{renames} renames: {found:?}");
    let is_right = |exe: &&str| {
        let is_there = ["a/m", "c/m"].iter().any(|place| Path::new(exe) == path(place).join("fl-shell"));
        is_there || exe.ends_with(" (as given)")
    };
    assert_eq!((rows.len(), found.keys().filter(|exe| !is_right(exe)).count()), (TIMES, 0), "{found:?}");
}
