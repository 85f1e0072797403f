//! Connections that are open all at once, both ends on the host.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Done, Setting, Traffic};
use crate::background::Background;
use crate::bench::figures::figure;
use crate::bench::load::Said;

const PORT: u16 = 9000;

const DEFAULT_COUNT: u32 = 500_000;

const LIMIT: Duration = Duration::from_secs(300);

struct Open<'a> {
    setting: Setting<'a>,
    server: Background,
    client: Option<Background>,
    count: u32,
}

pub(super) fn start<'a>(setting: &Setting<'a>) -> Result<Box<dyn Traffic + 'a>> {
    let count = setting.count.unwrap_or(DEFAULT_COUNT);
    let mut server = program(setting, "accept", count)?;
    setting.interrupt.wait_for("a server to listen", LIMIT, || server.has_said("listens"))?;
    Ok(Box::new(Open { setting: setting.clone(), server, client: None, count }))
}

/// One of the two programs.
fn program(setting: &Setting<'_>, what: &str, count: u32) -> Result<Background> {
    let mut command = setting.place.server.command(&setting.tools.load.path().to_string_lossy());
    command.args([what, "--port", &PORT.to_string(), "--count", &count.to_string()]);
    Background::start(command, &said_by(setting, what))
}

fn said_by(setting: &Setting<'_>, what: &str) -> PathBuf {
    setting.directory.join(what)
}

impl Traffic for Open<'_> {
    fn run(&mut self) -> Result<Done> {
        let client = self.client.insert(program(&self.setting, "open", self.count)?);
        self.setting.interrupt.wait_for("connections to be open", LIMIT, || {
            Ok(self.server.has_said("accepted")? && client.has_said("opened")?)
        })?;
        let file = said_by(&self.setting, "open");
        let said = fs::read_to_string(&file).with_context(|| format!("cannot read `{}`", file.display()))?;
        let said = Said::of(&said)?;
        let opened = figure(said.number("opened")?);
        Ok(Done { count: opened, rate: opened / said.figure("seconds")? })
    }

    fn end(self: Box<Self>) -> Result<Vec<String>> {
        let mut witness = vec!["--dst".to_owned(), format!("{PORT}:{}", self.server.pid())];
        if let Some(client) = &self.client {
            witness.extend(["--src".to_owned(), format!("{PORT}:{}", client.pid())]);
        }
        // Whoever is dropped is killed, and all its connections are closed.
        Ok(witness)
    }
}
