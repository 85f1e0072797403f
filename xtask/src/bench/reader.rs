//! What can read the events of ended flows: flowlog, the least that is possible, and what people use today.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::load::{Load, Made, Said};
use crate::namespace::Namespace;
use crate::{setup, sh};

/// As flowlog has it by default.
const RECEIVE_BUFFER_BYTES: &str = "67108864";

/// What conntrack and ulogd2 are told to use: with 64 or 256 MiB they keep as much.
const PEER_BUFFER_BYTES: &str = "536870912";

/// How long the second reader that throws everything away sleeps where nothing is there.
const PAUSE_US: &str = "1000";

/// A program that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// With its default settings.
    Flowlog,
    /// Without the processes.
    FlowlogNoEbpf,
    /// Receives and throws away, with the receive buffer and the reliable delivery of flowlog.
    Bare,
    /// The same, and waits a little for more before it reads.
    BarePausing,
    /// conntrack(8) that writes to a file.
    Conntrack,
    /// ulogd2 that writes JSON.
    Ulogd,
}

/// What a reader has kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) flows: u64,
    pub(super) bytes: u64,
    /// Whether that is all that was made, and no loss was declared.
    pub(super) is_exact: bool,
}

impl Reader {
    pub(super) const ALL: [Self; 6] =
        [Self::Flowlog, Self::FlowlogNoEbpf, Self::Bare, Self::BarePausing, Self::Conntrack, Self::Ulogd];

    /// Its name on the command line.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Flowlog => "flowlog",
            Self::FlowlogNoEbpf => "no-ebpf",
            Self::Bare => "bare",
            Self::BarePausing => "pausing",
            Self::Conntrack => "conntrack",
            Self::Ulogd => "ulogd2",
        }
    }

    /// Those that a list names, separated by commas.
    ///
    /// # Errors
    ///
    /// When it names something else.
    pub(super) fn parse_list(list: &str) -> Result<Vec<Self>> {
        let parse = |name: &str| {
            let reader = Self::ALL.into_iter().find(|reader| reader.key() == name);
            let keys = || Self::ALL.map(Self::key).join(", ");
            reader.with_context(|| format!("`{name}` is no reader, expected one of {}", keys()))
        };
        list.split(',').map(parse).collect()
    }

    /// Its name in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Flowlog => "flowlog",
            Self::FlowlogNoEbpf => "flowlog --no-ebpf",
            Self::Bare => "bare recv",
            Self::BarePausing => "bare recv, pausing",
            Self::Conntrack => "conntrack -E",
            Self::Ulogd => "ulogd2 JSON",
        }
    }

    /// Whether its program is there.
    pub(super) fn is_installed(self) -> bool {
        match self {
            Self::Flowlog | Self::FlowlogNoEbpf | Self::Bare | Self::BarePausing => true,
            Self::Conntrack => sh::find("conntrack").is_some(),
            Self::Ulogd => setup::has_ulogd(),
        }
    }

    /// Whether it is flowlog.
    pub(super) fn is_flowlog(self) -> bool {
        matches!(self, Self::Flowlog | Self::FlowlogNoEbpf)
    }

    /// How it is started on the events of `namespace`, to write into `output`.
    ///
    /// # Errors
    ///
    /// When its configuration cannot be written.
    pub(super) fn command(
        self,
        flowlog: &Path,
        load: &Load,
        namespace: &Namespace,
        output: &Path,
    ) -> Result<Command> {
        let load = || namespace.command(&load.path().to_string_lossy());
        let mut command;
        match self {
            Self::Flowlog | Self::FlowlogNoEbpf => {
                command = Command::new(flowlog);
                command.arg("run").arg("--output").arg(output).args(["--netns", &namespace.name]);
                if self == Self::FlowlogNoEbpf {
                    command.arg("--no-ebpf");
                }
            }
            Self::Bare => {
                command = load();
                command.args(["receive", "--buffer", RECEIVE_BUFFER_BYTES]);
            }
            Self::BarePausing => {
                command = load();
                command.args(["receive", "--buffer", RECEIVE_BUFFER_BYTES, "--pause", PAUSE_US]);
            }
            Self::Conntrack => {
                command = namespace.command("conntrack");
                // Release 1.4.7 sets it on the socket of its requests, not on the one of the events, which so keeps
                // the buffer of the system, whatever one asks for.
                command.args(["-E", "-e", "DESTROY", "-o", "timestamp,id", "-b", PEER_BUFFER_BYTES]);
            }
            Self::Ulogd => {
                fs::create_dir_all(output)?;
                let file = output.join("ulogd.conf");
                fs::write(&file, ulogd_configuration(output))
                    .with_context(|| format!("cannot write `{}`", file.display()))?;
                command = namespace.command("ulogd");
                command.arg("-c").arg(file);
            }
        }
        Ok(command)
    }

    /// What it has kept of what was `made`. `log` is its standard output.
    ///
    /// # Errors
    ///
    /// When that cannot be read.
    pub(super) fn kept(self, load: &Load, output: &Path, log: &Path, made: &Made) -> Result<Kept> {
        let of_lines = |file: PathBuf, word: &str| {
            let (flows, bytes) = lines_with(&file, word)?;
            anyhow::Ok(Kept { flows, bytes, is_exact: flows == made.count })
        };
        match self {
            Self::Flowlog | Self::FlowlogNoEbpf => {
                let rows = load.rows(output)?;
                let is_same = rows.count == made.count && rows.fingerprint == made.fingerprint;
                Ok(Kept { flows: rows.count, bytes: rows.bytes, is_exact: is_same && rows.gaps == 0 })
            }
            Self::Bare | Self::BarePausing => {
                let flows = Said::of(&fs::read_to_string(log)?)?.number("received")?;
                Ok(Kept { flows, bytes: 0, is_exact: flows == made.count })
            }
            Self::Conntrack => of_lines(log.to_owned(), "[DESTROY]"),
            Self::Ulogd => of_lines(output.join("ulogd.json"), "{"),
        }
    }
}

/// Events of ended flows only, without a table of its own, which is the cheapest that it can do, and with the
/// reliable delivery that flowlog has, without which it loses some.
fn ulogd_configuration(output: &Path) -> String {
    let output = output.display();
    format!(
        "[global]\n\
         logfile=\"{output}/ulogd.log\"\n\
         stack=ct1:NFCT,ip2str1:IP2STR,json1:JSON\n\
         [ct1]\n\
         hash_enable=0\n\
         event_mask=4\n\
         reliable=1\n\
         netlink_socket_buffer_size={PEER_BUFFER_BYTES}\n\
         netlink_socket_buffer_maxsize={PEER_BUFFER_BYTES}\n\
         [json1]\n\
         file=\"{output}/ulogd.json\"\n\
         sync=0\n"
    )
}

/// How many lines of a file have `word`, and their bytes.
fn lines_with(file: &Path, word: &str) -> Result<(u64, u64)> {
    let cannot_read = || format!("cannot read `{}`", file.display());
    let mut lines = BufReader::new(File::open(file).with_context(cannot_read)?);
    let mut line = String::new();
    let (mut count, mut bytes) = (0, 0);
    loop {
        line.clear();
        let read = lines.read_line(&mut line).with_context(cannot_read)?;
        if read == 0 {
            return Ok((count, bytes));
        }
        if line.contains(word) {
            count += 1;
            bytes += read as u64;
        }
    }
}
