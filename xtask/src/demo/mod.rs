//! `cargo xtask demo`: real traffic through a router with NAT, recorded by real daemons.
//!
//! A client, a router and a server are network namespaces. A daemon watches each of them, so that
//! one connection is seen from three sides: with the local process at its ends, and with both
//! addresses of the NAT in the middle. Whatever happens, the namespaces and processes are gone
//! afterwards; the recorded files stay.

mod container;
mod network;
mod report;
mod traffic;

use std::fs;
use std::path::Path;
use std::process::{self, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use self::network::Network;
use crate::background::Background;
use crate::interrupt::Interrupt;
use crate::namespace::Namespace;
use crate::{build, setup, workspace};

/// How long a daemon may take to load its programs and subscribe.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// How long a daemon may take to write and publish its files after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Runs the demo.
///
/// # Errors
///
/// When something is missing that cannot be installed, when any part of the demo fails, and when it
/// is interrupted.
pub(crate) fn run() -> Result<()> {
    ensure!(
        workspace::is_root(),
        "the demo makes network namespaces and loads eBPF programs: run it as root"
    );
    build::run(build::Profile::Dev)?;
    setup::for_traffic()?;

    let directory = workspace::target_dir().join("demo").join(process::id().to_string());
    let interrupt = Interrupt::catch()?;
    let recorded = record(&directory, &interrupt);
    // The same signal may have ended the program that was running: its failure is not the cause.
    if interrupt.is_set() {
        return Err(anyhow!("interrupted"));
    }
    let observers = recorded?;
    report::print(&directory, &observers)
}

/// Records the traffic, below `directory`. Returns the names of the observers.
fn record(directory: &Path, interrupt: &Interrupt) -> Result<Vec<&'static str>> {
    println!("== network: client - router with NAT - server");
    let network = Network::new()?;
    let observed = [&network.client, &network.router, &network.server];

    println!("== daemons");
    let mut daemons = Vec::new();
    for namespace in observed {
        daemons.push(start_daemon(directory, namespace)?);
    }
    for daemon in &mut daemons {
        interrupt.wait_for("a daemon to be ready", READY_LIMIT, || daemon.has_said("ready"))?;
    }
    for namespace in observed {
        network::shorten_conntrack_timeouts(namespace)?;
    }

    println!("== traffic");
    traffic::make(&network, directory, interrupt)?;
    for namespace in observed {
        network::empty_conntrack(namespace, interrupt)?;
    }

    println!("== stopping the daemons");
    for daemon in &mut daemons {
        daemon.terminate()?;
    }
    for daemon in &mut daemons {
        interrupt
            .wait_for("a daemon to publish its files and exit", STOP_LIMIT, || daemon.has_succeeded())?;
    }
    Ok(observed.map(|namespace| namespace.role).to_vec())
}

fn start_daemon(directory: &Path, namespace: &Namespace) -> Result<Background> {
    let output = directory.join(namespace.role);
    fs::create_dir_all(&output).with_context(|| format!("cannot make `{}`", output.display()))?;
    let mut command = Command::new(workspace::flowlog(build::Profile::Dev));
    command.arg("run").arg("--output").arg(&output).args(["--netns", &namespace.name]);
    command.args(["--fix", "--rotate-interval", "1h"]);
    Background::start(command, &directory.join(format!("{}.log", namespace.role)))
}
