//! `cargo xtask`: sets the machine up, builds, tests, measures and shows flowlog.

#![forbid(unsafe_code)]

mod background;
mod bench;
mod build;
mod debian;
mod demo;
mod dist;
mod ebpf_toolchain;
mod fuzz;
mod interrupt;
mod namespace;
mod python;
mod results;
mod setup;
mod sh;
mod table_limit;
mod test;
mod vm_test;
mod workspace;

use std::env;
use std::process::ExitCode;

use anyhow::Result;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup              install what is missing to build, test and show flowlog
  build [--release] [lake]
                     build flowlog with its eBPF programs; lake: flowlog-lake, which takes minutes
  demo               record real traffic in throw-away network namespaces, print the flows (needs root)
  test [--long]      formatting, lints, documentation, all tests (needs root); --long: also those that take
                     many minutes, and the fuzzer
  vm-test            the end-to-end tests on kernels of Debian, in virtual machines
  dist [--target x86_64|aarch64]... [--check]
                     make deb, rpm, tarball and container image in target/dist, by default for this machine
  fuzz [--seconds N] [TARGET...]
                     feed decoders and recovery with made-up bytes, 60 s each
  bench NAME         measure in throw-away network namespaces (needs root); without a name: what there is
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    table_limit::restore();
    let result = match arguments.as_slice() {
        [] | ["help" | "-h" | "--help"] => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        ["setup"] => success(setup::all()),
        ["build"] => success(build::run(build::Profile::Dev)),
        ["build", "--release"] => success(build::run(build::Profile::Release)),
        ["build", "lake"] => success(build::lake(build::Profile::Dev)),
        ["build", "--release", "lake"] => success(build::lake(build::Profile::Release)),
        ["demo"] => success(demo::run()),
        ["test"] => test::run(test::Length::Usual),
        ["test", "--long"] => test::run(test::Length::Long),
        ["vm-test", arguments @ ..] => vm_test::run(arguments),
        ["dist", arguments @ ..] => dist::run(arguments),
        ["fuzz", arguments @ ..] => fuzz::run(arguments),
        ["bench", arguments @ ..] => bench::run(arguments),
        _ => {
            eprint!("xtask: unknown command `{}`\n\n{USAGE}", arguments.join(" "));
            Ok(ExitCode::from(2))
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

fn success(result: Result<()>) -> Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}
