//! Why a command fails, in the words and with the exit codes of conntrack(8).

use std::io;
use std::process::ExitCode;

use nix::errno::Errno;

use super::commands::Command;
use crate::connections::ctnetlink::Error;

/// What messages begin with. Scripts look for it.
pub(super) const PREFIX: &str = "conntrack v1.4.7 (conntrack-tools)";

/// Why a command line could not be done.
#[derive(Debug)]
pub(super) enum Failure {
    /// It makes no sense.
    Usage(String),
    /// The kernel refused, or a file could not be read.
    Failed(String),
    /// Nobody takes the output.
    Output(io::Error),
}

impl Failure {
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// A request that failed.
    pub(super) fn request(command: Command, error: &Error) -> Self {
        Self::Failed(format!("Operation failed: {}", explain(command, error)))
    }

    /// What is not there.
    pub(super) fn not_found(command: Command) -> Self {
        Self::Failed(format!("Operation failed: {}", explain_number(command, Errno::ENOENT)))
    }

    /// Tells it to stderr, where somebody may read it.
    pub(super) fn report(&self) -> ExitCode {
        match self {
            Self::Usage(text) => {
                say(&format!("{PREFIX}: {text}"));
                say("Try `conntrack -h' or 'conntrack --help' for more information.");
                ExitCode::from(2)
            }
            Self::Failed(text) => {
                say(&format!("{PREFIX}: {text}"));
                ExitCode::FAILURE
            }
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Self::Output(error) => {
                say(&format!("{PREFIX}: cannot write: {error}"));
                ExitCode::FAILURE
            }
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Writes a line to stderr, which may be closed.
pub(super) fn say(text: &str) {
    use io::Write as _;
    let _ = writeln!(io::stderr(), "{text}");
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
