//! Real containers that live shortly: as jobs, health checks and functions do.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;
use crate::harness::process::run;
use crate::harness::wait::wait_for;

/// How many containers.
const CONTAINERS: usize = 100;

/// Of the server.
const PORT: u16 = 5000;

/// The name of the image.
const IMAGE: &str = "localhost/flowlog-test";

/// Podman with storage of its own, which vanishes with the test.
struct Podman {
    directory: tempfile::TempDir,
}

impl Podman {
    /// With an image of one program: a busybox without libraries.
    #[track_caller]
    fn new(busybox: &Path) -> Self {
        let podman = Self { directory: tempfile::tempdir().unwrap() };
        let at = |name: &str| podman.directory.path().join(name);
        // In virtual machines the root is the kernel's first file system, which cannot be left for another one.
        fs::write(at("containers.conf"), "[engine]\nno_pivot_root = true\n").unwrap();
        fs::create_dir(at("root")).unwrap();
        fs::copy(busybox, at("root/busybox")).unwrap();
        let mut tar = Command::new(busybox);
        tar.arg("tar").arg("-cf").arg(at("image.tar")).arg("-C").arg(at("root")).arg("busybox");
        run(tar).success();
        let mut import = podman.command();
        import.arg("import").arg(at("image.tar")).arg(IMAGE);
        run(import).success();
        podman
    }

    fn command(&self) -> Command {
        let at = |name: &str| self.directory.path().join(name);
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", at("containers.conf"));
        for (option, directory) in [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(at(directory));
        }
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        command
    }

    /// The ids of all containers that are there.
    #[track_caller]
    fn containers(&self) -> String {
        let mut command = self.command();
        command.args(["ps", "--all", "--quiet"]);
        run(command).success()
    }

    /// Runs a container that connects and ends at once. Gives its id.
    #[track_caller]
    fn connect(&self, namespace: &Namespace, number: usize) -> String {
        let id = self.directory.path().join(format!("id-{number}"));
        let mut command = self.command();
        command.args(["run", "--rm", "--detach", "--log-driver", "none", "--network"]);
        command.arg(format!("ns:/run/netns/{}", namespace.name())).arg("--cidfile").arg(&id);
        command.args([IMAGE, "/busybox", "nc", "127.0.0.1", &PORT.to_string()]);
        run(command).success();
        fs::read_to_string(id).unwrap().trim().to_owned()
    }
}

#[test]
fn containers_that_connect_and_end_at_once_are_named() {
    let find = |name: &str| -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.exists())
    };
    let (Some(_), Some(busybox)) = (find("podman"), find("busybox")) else {
        println!("skipped: there is no Podman, which the virtual machines of `cargo xtask vm-test` have");
        return;
    };
    let podman = Podman::new(&busybox);
    let namespace = Namespace::tracked();
    let output = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(output.path(), &[&namespace], &[]);
    let listener = namespace.inside(|| TcpListener::bind(("127.0.0.1", PORT))).unwrap();
    let ids: Vec<String> = thread::scope(|scope| {
        // Each connection is closed at once, and so is the client then.
        scope.spawn(|| listener.incoming().take(CONTAINERS).for_each(|stream| drop(stream.unwrap())));
        (0..CONTAINERS).map(|number| podman.connect(&namespace, number)).collect()
    });
    // Detached: they go on when Podman has started them.
    wait_for("the containers to be removed", || podman.containers().is_empty().then_some(()));
    conntrack::flush_closed(&namespace);
    let log = daemon.stop();

    let dataset = Dataset::read(output.path());
    let rows = dataset.rows_to(PORT);
    assert_eq!(rows.len(), CONTAINERS, "{log}");
    let found = |id: &String| rows.iter().filter(|row| row.text("src_container_id") == Some(id)).count();
    let named = ids.iter().filter(|id| found(id) == 1).count();
    println!("of {CONTAINERS} containers, {named} are named");
    // 99.9 % of a hundred are all.
    assert_eq!(named, CONTAINERS, "{rows:#?}\n{log}");
    let programs = rows.iter().filter(|row| row.text("src_comm") == Some("busybox")).count();
    assert_eq!(programs, CONTAINERS, "{rows:#?}");
}
