//! Why a command fails, in the words and with the exit codes of conntrack(8).

use std::io;
use std::process::ExitCode;

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
