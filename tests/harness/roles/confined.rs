//! What flowlog forbids itself, tried from inside: by the same functions of the library, and the same capabilities.

use std::fs::{self, File};
use std::io;
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;

use flowlog::host::confinement::{open_only_to_read, refuse_what_is_not_needed, write_only_below};
use flowlog::host::rights::{Part, Raised, give_up};

use super::tell;

/// Becomes a side of flowlog that may write in a directory, tries everything, and tells the number of each error, 0 for
/// success. `elsewhere` is a directory that everybody may write to.
pub(super) fn try_all(side: &str, below: &Path, elsewhere: &Path) {
    try_each("before", below, elsewhere);
    match side {
        "receiving" => {
            give_up(Part::Receiving { enters_namespaces: false }).unwrap();
            refuse_what_is_not_needed(false).unwrap();
            open_only_to_read().unwrap();
        }
        "writing" => {
            give_up(Part::Writing).unwrap();
            write_only_below(below).unwrap();
            refuse_what_is_not_needed(false).unwrap();
        }
        _ => panic!("no such side: {side}"),
    }
    try_each("after", below, elsewhere);
    let _raised = Raised::to_look_into();
    number("raised", "exe", fs::read_link(of_root("exe")).map(drop));
    number("raised", "fd", fs::read_dir(of_root("fd")).map(drop));
}

fn try_each(when: &str, below: &Path, elsewhere: &Path) {
    let tell = |what: &str, result: io::Result<()>| number(when, what, result);
    tell("shadow", File::open("/etc/shadow").map(drop));
    tell("passwd", File::open("/etc/passwd").map(drop));
    tell("exe", fs::read_link(of_root("exe")).map(drop));
    tell("execute", Command::new("/bin/true").status().map(drop));
    // Of a network that nobody has; the namespace has no route there.
    tell("connect", TcpStream::connect("192.0.2.1:9").map(drop));
    tell("datagram", UdpSocket::bind("0.0.0.0:0").map(drop));
    tell("elsewhere", File::create(elsewhere.join("file")).map(drop));
    tell("sysctl", File::options().write(true).open("/proc/self/comm").map(drop));
    tell("below", File::create(below.join(when)).map(drop));
    tell("linked", File::create(below.join("link").join(when)).map(drop));
    tell("directory", fs::create_dir(below.join(format!("{when}-directory"))));
    let moved = || fs::rename(below.join(when), below.join(format!("{when}-directory/file")));
    tell("move", moved());
    tell("unshare", nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(Into::into));
}

/// A file of a process of root, which started this one.
fn of_root(file: &str) -> String {
    format!("/proc/{}/{file}", nix::unistd::getppid())
}

fn number(when: &str, what: &str, result: io::Result<()>) {
    let number = result.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1));
    tell(&format!("{when}-{what} {number}"));
}
