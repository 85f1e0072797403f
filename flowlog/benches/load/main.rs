//! Load for `cargo xtask bench`, and the least that a reader of it can do.
//!
//! It is a program of its own, since xtask cannot use the library: that needs what xtask installs.
//!
//! ```text
//! load make --count N --at-once N [--per-second N]   makes and removes entries of the network namespace
//! load receive --buffer BYTES [--pause US]           reads their events and does nothing with them
//! load rows DIR                                      what is in the files of an output directory
//! ```
//!
//! Each prints one line of JSON to its standard output at its end.

#![forbid(unsafe_code)]

#[path = "../mix/mod.rs"]
mod mix;

mod fingerprint;
mod make;
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
}

fn main() -> Result<()> {
    let result = match Arguments::parse() {
        Arguments::Make(make) => make.run()?,
        Arguments::Receive(receive) => receive.run()?,
        Arguments::Rows { output } => rows::read(&output)?,
    };
    println!("{result}");
    Ok(())
}
