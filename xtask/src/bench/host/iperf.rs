//! iperf3: one connection with as much as goes through it, in segments that the kernel merges (GRO, GSO).

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::place::SERVER;
use super::{Done, Setting, Traffic};
use crate::background::Background;
use crate::bench::load::Said;

const PORT: u16 = 5201;

const DEFAULT_SECONDS: u32 = 5;

const SERVER_LIMIT: Duration = Duration::from_secs(10);

struct Iperf<'a> {
    setting: Setting<'a>,
    server: Background,
    client: Option<u32>,
}

pub(super) fn start<'a>(setting: &Setting<'a>) -> Result<Box<dyn Traffic + 'a>> {
    let mut command = setting.place.server.command("iperf3");
    command.args(["--server", "--forceflush", "--port", &PORT.to_string()]);
    let mut server = Background::start(command, &setting.directory.join("iperf3"))?;
    setting.interrupt.wait_for("iperf3 to listen", SERVER_LIMIT, || server.has_said("Server listening"))?;
    Ok(Box::new(Iperf { setting: setting.clone(), server, client: None }))
}

impl Traffic for Iperf<'_> {
    fn run(&mut self) -> Result<Done> {
        let seconds = self.setting.seconds.unwrap_or(DEFAULT_SECONDS).to_string();
        let mut command = self.setting.place.client.command("iperf3");
        command.args(["--client", SERVER, "--port", &PORT.to_string(), "--time", &seconds, "--json"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let child = child.context("cannot run `iperf3`")?;
        self.client = Some(child.id());
        let output = child.wait_with_output().context("cannot wait for `iperf3`")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "`iperf3` ended with {}:\n{said}", output.status);
        done(&said)
    }

    fn end(self: Box<Self>) -> Result<Vec<String>> {
        let mut witness = vec!["--dst".to_owned(), format!("{PORT}:{}", self.server.pid())];
        if let Some(client) = self.client {
            witness.extend(["--src".to_owned(), format!("{PORT}:{client}")]);
        }
        Ok(witness)
    }
}

/// Megabytes that were received.
fn done(json: &str) -> Result<Done> {
    let received = Said::of(json)?.object("end")?.object("sum_received")?;
    let megabytes = received.figure("bytes")? / 1e6;
    Ok(Done { count: megabytes, rate: megabytes / received.figure("seconds")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_received_counts() {
        let json = r#"{"start": {}, "end": {"sum_sent": {"seconds": 5.0, "bytes": 9000000},
            "sum_received": {"start": 0, "seconds": 4.0, "bytes": 8000000, "bits_per_second": 16000000}}}"#;
        let done = done(json).unwrap();
        assert!((done.count - 8.0).abs() < 1e-9 && (done.rate - 2.0).abs() < 1e-9);
        assert!(self::done(r#"{"error": "unable to connect to server"}"#).is_err());
    }
}
