//! Two programs that have many connections open at once.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

/// What else a program has open.
const OTHER_FILES: u64 = 64;

/// Arguments of `load accept`.
#[derive(clap::Args)]
pub(crate) struct Accept {
    /// Port to listen on
    #[arg(long)]
    port: u16,
    /// How many connections come
    #[arg(long)]
    count: u32,
}

/// Arguments of `load open`.
#[derive(clap::Args)]
pub(crate) struct Open {
    /// Port of loopback that the other program listens on
    #[arg(long)]
    port: u16,
    /// How many connections it opens: fewer than there are ephemeral ports
    #[arg(long)]
    count: u32,
}

impl Accept {
    /// Says that it listens, and then that it has accepted all.
    pub(crate) fn run(&self) -> Result<()> {
        allow_files(self.count)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).context("cannot listen")?;
        println!("{}", json!({ "listens": self.port }));
        let accepted: Vec<TcpStream> = (0..self.count)
            .map(|_| Ok(listener.accept()?.0))
            .collect::<Result<_>>()
            .context("cannot accept a connection")?;
        keep(&accepted, json!({ "accepted": accepted.len() }))
    }
}

impl Open {
    /// Says that it has opened all.
    pub(crate) fn run(&self) -> Result<()> {
        allow_files(self.count)?;
        let start = Instant::now();
        let connect = |_| TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        let opened: Vec<TcpStream> =
            (0..self.count).map(connect).collect::<Result<_, _>>().context("cannot open a connection")?;
        let seconds = start.elapsed().as_secs_f64();
        keep(&opened, json!({ "opened": opened.len(), "seconds": seconds }))
    }
}

fn allow_files(count: u32) -> Result<()> {
    let files = u64::from(count) + OTHER_FILES;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, files, files.max(most)).with_context(|| {
        format!("cannot have {files} files open, expected a limit (`ulimit -Hn`) of at least that")
    })
}

/// Keeps connections open until the program is killed.
fn keep(_open: &[TcpStream], said: serde_json::Value) -> ! {
    println!("{said}");
    loop {
        thread::park();
    }
}
