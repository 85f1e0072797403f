//! The command line: its definition, and the small commands.

mod import;
mod progress;
mod verify;

use std::ffi::OsString;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use clap::{Parser, Subcommand, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

pub use self::import::{ImportArgs, import};
pub use self::verify::{VerifyArgs, verify};
use crate::commands::config::{self, Address, Config, ConfigError, Interval, Settings, Size};
use crate::commands::doctor::{self, Finding, Fixed, Level};
use crate::connections::ctnetlink::Delivery;
use crate::connections::timeouts::Timeouts;
use crate::host::namespace::Namespace;
use crate::log::schema::render;
use crate::log::writer::Directory;

/// Logs every finished connection that the kernel tracked, with its counters, NAT and local process,
/// to Parquet files.
#[derive(Debug, Parser)]
#[command(name = "flowlog", version, max_term_width = 100)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Log finished connections until SIGTERM; SIGHUP finishes the current file
    Run(RunArgs),
    /// Check what keeps flows, counters or processes out of the log
    Doctor(DoctorArgs),
    /// Check that the flow log is what was written, and all of it
    Verify(VerifyArgs),
    /// Make files of the flow log from saved lists and events of connection tracking
    Import(ImportArgs),
    /// Print the columns of the flow log
    Schema(SchemaArgs),
    /// List, change and watch connection tracking, as conntrack(8) does
    #[command(disable_help_flag = true)]
    Conntrack {
        /// The options of conntrack(8); `-h` explains them
        #[arg(value_name = "ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// Which connection tracking tables, and where the files go.
#[derive(Debug, clap::Args)]
pub struct Where {
    /// Directory of the flow log [default: /var/log/flowlog]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Watch this network namespace, by its name in `ip netns` or by path; may be repeated [default:
    /// the one that flowlog runs in]
    #[arg(long, value_name = "NAME|PATH")]
    netns: Vec<String>,

    /// Turn on accounting, timestamps and events, and add the nftables table `inet flowlog` where no
    /// rule tracks connections; says how to undo it. `run` keeps it so as long as it runs
    #[arg(long)]
    fix: bool,
}

/// Arguments of `flowlog run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The settings come from the file of --config, then from environment variables such as
FLOWLOG__ROTATE__INTERVAL=1h, then from these flags; later ones win. The file and the variables
have more of them: see flowlog/docs/configuration.md.")]
pub struct RunArgs {
    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    place: Where,

    /// Do not load the eBPF programs: flows are logged without processes
    #[arg(long)]
    no_ebpf: bool,

    /// What the kernel does with events that flowlog has no room for: `reliable` keeps them and sends
    /// them again, `best-effort` drops them [default: reliable]
    #[arg(long, value_name = "reliable|best-effort")]
    delivery: Option<Delivery>,

    /// Finish a file when it is this old, such as 90s, 15min or 1h [default: 15min]
    #[arg(long, value_name = "DUR")]
    rotate_interval: Option<Interval>,

    /// Finish a file when it has this many rows [default: 4000000]
    #[arg(long, value_name = "N")]
    rotate_rows: Option<NonZeroU64>,

    /// Finish a file when it has about this size, such as 64MiB [default: 128MiB]
    #[arg(long, value_name = "SIZE")]
    rotate_bytes: Option<Size>,

    /// Also record connections that go on, each time after this long, such as 5min [default: off]
    #[arg(long, value_name = "DUR")]
    active_interval: Option<Interval>,

    /// Serve metrics for Prometheus on this address, such as 127.0.0.1:9464 [default: off]
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<Address>,
}

/// Arguments of `flowlog doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    place: Where,

    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `flowlog schema`.
#[derive(Debug, clap::Args)]
pub struct SchemaArgs {
    /// How to print it
    #[arg(long, value_enum, default_value_t = SchemaFormat::Table)]
    format: SchemaFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SchemaFormat {
    /// For people
    Table,
    /// For programs
    Json,
    /// A CREATE TABLE statement
    Sql,
}

/// Diagnostics go to stderr, filtered by `FLOWLOG_LOG`.
pub fn log_to_stderr() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var("FLOWLOG_LOG")
        .from_env_lossy();
    let is_terminal = io::IsTerminal::is_terminal(&io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(is_terminal)
        .with_target(false)
        // It would panic where nobody reads stderr any more; the flows matter more.
        .log_internal_errors(false)
        .init();
}

/// Whether the reader of our output has gone, as `head` does: no failure of ours.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Gathers the settings, takes the output directory for this process, checks the namespaces, fixes them where
/// that is asked for, and makes the daemon's configuration.
///
/// # Errors
///
/// Where a setting cannot be used ([`config::ConfigError`]), without the rights that it takes, where a namespace
/// does not exist or cannot be fixed, and where the directory cannot be used.
pub fn prepare(args: RunArgs) -> Result<(Config, Directory)> {
    let fix = args.place.fix;
    let settings = settings(args)?;
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "flowlog run has to be root, to read connection tracking and load eBPF; run it with sudo or as a system service"
        );
    }
    settings.conflicts()?.into_iter().for_each(|what| warn!("{what}"));
    let namespaces = Namespace::open_all(settings.netns.as_deref().unwrap_or_default())?;
    let mut config = Config::new(settings, namespaces);
    config.keep |= fix;
    // Before the checks, whose packets are flows for the log of the one that has the directory.
    let directory = Directory::open(&config.output)?;
    check_min_free(&config)?;
    for namespace in &config.namespaces {
        let name = namespace.name().unwrap_or("own");
        if config.keep {
            let fixed = fix_namespace(namespace, |Fixed { done, undo }| {
                info!("{done} in the network namespace `{name}`; undo: {undo}");
            });
            match fixed {
                // While it runs, the same is a gap, and tried again.
                Err(error) if !fix => error!("cannot set right the network namespace `{name}`: {error:#}"),
                fixed => fixed?,
            }
        }
        // After the module is there.
        check_linger(&config, namespace)?;
        for finding in namespace.run(|| doctor::check_namespace(namespace.name()))? {
            // The daemon itself says what is missing that it watches, which is a problem, and ends without ctnetlink.
            if finding.level == Level::Warning {
                let Finding { check, found, advice, .. } = finding;
                let advice = advice.unwrap_or_default();
                warn!("{check} in the network namespace `{name}`: {found}; {advice}");
            }
        }
    }
    Ok((config, directory))
}

/// Where a file system is smaller than the space that has to stay free, each file would be deleted at once.
fn check_min_free(config: &Config) -> Result<()> {
    let Some(min_free_bytes) = config.retention.min_free_bytes else { return Ok(()) };
    let found = nix::sys::statvfs::statvfs(&config.output)
        .with_context(|| format!("cannot look at the file system of `{}`", config.output.display()))?;
    let bytes = found.blocks().saturating_mul(found.fragment_size());
    // Some file systems of networks do not tell their size.
    if bytes > 0 && min_free_bytes >= bytes {
        let [min_free, size] =
            [min_free_bytes, bytes].map(|bytes| ByteSize(bytes).display().iec().to_string());
        let output = config.output.display();
        return Err(ConfigError::Conflict(format!(
            "nothing would be kept: `retention.min_free` is {min_free}, and the file system of `output` (`{output}`) has \
             {size} in all"
        ))
        .into());
    }
    Ok(())
}

/// A socket that is forgotten before its flow ends gives it no process.
fn check_linger(config: &Config, namespace: &Namespace) -> Result<()> {
    let linger = Duration::from_nanos(config.sockets.linger_ns);
    let Some((sysctl, seconds)) = namespace.run(Timeouts::read)?.longest_after_close() else { return Ok(()) };
    if config.ebpf && linger < Duration::from_secs(seconds.into()) {
        warn!(
            "`attribution.linger` (default 10min) is {}, less than the {seconds} s of the sysctl {sysctl} in the network namespace `{}`: \
             flows that end later have no process",
            humantime::format_duration(linger),
            namespace.name().unwrap_or("own"),
        );
    }
    Ok(())
}

/// The settings of all sources; later ones win.
fn settings(args: RunArgs) -> Result<Settings, config::ConfigError> {
    let RunArgs {
        config,
        place: Where { output, netns, fix: _ },
        no_ebpf,
        delivery,
        rotate_interval,
        rotate_rows,
        rotate_bytes,
        active_interval,
        metrics,
    } = args;
    let file = config.map_or_else(|| Ok(Settings::default()), |path| Settings::from_file(&path))?;
    let environment = Settings::from_environment(std::env::vars_os())?;
    let flags = Settings {
        output,
        netns: (!netns.is_empty()).then_some(netns),
        ebpf: no_ebpf.then_some(false),
        delivery,
        active_interval,
        metrics,
        rotate: config::Rotate { interval: rotate_interval, rows: rotate_rows, bytes: rotate_bytes },
        ..Settings::default()
    };
    Ok(flags.or(environment).or(file))
}

/// Fixes what the checks find in a namespace, and tells of each change when it is made. The rules are
/// added where nothing else is seen to track.
fn fix_namespace(namespace: &Namespace, mut each: impl FnMut(Fixed) + Send) -> Result<()> {
    let enter = match namespace.name() {
        Some(path) if path.contains('/') => format!("nsenter --net={path} "),
        Some(name) => format!("ip netns exec {name} "),
        None => String::new(),
    };
    namespace.run(|| {
        let is_tracked = doctor::check_namespace(namespace.name())
            .iter()
            .all(|finding| !finding.check.starts_with("tracking") || finding.level == Level::Ok);
        doctor::fix(!is_tracked, |Fixed { done, undo }| each(Fixed { done, undo: format!("{enter}{undo}") }))
    })?
}

/// `flowlog doctor`: whether all is well.
///
/// # Errors
///
/// Where a check or a fix could not be made at all.
pub fn doctor(args: &DoctorArgs) -> Result<bool> {
    let DoctorArgs { place: Where { output, netns, fix }, json } = args;
    let output = output.as_deref().unwrap_or(Path::new(config::OUTPUT));
    let mut findings = doctor::check_host(output);
    let mut fixes = Vec::new();
    for namespace in Namespace::open_all(netns)? {
        let name = namespace.name().unwrap_or("own").to_owned();
        if *fix {
            let fixed = fix_namespace(&namespace, |fixed| fixes.push((name.clone(), fixed)));
            if fixed.is_err() {
                // What was done before it failed has to be known to be undone.
                write_fixes(&fixes)?;
            }
            fixed?;
        }
        let checked = namespace.run(|| {
            let mut checked = doctor::check_namespace(namespace.name());
            checked.push(doctor::check_table(&name, output));
            checked
        })?;
        findings.extend(checked.into_iter().map(|finding| Finding { netns: Some(name.clone()), ..finding }));
    }
    let well = findings.iter().all(|finding| finding.level != Level::Problem);

    let mut out = io::stdout();
    if *json {
        let fixes: Vec<_> = fixes
            .iter()
            .map(|(netns, Fixed { done, undo })| serde_json::json!({ "netns": netns, "done": done, "undo": undo }))
            .collect();
        let report = serde_json::json!({ "ok": well, "findings": findings, "fixes": fixes });
        writeln!(out, "{report:#}")?;
    } else {
        write_fixes(&fixes)?;
        writeln!(out, "{}", findings_table(&findings))?;
    }
    Ok(well)
}

fn write_fixes(fixes: &[(String, Fixed)]) -> io::Result<()> {
    let mut out = io::stdout();
    fixes.iter().try_for_each(|(netns, Fixed { done, undo })| {
        writeln!(out, "fixed in {netns}: {done}\n    undo: {undo}")
    })
}

/// An empty table that is to be as wide as the terminal.
fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    // A serial line does not tell its width, and would get columns of one letter.
    if table.width() == Some(0) {
        table.set_width(80);
    }
    table
}

fn findings_table(findings: &[Finding]) -> Table {
    let mut table = table();
    for Finding { check, netns, level, found, advice } in findings {
        let level = match level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        let check = match netns {
            Some(netns) => format!("{check} ({netns})"),
            None => (*check).to_owned(),
        };
        let found = match advice {
            Some(advice) => format!("{found}\n-> {advice}"),
            None => found.clone(),
        };
        table.add_row([level, &check, &found]);
    }
    table
}

/// `flowlog schema`.
///
/// # Errors
///
/// Where it cannot be written to stdout.
pub fn schema(args: &SchemaArgs) -> Result<()> {
    let text = match args.format {
        SchemaFormat::Table => render::table(),
        SchemaFormat::Json => render::json().context("cannot render the schema")?,
        SchemaFormat::Sql => render::sql(),
    };
    writeln!(io::stdout().lock(), "{}", text.trim_end())?;
    Ok(())
}
