//! `flowlog run`: its arguments, what has to be well before it begins, and its start.

use std::io::ErrorKind::NotFound;
use std::num::NonZeroU64;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use bytesize::ByteSize;
use caps::{CapSet, Capability};
use tracing::{error, info, warn};

use crate::commands::arguments::Where;
use crate::commands::config::{self, Address, Config, ConfigError, Interval, Settings, Size};
use crate::commands::daemon;
use crate::commands::doctor::{self, Finding, Fixed, Level, fix_namespace};
use crate::connections::ctnetlink::Delivery;
use crate::host::namespace::{Namespace, Wanted};
use crate::log::writer::Directory;

/// Settings are read from here, if it exists and no other file is given.
const DEFAULT_CONFIG: &str = "/etc/flowlog/flowlog.toml";

/// Arguments of `flowlog run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The settings come from a file (--config), then from environment variables such as
FLOWLOG__ROTATE__INTERVAL=1h, then from these flags; later ones win. Some settings have no flag:
see flowlog/docs/configuration.md.")]
pub struct RunArgs {
    /// Read settings from this TOML file [default: /etc/flowlog/flowlog.toml, if it exists]
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

    /// Finish a file when it reaches this many rows [default: 4000000]
    #[arg(long, value_name = "N")]
    rotate_rows: Option<NonZeroU64>,

    /// Finish a file when it reaches about this size, such as 64MiB [default: 128MiB]
    #[arg(long, value_name = "SIZE")]
    rotate_bytes: Option<Size>,

    /// Also record connections that are still open, once per interval, such as 5min [default: off]
    #[arg(long, value_name = "DUR")]
    active_interval: Option<Interval>,

    /// Serve metrics for Prometheus on this address, such as 127.0.0.1:9464 [default: off]
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<Address>,
}

/// `flowlog run`, until it is told to stop.
///
/// # Errors
///
/// Where it cannot begin, and where it cannot go on.
pub fn run(args: RunArgs) -> Result<()> {
    // Before anything is opened in place of what a service manager hands over.
    let kept = daemon::Kept::of_environment();
    let (config, directory) = prepare(args)?;
    daemon::run(config, directory, kept)
}

/// Gathers the settings, takes the output directory for this process, checks the namespaces, fixes them where
/// that is asked for, and makes the daemon's configuration.
///
/// # Errors
///
/// Where a setting cannot be used ([`config::ConfigError`]), without the rights that it takes, where a namespace
/// does not exist or cannot be fixed, and where the directory cannot be used.
fn prepare(args: RunArgs) -> Result<(Config, Directory)> {
    let fix = args.place.fix;
    let settings = settings(args)?;
    check_rights()?;
    settings.conflicts()?.into_iter().for_each(|what| warn!("{what}"));
    let wanted = Wanted::new(settings.netns.as_deref().unwrap_or_default())?;
    let namespaces = wanted.open()?;
    let mut config = Config::new(settings, wanted, namespaces);
    config.keep |= fix;
    // Before the checks, whose packets are flows for the log of the one that has the directory.
    let directory = Directory::open(&config.output)?;
    check_min_free(&config)?;
    // Of a pattern there may be hundreds: what they lack, the daemon says.
    let is_checked = |namespace: &&Namespace| namespace.name().is_none_or(|name| config.wanted.names(name));
    for namespace in config.namespaces.iter().filter(is_checked) {
        let name = namespace.label();
        if config.keep {
            let fixed = fix_namespace(namespace, |Fixed { done, undo }| {
                info!("in the network namespace `{name}`: {done}; to undo: {undo}");
            });
            match fixed {
                // While it runs, the same is a gap, and tried again.
                Err(error) if !fix => error!(
                    "flows of the network namespace `{name}` stay incomplete or missing, flowlog keeps trying: {error:#}"
                ),
                fixed => fixed?,
            }
        }
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

/// Whether this process has what it takes to record any flow. What else is missing is said where it is needed: without it,
/// processes or namespaces are missing, not flows.
fn check_rights() -> Result<()> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN)
        .context("cannot read the capabilities of this process; mount /proc")?
    {
        bail!(
            "flowlog run found no CAP_NET_ADMIN, without which it cannot read connection tracking; run it with sudo, or as \
             a system service with the capabilities that `flowlog doctor` names"
        );
    }
    Ok(())
}

/// Where a file system is smaller than the space that has to stay free, each file would be deleted at once.
fn check_min_free(config: &Config) -> Result<()> {
    let Some(min_free_bytes) = config.retention.min_free_bytes else { return Ok(()) };
    let found = nix::sys::statvfs::statvfs(&config.output).with_context(|| {
        format!("cannot read the size of the file system of `{}`", config.output.display())
    })?;
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
    // One that cannot be read is an error, not missing: it may say what is not to be recorded.
    let is_missing =
        || std::fs::symlink_metadata(DEFAULT_CONFIG).is_err_and(|error| error.kind() == NotFound);
    let default = || (!is_missing()).then(|| PathBuf::from(DEFAULT_CONFIG));
    let file = match config.or_else(default) {
        Some(path) => Settings::from_file(&path)?,
        None => Settings::default(),
    };
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
