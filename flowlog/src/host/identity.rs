//! Which host, boot, kernel and run the records are of.

use std::fs;

use flowlog_reader::run::{RunContext, RunFacts};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use uuid::Uuid;

/// Makes the hash of the machine id one that only flowlog has: the id itself is confidential, see
/// machine-id(5). Never change it, or all hosts get new names.
const APPLICATION_ID: Uuid = Uuid::from_u128(0x5c1d_93a6_6e0f_4f0b_9b0e_52d3_7a8e_41c7);

/// What identifies the source of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Application-specific hash of the machine id, as `sd_id128_get_machine_app_specific(3)` makes
    /// it. Without a machine id, the hash of the host's name.
    pub id: String,
    /// Name of the host.
    pub name: String,
    /// Boot id of the kernel.
    pub boot_id: Option<String>,
    /// Release of the kernel, such as `6.1.0-18-amd64`.
    pub kernel: String,
}

impl Host {
    /// This host. What cannot be read is left out.
    pub fn this() -> Self {
        let name = gethostname::gethostname().to_string_lossy().into_owned();
        let trimmed = |path: &str| {
            let text = fs::read_to_string(path).ok()?;
            let text = text.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        let machine_id = trimmed("/etc/machine-id").or_else(|| trimmed("/var/lib/dbus/machine-id"));
        let id = match machine_id.as_deref().map(Uuid::try_parse) {
            Some(Ok(id)) => application_specific(id.as_bytes()),
            _ => {
                tracing::warn!(
                    "found no machine id in `/etc/machine-id`: `host_id` is a hash of the host's name `{name}`, so hosts \
                     of the same name have the same; run `systemd-machine-id-setup`"
                );
                application_specific(name.as_bytes())
            }
        };
        Self {
            id,
            name,
            boot_id: trimmed("/proc/sys/kernel/random/boot_id"),
            kernel: trimmed("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned()),
        }
    }

    /// A run on this host that begins now, of which nothing else is said yet.
    pub fn begin_run(self) -> RunFacts {
        let Self { id, name, boot_id, kernel } = self;
        let run = RunContext { run_id: Uuid::now_v7(), host_id: id, host_name: name, boot_id };
        RunFacts { run, kernel, acct: None, timestamp: None, filter: None }
    }

    /// A host of which only the name is known.
    pub fn named(name: String) -> Self {
        let id = application_specific(name.as_bytes());
        Self { id, name, boot_id: None, kernel: "unknown".to_owned() }
    }
}

/// HMAC-SHA256 of the application id, keyed by what is to be hidden, as a version 4 UUID.
fn application_specific(secret: &[u8]) -> String {
    let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(secret) else {
        unreachable!("HMAC takes keys of any length")
    };
    hmac.update(APPLICATION_ID.as_bytes());
    let hash = hmac.finalize().into_bytes();
    let mut bytes = [0; 16];
    for (byte, hashed) in bytes.iter_mut().zip(hash) {
        *byte = hashed;
    }
    uuid::Builder::from_random_bytes(bytes).into_uuid().simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_stable_and_hides_the_machine_id() {
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        // Python: hmac.new(id, APPLICATION_ID, "sha256"), its first 16 bytes with the version and
        // variant of a random UUID.
        assert_eq!(application_specific(id.as_bytes()), "4c53c79413a04e80aa1033ca7b25504a");
        assert_ne!(application_specific(id.as_bytes()), application_specific(b"other"));
    }
}
