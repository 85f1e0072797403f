//! The cgroup of a process, and the container and pod that its path tells.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use flowlog::ebpf::cgroup2_root;

use crate::harness::conntrack;
use crate::harness::daemon::Daemon;
use crate::harness::dataset::Dataset;
use crate::harness::namespace::Namespace;

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
