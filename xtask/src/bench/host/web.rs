//! nginx and `ab`: a connection for each request.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::place::SERVER;
use super::{Done, Setting, Traffic};
use crate::background::Background;
use crate::interrupt::Interrupt;
use crate::namespace::Namespace;

/// The first port that nginx listens on.
const FIRST_PORT: u16 = 8000;

/// Connections of the measurement of the rate: as many as one address has ports for, so that a start and an end weigh
/// little.
const DEFAULT_COUNT: u32 = 20_000;

/// Ports of the measurement with many sockets: one alone has too few ephemeral ones.
const PORTS: u32 = 24;

/// Connections to one port at most: there are 28 232 ephemeral ones.
const MOST_OF_PORT: u32 = 25_000;

/// Connections of the measurement with many sockets. A busy host has five times as many in two minutes.
const DEFAULT_MANY: u32 = 120_000;

/// How many connections `ab` has open at a time.
const AT_ONCE: &str = "20";

const NGINX_LIMIT: Duration = Duration::from_secs(10);

/// nginx with one worker, and `ab` runs that follow one another.
pub(super) struct Web<'a> {
    nginx: Background,
    log: PathBuf,
    client: &'a Namespace,
    address: &'static str,
    ports: Vec<u16>,
    /// Of each run.
    count: u32,
    interrupt: &'a Interrupt,
    /// The process of each run.
    clients: Vec<u32>,
}

/// One port, from the other namespace.
pub(super) fn rate<'a>(setting: &Setting<'a>) -> Result<Box<dyn Traffic + 'a>> {
    let count = setting.count.unwrap_or(DEFAULT_COUNT);
    start(setting, &setting.place.client, SERVER, 1, count)
}

/// Many ports, over loopback: both ends are on the host.
pub(super) fn many<'a>(setting: &Setting<'a>) -> Result<Box<dyn Traffic + 'a>> {
    let count = setting.count.unwrap_or(DEFAULT_MANY);
    let ports = count.div_ceil(MOST_OF_PORT).max(PORTS);
    start(setting, &setting.place.server, "127.0.0.1", u16::try_from(ports)?, count.div_ceil(ports))
}

fn start<'a>(
    setting: &Setting<'a>,
    client: &'a Namespace,
    address: &'static str,
    ports: u16,
    count: u32,
) -> Result<Box<dyn Traffic + 'a>> {
    let directory = setting.directory.join("nginx");
    fs::create_dir_all(&directory)?;
    let ports: Vec<u16> = (FIRST_PORT..FIRST_PORT + ports).collect();
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration(&directory.display().to_string(), &ports))
        .with_context(|| format!("cannot write `{}`", file.display()))?;
    let mut command = setting.place.server.command("nginx");
    command.arg("-p").arg(&directory).arg("-c").arg(&file);
    let mut nginx = Background::start(command, &directory.join("said"))?;
    let log = directory.join("access.log");
    let worker = directory.join("nginx.pid");
    setting.interrupt.wait_for("nginx to listen", NGINX_LIMIT, || {
        nginx.has_said("")?;
        Ok(worker.exists())
    })?;
    Ok(Box::new(Web {
        nginx,
        log,
        client,
        address,
        ports,
        count,
        interrupt: setting.interrupt,
        clients: vec![],
    }))
}

/// The least that answers, and a log that tells which process served which connection.
fn configuration(directory: &str, ports: &[u16]) -> String {
    let listen: String = ports.iter().map(|port| format!("listen {port} backlog=4096; ")).collect();
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {directory}/{name}; "))
        .concat();
    format!(
        "daemon off; user root; worker_processes 1; pid {directory}/nginx.pid;\n\
         error_log {directory}/error.log;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n\
         log_format witness '$pid $remote_port $server_port';\n\
         access_log {directory}/access.log witness buffer=64k;\n\
         {paths}\n\
         server {{ {listen} location / {{ return 200 'what is asked for\\n'; }} }}\n\
         }}\n"
    )
}

impl Traffic for Web<'_> {
    fn run(&mut self) -> Result<Done> {
        let (mut done, mut seconds) = (0, 0.0);
        for port in &self.ports {
            ensure!(!self.interrupt.is_set(), "interrupted");
            let mut ab = self.client.command("ab");
            ab.args(["-q", "-n", &self.count.to_string(), "-c", AT_ONCE]);
            ab.arg(format!("http://{}:{port}/", self.address));
            let ab = ab.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let ab = ab.spawn().context("cannot run `ab`")?;
            self.clients.push(ab.id());
            let output = ab.wait_with_output().context("cannot wait for `ab`")?;
            let said = String::from_utf8_lossy(&output.stdout);
            ensure!(
                output.status.success(),
                "`ab` ended with {}:\n{said}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
            let said = Said::of(&said)?;
            done += said.complete;
            seconds += said.seconds;
        }
        Ok(Done { count: f64::from(done), rate: f64::from(done) / seconds })
    }

    fn end(mut self: Box<Self>) -> Result<Vec<String>> {
        self.nginx.terminate()?;
        self.interrupt.wait_for("nginx to write its log", NGINX_LIMIT, || self.nginx.has_succeeded())?;
        let mut witness = vec!["--log".to_owned(), self.log.display().to_string()];
        for (port, pid) in self.ports.iter().zip(&self.clients) {
            witness.extend(["--src".to_owned(), format!("{port}:{pid}")]);
        }
        Ok(witness)
    }
}

impl Drop for Web<'_> {
    fn drop(&mut self) {
        // Killed, it would leave its worker behind. It has ended already, unless something failed or a signal came.
        if self.nginx.terminate().is_ok() {
            let start = Instant::now();
            while start.elapsed() < NGINX_LIMIT
                && self.nginx.has_succeeded().is_ok_and(|has_ended| !has_ended)
            {
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// What `ab` says.
#[derive(Debug, PartialEq)]
struct Said {
    complete: u32,
    seconds: f64,
}

impl Said {
    fn of(output: &str) -> Result<Self> {
        let word = |name: &str| {
            let line = output.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.with_context(|| format!("found no `{name}` in what `ab` said:\n{output}"))
        };
        let failed: u32 = word("Failed requests:")?.parse()?;
        ensure!(failed == 0, "{failed} requests of `ab` failed:\n{output}");
        let complete = word("Complete requests:")?.parse()?;
        Ok(Self { complete, seconds: word("Time taken for tests:")?.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ab_says_is_understood() {
        let output = "Concurrency Level:      20\n\
                      Time taken for tests:   1.686 seconds\n\
                      Complete requests:      10000\n\
                      Failed requests:        0\n\
                      Requests per second:    5931.21 [#/sec] (mean)\n";
        assert_eq!(Said::of(output).unwrap(), Said { complete: 10_000, seconds: 1.686 });
        let failed = output.replace("requests:        0", "requests:        3");
        assert!(Said::of(&failed).unwrap_err().to_string().starts_with("3 requests of `ab` failed"));
        assert!(Said::of("apr_socket_recv: Connection reset by peer\n").is_err());
    }

    #[test]
    fn nginx_listens_on_each_port() {
        let configuration = configuration("/tmp/n", &[8000, 8001]);
        assert!(configuration.contains("listen 8000 backlog=4096; listen 8001 backlog=4096; "));
        assert!(configuration.contains("access_log /tmp/n/access.log witness"));
    }
}
