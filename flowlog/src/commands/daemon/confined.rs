//! What flowlog gives up once it has started: capabilities, files, programs, connections.
//!
//! Each side gives up what is its own. What the host does not have costs a line of the log and nothing else: flows are
//! recorded as well without it.

use std::path::Path;

use caps::Capability;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

use super::watched::Watched;
use crate::causes::one_line;
use crate::host::confinement::{
    ConfinementError, open_only_to_read, refuse_what_is_not_needed, write_only_below,
};
use crate::host::namespace::Namespace;
use crate::host::rights::{Part, RIGHTS, give_up};

/// Each network namespace takes a dozen descriptors: as many as may be had.
pub(super) fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(
            "cannot raise the limit of descriptors, so not many network namespaces can be watched: {error}"
        );
    }
}

/// Confines the calling thread, which is the writing side, to the output directory.
pub(super) fn writing_side(output: &Path) -> Result<(), ConfinementError> {
    if let Err(error) = give_up(Part::Writing) {
        say_kept(&error);
    }
    write_only_below(output)
}

/// What is needed after the start, too.
#[derive(Clone, Copy, Debug)]
pub(super) struct StillNeeded {
    /// To enter network namespaces that come.
    pub(super) namespaces: bool,
    /// To set sysctls of those.
    pub(super) writes: bool,
}

/// Confines the calling thread, which is the receiving side, and both as far as they are alike; says what was given up.
/// `writing` is what became of the writing side.
pub(super) fn receiving_side(
    watched: &[Watched],
    needed: StillNeeded,
    output: &Path,
    writing: Result<(), ConfinementError>,
) {
    let own = Namespace::own().map(|own| own.inode());
    let is_other = |watched: &Watched| own.as_ref().is_ok_and(|own| *own != watched.namespace.inode());
    let enters_namespaces = needed.namespaces || own.is_err() || watched.iter().any(is_other);
    let mut without = Vec::new();
    match give_up(Part::Receiving { enters_namespaces }) {
        Ok(given_up) if given_up.is_empty() => {}
        Ok(given_up) => without.push(named(&given_up)),
        Err(error) => say_kept(&error),
    }
    match writing {
        Ok(()) => without.push(format!("files outside of `{}`", output.display())),
        Err(error) => say_kept(&error),
    }
    let refused = refuse_what_is_not_needed(enters_namespaces);
    let refused = refused.and_then(|()| if needed.writes { Ok(()) } else { open_only_to_read() });
    match refused {
        Ok(()) => without.push("programs and new connections".to_owned()),
        Err(error) => say_kept(&error),
    }
    if !without.is_empty() {
        info!("gave up what it needs no more: {}", without.join("; "));
    }
}

/// Those that the unit of systemd gives, and how many others root has.
fn named(given_up: &[Capability]) -> String {
    let is_used = |capability: &&Capability| RIGHTS.iter().any(|right| right.capability == **capability);
    let names: Vec<_> = given_up.iter().filter(is_used).map(ToString::to_string).collect();
    match (names.len(), given_up.len() - names.len()) {
        (0, others) => format!("{others} capabilities"),
        (_, 0) => names.join(", "),
        (_, others) => format!("{} and {others} other capabilities", names.join(", ")),
    }
}

fn say_kept(error: &dyn std::error::Error) {
    info!(
        "flows are recorded, but a fault in flowlog could do more on this host than it need: {}",
        one_line(error)
    );
}
