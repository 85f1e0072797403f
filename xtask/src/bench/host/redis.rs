//! redis and `redis-benchmark`, with a connection for each request, and with few that stay.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::place::SERVER;
use super::{Done, Setting, Traffic};
use crate::background::Background;

const PORT: u16 = 6379;

/// Requests with a connection each. The client closes first, so its ports wait in TIME_WAIT: with more than half of all
/// ephemeral ones, the kernel looks long for each of the others.
const DEFAULT_COUNT: u32 = 10_000;

/// Requests over connections that stay.
const DEFAULT_KEPT_ALIVE: u32 = 200_000;

const AT_ONCE: &str = "20";

const SERVER_LIMIT: Duration = Duration::from_secs(10);

struct Redis<'a> {
    setting: Setting<'a>,
    server: Background,
    count: u32,
    keeps_alive: bool,
    client: Option<u32>,
}

/// A connection for each request.
pub(super) fn short<'a>(setting: &Setting<'a>) -> Result<Box<dyn Traffic + 'a>> {
    start(setting, false, DEFAULT_COUNT)
}

/// Connections that stay.
pub(super) fn kept_alive<'a>(setting: &Setting<'a>) -> Result<Box<dyn Traffic + 'a>> {
    start(setting, true, DEFAULT_KEPT_ALIVE)
}

fn start<'a>(setting: &Setting<'a>, keeps_alive: bool, count: u32) -> Result<Box<dyn Traffic + 'a>> {
    let mut command = setting.place.server.command("redis-server");
    command.args(["--port", &PORT.to_string(), "--bind", SERVER, "--protected-mode", "no"]);
    command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.arg("--dir").arg(setting.directory);
    let mut server = Background::start(command, &setting.directory.join("redis"))?;
    setting.interrupt.wait_for("redis to listen", SERVER_LIMIT, || server.has_said("Ready to accept"))?;
    let count = setting.count.unwrap_or(count);
    Ok(Box::new(Redis { setting: setting.clone(), server, count, keeps_alive, client: None }))
}

impl Traffic for Redis<'_> {
    fn run(&mut self) -> Result<Done> {
        let mut command = self.setting.place.client.command("redis-benchmark");
        command.args(["-h", SERVER, "-p", &PORT.to_string(), "-c", AT_ONCE, "-n", &self.count.to_string()]);
        command.args(["-k", if self.keeps_alive { "1" } else { "0" }, "-t", "get", "--csv"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().context("cannot run `redis-benchmark`")?;
        self.client = Some(child.id());
        let output = child.wait_with_output().context("cannot wait for `redis-benchmark`")?;
        // It also warns of what does not matter here.
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`redis-benchmark` ended with {}:\n{errors}", output.status);
        let rate = rate(&String::from_utf8_lossy(&output.stdout))?;
        Ok(Done { count: self.count.into(), rate })
    }

    fn end(self: Box<Self>) -> Result<Vec<String>> {
        let mut witness = vec!["--dst".to_owned(), format!("{PORT}:{}", self.server.pid())];
        if let Some(client) = self.client {
            witness.extend(["--src".to_owned(), format!("{PORT}:{client}")]);
        }
        Ok(witness)
    }
}

/// The requests a second of GET.
fn rate(csv: &str) -> Result<f64> {
    let line = csv.lines().find_map(|line| line.strip_prefix("\"GET\",\""));
    let rate = line.and_then(|line| line.split('"').next()?.parse().ok());
    rate.with_context(|| format!("found no rate of GET in what `redis-benchmark` said:\n{csv}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_the_second_field() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\"\n\
                   \"GET\",\"60790.27\",\"0.169\",\"0.040\"\n";
        assert!((rate(csv).unwrap() - 60_790.27).abs() < 1e-6);
        assert!(rate("Could not connect to Redis at 10.79.0.1:6379: Connection refused\n").is_err());
    }
}
