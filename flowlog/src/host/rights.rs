//! The capabilities that flowlog has a use for: what each is for, and how they are given up and used for a moment.
//!
//! Capabilities belong to a thread; one that it starts has the same. So each lasting thread gives up its own
//! ([`give_up`]). What is needed only now and then stays permitted, without having an effect: [`Raised`] makes it
//! effective as long as it is there. So no other code can open with it what it should not, by mistake.

use std::collections::HashSet;

use caps::errors::CapsError;
use caps::{CapSet, Capability};

/// When a capability is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    /// All the time.
    Always,
    /// Now and then: for as long as something is done with it ([`Raised`]).
    NowAndThen,
    /// Now and then if other network namespaces are watched, else only for the start.
    ForNamespaces,
    /// For the start.
    Start,
}

/// A capability that flowlog has a use for.
#[derive(Clone, Copy, Debug)]
pub struct Right {
    /// Which.
    pub capability: Capability,
    /// What it is for, behind "it is needed".
    pub purpose: &'static str,
    /// What follows without it.
    pub without: &'static str,
    /// When.
    pub lasts: Lasts,
}

/// All that flowlog has a use for. The documentation has the same table (`flowlog/docs/service.md`).
pub const RIGHTS: [Right; 7] = [
    Right {
        capability: Capability::CAP_NET_ADMIN,
        purpose: "to read connection tracking",
        without: "flowlog does not start",
        lasts: Lasts::Always,
    },
    Right {
        capability: Capability::CAP_BPF,
        purpose: "to load eBPF programs",
        without: "flows have no processes",
        lasts: Lasts::Always,
    },
    Right {
        capability: Capability::CAP_PERFMON,
        purpose: "to attach eBPF programs to tracepoints",
        without: "flows have no processes",
        lasts: Lasts::Start,
    },
    Right {
        capability: Capability::CAP_DAC_READ_SEARCH,
        purpose: "to read tracefs, and which sockets the processes of other users have",
        without: "flows have no processes",
        lasts: Lasts::NowAndThen,
    },
    Right {
        capability: Capability::CAP_SYS_PTRACE,
        purpose: "to read which sockets and programs older processes have",
        without: "sockets that are older than flowlog have no process, and older processes no program",
        lasts: Lasts::NowAndThen,
    },
    Right {
        capability: Capability::CAP_SYS_ADMIN,
        purpose: "to enter other network namespaces, and to mount tracefs or cgroup v2 if nobody has",
        without: "other network namespaces cannot be watched",
        lasts: Lasts::ForNamespaces,
    },
    Right {
        capability: Capability::CAP_NET_RAW,
        purpose: "to find out whether connections are tracked if no rule shows it",
        without: "flowlog may not notice if they are not",
        lasts: Lasts::Always,
    },
];

/// What root does with files of others, and flowlog with its own where root runs it.
const FILES: [Capability; 3] =
    [Capability::CAP_DAC_OVERRIDE, Capability::CAP_FOWNER, Capability::CAP_SYS_RESOURCE];

/// What the capabilities of a thread are reduced to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What it takes to receive and to join.
    Receiving {
        /// Other network namespaces are watched.
        enters_namespaces: bool,
    },
    /// What it takes to write files.
    Writing,
}

/// Gives up all capabilities that this part of flowlog does not need from now on, for the calling thread. Gives those
/// that it had and has not any more.
///
/// # Errors
///
/// Where the kernel refuses that; what was given up until then stays so.
pub fn give_up(part: Part) -> Result<Vec<Capability>, CapsError> {
    let before = caps::read(None, CapSet::Permitted)?;
    let (effective, permitted) = kept(part, &before);
    // Since Linux 4.3; it goes with the others anyhow.
    let _ = caps::clear(None, CapSet::Ambient);
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::runtime::thread_all_supported().difference(&permitted) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    let effective = effective.intersection(&caps::read(None, CapSet::Effective)?).copied().collect();
    // In this order: what is effective is a part of what is permitted.
    caps::set(None, CapSet::Effective, &effective)?;
    caps::set(None, CapSet::Permitted, &permitted)?;
    caps::clear(None, CapSet::Inheritable)?;
    let mut given_up: Vec<_> = before.difference(&permitted).copied().collect();
    given_up.sort_by_key(Capability::index);
    Ok(given_up)
}

/// What stays effective of the capabilities that a thread had, and what stays permitted.
fn kept(part: Part, before: &HashSet<Capability>) -> (HashSet<Capability>, HashSet<Capability>) {
    let of = |wanted: &dyn Fn(Lasts) -> bool| {
        let wanted = RIGHTS.iter().filter(|right| wanted(right.lasts)).map(|right| right.capability);
        wanted.filter(|capability| before.contains(capability)).collect::<HashSet<_>>()
    };
    match part {
        Part::Writing => {
            let files: HashSet<_> = FILES.into_iter().filter(|of_root| before.contains(of_root)).collect();
            (files.clone(), files)
        }
        Part::Receiving { enters_namespaces } => {
            let mut effective = of(&|lasts| lasts == Lasts::Always);
            // Who has this one need not have the other.
            if !before.contains(&Capability::CAP_BPF) && before.contains(&Capability::CAP_SYS_ADMIN) {
                effective.insert(Capability::CAP_SYS_ADMIN);
            }
            let mut permitted = of(&|lasts| match lasts {
                Lasts::Always | Lasts::NowAndThen => true,
                Lasts::ForNamespaces => enters_namespaces,
                Lasts::Start => false,
            });
            permitted.extend(&effective);
            // Root of a container may have this one only, which contains the other.
            if !before.contains(&Capability::CAP_DAC_READ_SEARCH)
                && before.contains(&Capability::CAP_DAC_OVERRIDE)
            {
                permitted.insert(Capability::CAP_DAC_OVERRIDE);
            }
            (effective, permitted)
        }
    }
}

/// Capabilities that are effective until this is dropped, for the thread that made it.
#[derive(Debug)]
#[must_use = "it is over when this is dropped"]
pub struct Raised(Vec<Capability>);

impl Raised {
    /// To read what belongs to other users: directories of cgroups.
    pub fn to_read() -> Self {
        Self::new(&[Capability::CAP_DAC_READ_SEARCH, Capability::CAP_DAC_OVERRIDE])
    }

    /// To look into other processes: their programs and sockets.
    pub fn to_look_into() -> Self {
        Self::new(&[
            Capability::CAP_SYS_PTRACE,
            Capability::CAP_DAC_READ_SEARCH,
            Capability::CAP_DAC_OVERRIDE,
        ])
    }

    /// To see other processes, if /proc hides them (`hidepid`).
    pub fn to_see() -> Self {
        Self::new(&[Capability::CAP_SYS_PTRACE])
    }

    /// To enter a network namespace.
    pub fn to_enter() -> Self {
        Self::new(&[Capability::CAP_SYS_ADMIN])
    }

    /// What is not permitted, or is effective anyhow, stays as it is.
    fn new(wanted: &[Capability]) -> Self {
        let has = |set, capability| caps::has_cap(None, set, capability).unwrap_or(false);
        let raised = wanted.iter().copied().filter(|capability| {
            has(CapSet::Permitted, *capability)
                && !has(CapSet::Effective, *capability)
                && caps::raise(None, CapSet::Effective, *capability).is_ok()
        });
        Self(raised.collect())
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        for capability in &self.0 {
            // It was raised by the same call.
            let _ = caps::drop(None, CapSet::Effective, *capability);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(capabilities: &[Capability]) -> HashSet<Capability> {
        capabilities.iter().copied().collect()
    }

    /// As the service has them.
    fn all() -> HashSet<Capability> {
        RIGHTS.iter().map(|right| right.capability).collect()
    }

    const ALWAYS: [Capability; 3] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_BPF];

    const NOW_AND_THEN: [Capability; 2] = [Capability::CAP_DAC_READ_SEARCH, Capability::CAP_SYS_PTRACE];

    #[test]
    fn the_receiving_side_keeps_what_it_needs() {
        let (effective, permitted) = kept(Part::Receiving { enters_namespaces: false }, &all());
        assert_eq!(effective, set(&ALWAYS));
        assert_eq!(&permitted - &effective, set(&NOW_AND_THEN));
        let (effective, permitted) = kept(Part::Receiving { enters_namespaces: true }, &all());
        assert_eq!(effective, set(&ALWAYS));
        let with_namespaces = &set(&NOW_AND_THEN) | &set(&[Capability::CAP_SYS_ADMIN]);
        assert_eq!(&permitted - &effective, with_namespaces);
    }

    #[test]
    fn what_contains_another_stays_in_its_place() {
        let before = set(&[
            Capability::CAP_NET_ADMIN,
            Capability::CAP_SYS_ADMIN,
            Capability::CAP_DAC_OVERRIDE,
            Capability::CAP_SYS_TIME,
        ]);
        let (effective, permitted) = kept(Part::Receiving { enters_namespaces: false }, &before);
        assert_eq!(effective, set(&[Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN]));
        assert_eq!(&permitted - &effective, set(&[Capability::CAP_DAC_OVERRIDE]));
    }

    #[test]
    fn the_writing_side_keeps_nothing_but_what_root_has_for_files() {
        assert_eq!(kept(Part::Writing, &all()), (set(&[]), set(&[])));
        let (effective, permitted) = kept(Part::Writing, &caps::all());
        assert_eq!(effective, set(&FILES));
        assert_eq!(permitted, effective);
    }
}
