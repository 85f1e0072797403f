//! Connections that are open all at once, both ends on the host.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Done, Setting, Traffic};
use crate::background::Background;
use crate::bench::figures::figure;
use crate::bench::load::Said;

const FIRST_PORT: u16 = 9000;

/// As many as one program opens to one port: fewer than files that a process may have open almost everywhere, and than
/// half of the ephemeral ports, the other half of which the kernel looks for long.
const EACH: u32 = 12_500;

const DEFAULT_COUNT: u32 = 500_000;

const LIMIT: Duration = Duration::from_secs(300);

/// Pairs of programs.
struct Open<'a> {
    setting: Setting<'a>,
    servers: Vec<Program>,
    clients: Vec<Program>,
}

/// One of a pair.
struct Program {
    process: Background,
    port: u16,
    said: PathBuf,
}

pub(super) fn start<'a>(setting: &Setting<'a>) -> Result<Box<dyn Traffic + 'a>> {
    let pairs = u16::try_from(setting.count.unwrap_or(DEFAULT_COUNT).div_ceil(EACH))?;
    let ports = FIRST_PORT..FIRST_PORT.checked_add(pairs).context("there are not so many ports")?;
    let mut servers: Vec<Program> =
        ports.map(|port| Program::start(setting, "accept", port)).collect::<Result<_>>()?;
    setting.interrupt.wait_for("servers to listen", LIMIT, || all_said(&mut servers, "listens"))?;
    Ok(Box::new(Open { setting: setting.clone(), servers, clients: Vec::new() }))
}

impl Program {
    fn start(setting: &Setting<'_>, what: &str, port: u16) -> Result<Self> {
        let mut command = setting.place.server.command(&setting.tools.load.path().to_string_lossy());
        command.args([what, "--port", &port.to_string(), "--count", &EACH.to_string()]);
        let said = setting.directory.join(format!("{what}-{port}"));
        Ok(Self { process: Background::start(command, &said)?, port, said })
    }

    /// As arguments of `load processes`.
    fn witness(&self, end: &str) -> [String; 2] {
        [end.to_owned(), format!("{}:{}", self.port, self.process.pid())]
    }
}

fn all_said(programs: &mut [Program], word: &str) -> Result<bool> {
    for program in programs {
        if !program.process.has_said(word)? {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Traffic for Open<'_> {
    fn run(&mut self) -> Result<Done> {
        let mut done = Done { count: 0.0, rate: 0.0 };
        let mut seconds = 0.0;
        // One after the other: so many processes at once would only wait for one another.
        for server in &mut self.servers {
            let mut client = Program::start(&self.setting, "open", server.port)?;
            self.setting.interrupt.wait_for("connections to be open", LIMIT, || {
                Ok(server.process.has_said("accepted")? && client.process.has_said("opened")?)
            })?;
            let said = fs::read_to_string(&client.said)
                .with_context(|| format!("cannot read `{}`", client.said.display()))?;
            let said = Said::of(&said)?;
            done.count += figure(said.number("opened")?);
            seconds += said.figure("seconds")?;
            self.clients.push(client);
        }
        done.rate = done.count / seconds;
        Ok(done)
    }

    fn end(self: Box<Self>) -> Result<Vec<String>> {
        let servers = self.servers.iter().map(|program| program.witness("--dst"));
        let clients = self.clients.iter().map(|program| program.witness("--src"));
        // Whoever is dropped is killed, and all its connections are closed.
        Ok(servers.chain(clients).flatten().collect())
    }
}
