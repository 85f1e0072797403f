//! Network namespaces that vanish with their test.
//!
//! Nothing is ever set in the namespace of the machine itself.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

use super::process::run;
use super::thread::on_a_thread;

/// The kernel tracks connections of a namespace once a rule in it asks for their state.
const TRACK: &str = "table inet track {
    chain in { type filter hook prerouting priority -200; ct state new counter; }
    chain out { type filter hook output priority -200; ct state new counter; }
}";

/// A network namespace with the loopback interface up.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// As the kernel makes it: connections are not tracked.
    #[track_caller]
    pub(crate) fn bare() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self::named(format!("fl-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// With a name of its own, as the kernel makes it.
    #[track_caller]
    pub(crate) fn named(name: String) -> Self {
        ip(&["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Connections are tracked, with counters and timestamps.
    #[track_caller]
    pub(crate) fn tracked() -> Self {
        let namespace = Self::bare();
        namespace.track();
        namespace
    }

    /// Lets the kernel track its connections, with counters and timestamps.
    #[track_caller]
    pub(crate) fn track(&self) {
        self.nft(TRACK);
        self.sysctl("net/netfilter/nf_conntrack_acct", "1");
        self.sysctl("net/netfilter/nf_conntrack_timestamp", "1");
    }

    /// Connections are tracked, and the kernel's defaults leave out counters and timestamps.
    #[track_caller]
    pub(crate) fn tracked_without_accounting() -> Self {
        let namespace = Self::bare();
        namespace.nft(TRACK);
        namespace
    }

    /// Its name, for `--netns`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The number that identifies it in the column `observer_netns`.
    pub(crate) fn inode(&self) -> i64 {
        i64::try_from(fs::metadata(self.path()).unwrap().ino()).unwrap()
    }

    /// Runs `work` on a thread inside. Sockets that it opens and processes that it starts stay inside.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).unwrap();
        on_a_thread(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// Runs a command inside to its end, which must be a success; gives its standard output.
    #[track_caller]
    pub(crate) fn exec(&self, command: Command) -> String {
        self.inside(|| run(command)).success()
    }

    /// Loads nft rules.
    #[track_caller]
    pub(crate) fn nft(&self, rules: &str) {
        let mut command = Command::new("nft");
        command.arg(rules);
        self.exec(command);
    }

    /// Sets a variable below `/proc/sys`.
    #[track_caller]
    pub(crate) fn sysctl(&self, path: &str, value: &str) {
        let path = PathBuf::from("/proc/sys").join(path);
        self.inside(|| fs::write(&path, value)).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    }

    /// Reads a variable below `/proc/sys`.
    #[track_caller]
    pub(crate) fn read_sysctl(&self, path: &str) -> String {
        let path = PathBuf::from("/proc/sys").join(path);
        let text = self.inside(|| fs::read_to_string(&path));
        text.unwrap_or_else(|err| panic!("{}: {err}", path.display())).trim().to_owned()
    }

    /// Connects it with another one by a pair of interfaces with one or more `(address, prefix)` each. Gives the
    /// name of both.
    #[track_caller]
    pub(crate) fn link(&self, own: &[(&str, u8)], peer: &Self, of_peer: &[(&str, u8)]) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let interface = format!("veth{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.ip(&[
            "link", "add", &interface, "type", "veth", "peer", "name", &interface, "netns", &peer.name,
        ]);
        for (namespace, addresses) in [(self, own), (peer, of_peer)] {
            for (address, prefix) in addresses {
                let address_with_prefix = format!("{address}/{prefix}");
                let mut args = vec!["address", "add", &address_with_prefix, "dev", &interface];
                if address.parse::<IpAddr>().unwrap().is_ipv6() {
                    // Without it the address is not usable until the search for duplicates has ended.
                    args.push("nodad");
                }
                namespace.ip(&args);
            }
            namespace.ip(&["link", "set", &interface, "up"]);
        }
        interface
    }

    /// Runs ip(8) for this namespace.
    #[track_caller]
    pub(crate) fn ip(&self, args: &[&str]) {
        ip(&[&["-netns", &self.name], args].concat());
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Not through `run`: a second panic while a test fails would hide the first one.
        let deleted = Command::new("ip").args(["netns", "delete", &self.name]).status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("the namespace {} is left behind; delete it with `ip netns delete`", self.name);
        }
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    let mut command = Command::new("ip");
    command.args(args);
    run(command).success();
}
