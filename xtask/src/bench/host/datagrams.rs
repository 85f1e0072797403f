//! UDP as a busy resolver has it: a socket for each question.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{Done, Setting, Traffic};
use crate::bench::figures::figure;
use crate::bench::load::Said;

/// For how long they send.
const DEFAULT_SECONDS: u32 = 15;

/// Each program has its own server.
const PORTS: [u16; 2] = [5301, 5302];

/// Two programs that are about to begin.
struct Senders<'a> {
    setting: Setting<'a>,
    /// They take what they can hold, and answer nothing: without them, the kernel would refuse the datagrams.
    _servers: Vec<UdpSocket>,
    senders: Vec<(u16, u32)>,
}

pub(super) fn start<'a>(setting: &Setting<'a>) -> Result<Box<dyn Traffic + 'a>> {
    let bind = |port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).context("cannot bind a UDP socket");
    let servers = setting.place.server.inside(|| PORTS.into_iter().map(bind).collect())?;
    Ok(Box::new(Senders { setting: setting.clone(), _servers: servers, senders: Vec::new() }))
}

impl Traffic for Senders<'_> {
    fn run(&mut self) -> Result<Done> {
        let load = self.setting.tools.load.path().to_string_lossy();
        let seconds = self.setting.seconds.unwrap_or(DEFAULT_SECONDS).to_string();
        let start = |port: u16| {
            let mut command = self.setting.place.server.command(&load);
            command.args(["datagrams", "--port", &port.to_string(), "--seconds", &seconds]);
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            Ok((port, command.spawn().context("cannot run `load datagrams`")?))
        };
        let running: Vec<(u16, Child)> = PORTS.into_iter().map(start).collect::<Result<_>>()?;
        let mut done = Done { count: 0.0, rate: 0.0 };
        for (port, child) in running {
            self.senders.push((port, child.id()));
            let output = child.wait_with_output().context("cannot wait for `load datagrams`")?;
            ensure!(output.status.success(), "`load datagrams` ended with {}", output.status);
            let said = Said::of(&String::from_utf8_lossy(&output.stdout))?;
            let sent = figure(said.number("sent")?);
            done.count += sent;
            done.rate += sent / said.figure("seconds")?;
        }
        Ok(done)
    }

    fn end(self: Box<Self>) -> Result<Vec<String>> {
        let argument = |(port, pid): &(u16, u32)| ["--src".to_owned(), format!("{port}:{pid}")];
        Ok(self.senders.iter().flat_map(argument).collect())
    }
}
