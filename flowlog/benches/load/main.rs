//! Load for `cargo xtask bench`, and the least that a reader of it can do.
//!
//! It is a program of its own, since xtask cannot use the library: that needs what xtask installs.
//!
//! ```text
//! load make --count N --at-once N [--per-second N]   makes and removes entries of the network namespace
//! load receive --buffer BYTES [--pause US]           reads their events and does nothing with them
//! load rows DIR                                      what is in the files of an output directory
//! load processes DIR [--log FILE] [--src PORT:PID]... [--dst PORT:PID]...
//!                                                    which rows know their processes, and which are wrong
//! load datagrams --port N --seconds N                sockets that send one datagram each
//! load accept --port N --count N                     accepts connections and keeps them open, until it is killed
//! load open --port N --count N                       opens them, likewise
//! ```
//!
//! Each prints one line of JSON to its standard output when it is done.

#![forbid(unsafe_code)]

#[path = "../mix/mod.rs"]
mod mix;

mod datagrams;
mod fingerprint;
mod hold;
mod make;
mod processes;
mod receive;
mod rows;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Load for `cargo xtask bench`.
#[derive(Parser)]
enum Arguments {
    /// Make entries in this network namespace and remove them, which the kernel tells to all that listen
    Make(make::Make),
    /// Receive the events and throw them away, until SIGTERM
    Receive(receive::Receive),
    /// Count the rows of an output directory
    Rows {
        /// Output directory of `flowlog run`
        output: PathBuf,
    },
    /// Hold the processes in the rows of an output directory against what is known of them
    Processes(processes::Processes),
    /// Send one datagram from each of as many sockets as the time allows
    Datagrams(datagrams::Datagrams),
    /// Accept connections, and keep them open
    Accept(hold::Accept),
    /// Open connections, and keep them open
    Open(hold::Open),
}

fn main() -> Result<()> {
    let result = match Arguments::parse() {
        Arguments::Make(make) => make.run()?,
        Arguments::Receive(receive) => receive.run()?,
        Arguments::Rows { output } => rows::read(&output)?,
        Arguments::Processes(processes) => processes.run()?,
        Arguments::Datagrams(datagrams) => datagrams.run()?,
        Arguments::Accept(accept) => return accept.run(),
        Arguments::Open(open) => return open.run(),
    };
    println!("{result}");
    Ok(())
}
