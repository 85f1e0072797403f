//! What the kernel refuses, in the words of conntrack(8) for the command.

use std::io;

use nix::errno::Errno;

use super::commands::Command;
use super::failure::Failure;
use crate::connections::ctnetlink::Error;

impl Failure {
    /// A request that failed.
    pub(super) fn request(command: Command, error: &Error) -> Self {
        Self::Failed(format!("Operation failed: {}", explain(command, error)))
    }

    /// What is not there.
    pub(super) fn not_found(command: Command) -> Self {
        Self::Failed(format!("Operation failed: {}", explain_number(command, Errno::ENOENT)))
    }
}

/// The kernel's error in words that fit the command.
pub(super) fn explain(command: Command, error: &Error) -> String {
    let number = match error {
        Error::NotPermitted { .. } => Some(Errno::EPERM),
        Error::Io { source, .. } => source.raw_os_error().map(Errno::from_raw),
        Error::NoCtnetlink(_) | Error::Answer { .. } => None,
    };
    match number {
        Some(number) => explain_number(command, number),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

fn explain_number(command: Command, number: Errno) -> String {
    use Command::*;
    let text = match (number, command) {
        // Invalid parameters of later commands have the text of the system.
        (Errno::EINVAL, Add | ExpCount | Stats | ExpStats) => None,
        (Errno::EINVAL, _) => Some("invalid parameters"),
        (Errno::EEXIST, Create) => Some("Such conntrack exists, try -U to update"),
        (Errno::ENOENT, Create | Add | Get | Delete) => Some("such conntrack doesn't exist"),
        (Errno::ENOENT, ExpCreate) => Some("master conntrack not found"),
        (Errno::ENOMEM, Create | Add | Get) => Some("not enough memory"),
        (Errno::EAFNOSUPPORT, Get) => Some("protocol not supported"),
        (Errno::ETIME, Create | Add) => Some("conntrack has expired"),
        (Errno::EPERM, _) => Some("sorry, you must be root or get CAP_NET_ADMIN capability to do this"),
        _ => None,
    };
    match text {
        Some(text) => text.to_owned(),
        None => {
            // The standard library adds the number to the text of the system.
            let text = io::Error::from(number).to_string();
            text.split(" (os error").next().unwrap_or(&text).to_owned()
        }
    }
}
