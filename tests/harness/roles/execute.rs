//! Other programs in the same process. A role is played on a thread that is not the first: where it
//! executes a program, the kernel ends all other threads, and this one gets the number of the process.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::fexecve;

use super::tcp;
use crate::harness::program::Program;

/// Goes on as another program in a role.
pub(super) fn execute(how: &str, exe: &str, role: &str) {
    let mut command = Program::at(exe).command(0, role);
    if let Some(uid) = how.strip_prefix("as-login-") {
        // What a login does: it belongs to the thread.
        fs::write("/proc/thread-self/loginuid", uid).unwrap();
    }
    if how == "by-descriptor" {
        let file = File::open(exe).unwrap();
        let c_string = |text: &OsStr| CString::new(text.as_bytes()).unwrap();
        let args = [command.get_program()].into_iter().chain(command.get_args());
        let args: Vec<CString> = args.map(c_string).collect();
        let variables =
            command.get_envs().filter_map(|(name, value)| Some([name, value?].join(OsStr::new("="))));
        let variables: Vec<CString> = variables.map(|variable| c_string(&variable)).collect();
        panic!("{:?}", fexecve(file, &args, &variables));
    }
    panic!("{}", command.exec());
}

/// Tries to execute what cannot be, and connects as it is.
pub(super) fn in_vain(to: SocketAddr) {
    for exe in ["/nonexistent", "/etc", "/etc/passwd"] {
        let error = Command::new(exe).args(["wrong", "arguments"]).exec();
        assert!(error.raw_os_error().is_some(), "{error}");
    }
    tcp::connect_and_exit(to);
}
