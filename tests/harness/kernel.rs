//! What older kernels do not have.

use std::fs;

/// Something that kernels have, and the version since which they do.
type Feature = (&'static str, (u32, u32));

/// `SO_NETNS_COOKIE`, without which the processes of older sockets are not named.
pub(crate) const OLDER_SOCKETS: Feature = ("the network namespace of a socket", (5, 14));

/// State and timeout in the events of the end of a flow.
pub(crate) const ENDS: Feature = ("how flows ended in their last events", (5, 11));

/// The system call in which a socket is released.
pub(crate) const WHO_CLOSED: Feature = ("who closed a socket, of all processes", (5, 15));

/// `CTA_STATUS` in requests for a list.
pub(crate) const STATUS_FILTERS: Feature = ("lists of entries by their status", (5, 15));

/// `CTA_ZONE` in requests for a list.
pub(crate) const ZONE_FILTERS: Feature = ("lists of entries by their zone", (6, 8));

/// Whether the running kernel is too old for something. Then it says so in words that `cargo xtask vm-test`
/// puts into its table.
pub(crate) fn lacks((what, since): Feature) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let lacks = version(&release) < since;
    if lacks {
        println!("this kernel lacks {what}");
    }
    lacks
}

/// Whether this machine was made for the tests, and ends with them: `cargo xtask vm-test`.
pub(crate) fn is_virtual_machine() -> bool {
    std::env::var_os("FLOWLOG_VM").is_some()
}

/// The first two numbers of a release.
#[track_caller]
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn a_release_is_parsed() {
    assert_eq!(version("5.10.0-46-cloud-amd64\n"), (5, 10));
    assert_eq!(version("7.3.4+deb13-amd64\n"), (7, 3));
    assert!(version("5.10.0") < (5, 14) && version("6.1.0") > (5, 14));
}
