//! Settings that another one makes void: what nobody can have meant is an error, what may be meant is said.

use std::fmt::Display;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;

use super::{
    ACTIVE_LISTS, Conditions, ConfigError, Filter, Interval, SHORTEST_LISTS, Settings, Size, active_lists,
};
use crate::connections::ctnetlink::Delivery;
use crate::connections::filter::Mark;
use crate::flow::Protocol;
use crate::log::wal::WalSync;
use crate::log::writer::Rotation;

/// Rows are handed on to files at least this often.
const BATCH: Duration = Duration::from_secs(1);

/// Rows of another hour are in another file.
const HOUR: Duration = Duration::from_secs(3600);

/// A file is not finished by its size before it has a thousand rows.
const SMALLEST_FILE_BYTES: u64 = 64 << 10;

impl Settings {
    /// Says which settings have no effect, because of which others.
    ///
    /// # Errors
    ///
    /// Where nothing would be recorded, or kept.
    pub fn conflicts(&self) -> Result<Vec<String>, ConfigError> {
        if let Some(what) = leaves_nothing(&self.filter) {
            return Err(ConfigError::Conflict(what));
        }
        let said = [
            self.without_ebpf(),
            self.with_best_effort(),
            self.of_rotation(),
            self.of_retention(),
            self.of_lists(),
        ];
        Ok(said.into_iter().flatten().collect())
    }

    fn without_ebpf(&self) -> Vec<String> {
        let Self { ebpf, attribution, process, .. } = self;
        if *ebpf != Some(false) {
            return Vec::new();
        }
        let set = [
            ("attribution.ring_buffer", attribution.ring_buffer.is_some()),
            ("attribution.memory", attribution.memory.is_some()),
            ("process.cmdline", process.cmdline.is_some()),
        ];
        let set = set.into_iter().filter(|(_, is_set)| *is_set);
        set.map(|(key, _)| format!("`{key}` has no effect, because `ebpf` is false (--no-ebpf)")).collect()
    }

    fn with_best_effort(&self) -> Vec<String> {
        let Some(share) = self.hold.table_share else { return Vec::new() };
        if self.delivery == Some(Delivery::BestEffort) {
            vec![
                "`hold.table_share` has no effect, because `delivery` is \"best-effort\": the kernel holds nothing"
                    .to_owned(),
            ]
        } else if share.0 == 0 {
            vec![
                "`hold.table_share` is 0, so flowlog drops each event that has to wait, although `delivery` is \
                 \"reliable\": set `delivery` to \"best-effort\", or the share to more than 0"
                    .to_owned(),
            ]
        } else {
            Vec::new()
        }
    }

    fn of_rotation(&self) -> Vec<String> {
        let mut said = Vec::new();
        if let Some(Interval(interval)) = self.rotate.interval {
            let text = humantime::format_duration(interval);
            if interval > HOUR {
                said.push(format!(
                    "`rotate.interval` is {text}, but flowlog finishes each file at the latest when its hour is over"
                ));
            } else if interval < BATCH {
                said.push(format!("`rotate.interval` is {text}, but rows reach files only once a second"));
            }
        }
        if let Some(Size(bytes)) = self.rotate.bytes
            && bytes < SMALLEST_FILE_BYTES
        {
            said.push(format!(
                "`rotate.bytes` is {}, less than a file takes without any row: files end after a thousand rows",
                size(bytes)
            ));
        }
        let interval = self.rotation_interval();
        if let Some(WalSync::Interval(sync)) = self.wal.sync
            && sync > interval
        {
            said.push(format!(
                "`wal.sync` is {}, longer than `rotate.interval` of {}: files are finished before that",
                humantime::format_duration(sync),
                humantime::format_duration(interval)
            ));
        }
        said
    }

    fn of_retention(&self) -> Vec<String> {
        let mut said = Vec::new();
        let file_bytes = self.rotate.bytes.map_or(Rotation::default().bytes, |Size(bytes)| bytes);
        if let Some(Size(bytes)) = self.retention.bytes
            && bytes < file_bytes
        {
            said.push(format!(
                "`retention.bytes` is {}, less than one file of {} (`rotate.bytes`): a busy host keeps no file",
                size(bytes),
                size(file_bytes)
            ));
        }
        let interval = self.rotation_interval();
        if let Some(Interval(age)) = self.retention.age
            && age < interval
        {
            said.push(format!(
                "`retention.age` is {}, less than `rotate.interval` of {}: a file that is finished after the end of its \
                 hour is deleted at once",
                humantime::format_duration(age),
                humantime::format_duration(interval)
            ));
        }
        said
    }

    /// How old a file becomes at most until it is finished.
    fn rotation_interval(&self) -> Duration {
        self.rotate.interval.map_or(Rotation::default().interval, |interval| interval.0).min(HOUR)
    }

    fn of_lists(&self) -> Vec<String> {
        let Self { filter: Filter { only, except }, dump_interval, audit_interval, active_interval, .. } =
            self;
        let mut said = Vec::new();
        let is_marked =
            |conditions: &Conditions| conditions.mark.as_ref().is_some_and(|mark| !mark.is_empty());
        if audit_interval.is_some_and(|every| every.0.is_some()) && (is_marked(only) || is_marked(except)) {
            said.push(
                "`audit_interval` finds only connections that are known already, because `filter` has a list `mark`, and \
                 a mark may change until the end"
                    .to_owned(),
            );
        }
        if let Some(Interval(active)) = active_interval {
            let text = humantime::format_duration(*active);
            if *active < SHORTEST_LISTS * ACTIVE_LISTS {
                said.push(format!(
                    "`active_interval` is {text}, but the table is listed at most every {} ms",
                    SHORTEST_LISTS.as_millis()
                ));
            }
            if let Some(Interval(dump)) = dump_interval
                && *dump > active_lists(*active)
            {
                said.push(format!(
                    "`dump_interval` is {}, but the table is listed every tenth of `active_interval` ({text})",
                    humantime::format_duration(*dump)
                ));
            }
        }
        said
    }
}

/// For people.
fn size(bytes: u64) -> impl Display {
    ByteSize(bytes).display().iec()
}

/// Which lists of a filter leave no flow.
fn leaves_nothing(filter: &Filter) -> Option<String> {
    let Filter { only, except } = filter;
    let covered = [
        ("address", covers_addresses(only, except)),
        (
            "protocol",
            covers(&only.protocol, &except.protocol, (0..=u8::MAX).map(Protocol), |one, other| one == other),
        ),
        ("zone", covers(&only.zone, &except.zone, 0..=u16::MAX, |one, other| one == other)),
        ("mark", covers(&only.mark, &except.mark, [Mark { value: 0, mask: 0 }], is_within)),
    ];
    if let Some((key, _)) = covered.into_iter().find(|(_, is_covered)| *is_covered) {
        return Some(format!(
            "nothing would be recorded: `filter.except.{key}` leaves out all that `filter.only.{key}` allows"
        ));
    }
    // Protocols of the other IP version.
    let Conditions { address, protocol, .. } = only;
    let (address, protocol) = (address.as_deref()?, protocol.as_deref()?);
    let is_one_sided = |other: Protocol, is_other: fn(&IpNet) -> bool| {
        !protocol.is_empty()
            && protocol.iter().all(|protocol| *protocol == other)
            && !address.is_empty()
            && address.iter().all(|network| is_other(&network.0))
    };
    let nothing = is_one_sided(Protocol::ICMPV6, |network| matches!(network, IpNet::V4(_)))
        || is_one_sided(Protocol::ICMP, |network| matches!(network, IpNet::V6(_)));
    nothing.then(|| {
        "nothing would be recorded: `filter.only.protocol` is of another IP version than `filter.only.address`".to_owned()
    })
}

/// Whether each of `only` (all, where there are none) is within one of `except`.
fn covers<T: Copy>(
    only: &Option<Vec<T>>,
    except: &Option<Vec<T>>,
    all: impl IntoIterator<Item = T>,
    is_within: fn(T, T) -> bool,
) -> bool {
    let except = except.as_deref().unwrap_or_default();
    let is_covered = |one: T| except.iter().any(|other| is_within(one, *other));
    match only.as_deref() {
        Some(only) if !only.is_empty() => only.iter().all(|one| is_covered(*one)),
        _ => !except.is_empty() && all.into_iter().all(is_covered),
    }
}

fn covers_addresses(only: &Conditions, except: &Conditions) -> bool {
    let networks = |conditions: &Conditions| -> Vec<IpNet> {
        conditions.address.iter().flatten().map(|network| network.0).collect()
    };
    let except = IpNet::aggregate(&networks(except));
    let mut only = networks(only);
    if only.is_empty() {
        only = vec![IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())];
    }
    only.iter().all(|network| except.iter().any(|other| other.contains(network)))
}

/// Whether each mark that is the one is the other, too.
fn is_within(one: Mark, other: Mark) -> bool {
    other.mask & !one.mask == 0 && one.value & other.mask == other.value
}
