//! The traffic of the demo: HTTP, DNS and ping, over IPv4 and IPv6, straight and through NAT; from a
//! container, from a process that is gone at once, and to a server with workers.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::container::Container;
use super::network::{Network, ROUTER, SERVER};
use crate::background::Background;
use crate::interrupt::Interrupt;
use crate::sh;

/// A server that answers every question with an error, and a client that asks it.
const DNS: &str = include_str!("dns.py");

/// A server with workers.
const WORKERS: &str = include_str!("workers.py");

/// Where it listens.
const WORKERS_PORT: &str = "81";

/// A client of it that lives for a few milliseconds: only bash itself runs.
const BRIEF: &str = "exec 3<>\"/dev/tcp/$0/$1\" && echo >&3 && read -r <&3";

/// What is fetched: enough for several packets.
const FILE_BYTES: usize = 100_000;

/// Arguments of every curl; the URL follows.
const CURL: [&str; 10] = [
    "--silent",
    "--show-error",
    "--fail",
    "--globoff",
    "--noproxy",
    "*",
    "--max-time",
    "5",
    "--output",
    "/dev/null",
];

/// How long the servers may take to listen.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);

/// Starts the servers, makes all connections and stops the servers. Logs and what is served go
/// below `directory`.
///
/// # Errors
///
/// When anything is not answered, and when a signal came.
pub(super) fn make(network: &Network, directory: &Path, interrupt: &Interrupt) -> Result<()> {
    let Network { client, router: _, server } = network;
    let served = directory.join("served");
    fs::create_dir_all(&served)
        .and_then(|()| fs::write(served.join("file"), vec![b'.'; FILE_BYTES]))
        .with_context(|| format!("cannot write `{}`", served.display()))?;

    // With `::` both take IPv4 too.
    let mut http = server.command("python3");
    http.args(["-m", "http.server", "80", "--bind", "::", "--directory"]).arg(&served);
    let mut dns = server.command("python3");
    dns.args(["-c", DNS, "serve", "::"]);
    let mut workers = server.command("python3");
    workers.args(["-c", WORKERS, "::", WORKERS_PORT]);
    let _servers = [
        Background::start(http, &directory.join("http-server.log"))?,
        Background::start(dns, &directory.join("dns-server.log"))?,
        Background::start(workers, &directory.join("workers.log"))?,
    ];
    interrupt.wait_for("the servers to listen", LISTEN_LIMIT, || {
        let sockets = sh::output(server.command("ss").args(["-Hltun"]))?;
        Ok([":80 ", ":53 ", ":81 "].iter().all(|port| sockets.contains(port)))
    })?;

    let urls = [
        format!("http://{}/file", SERVER.0),
        format!("http://[{}]/file", SERVER.1),
        format!("http://{}:8080/file", ROUTER.0),
        format!("http://[{}]:8080/file", ROUTER.1),
    ];
    for url in &urls {
        let mut curl = client.command("curl");
        exchange(curl.args(CURL).arg(url), &format!("curl {url}"), interrupt)?;
    }
    let container = Container::new()?;
    if let Some(url) = urls.first() {
        let mut curl = client.command("curl");
        let mut curl = container.contain(curl.args(CURL).arg(url));
        exchange(&mut curl, &format!("curl {url}, in a container"), interrupt)?;
    }
    for _ in 0..2 {
        let mut bash = client.command("bash");
        bash.args(["-c", BRIEF, SERVER.0, WORKERS_PORT]);
        exchange(&mut bash, &format!("a question of bash to {}:{WORKERS_PORT}", SERVER.0), interrupt)?;
    }
    for address in [SERVER.0, SERVER.1] {
        let mut ask = client.command("python3");
        exchange(ask.args(["-c", DNS, "ask", address]), &format!("DNS question to {address}"), interrupt)?;
        let mut ping = client.command("ping");
        exchange(ping.args(["-c2", "-i0.2", "-W2", address]), &format!("ping {address}"), interrupt)?;
    }
    Ok(())
}

fn exchange(command: &mut Command, name: &str, interrupt: &Interrupt) -> Result<()> {
    ensure!(!interrupt.is_set(), "interrupted");
    println!("{name}");
    sh::output(command)?;
    Ok(())
}
