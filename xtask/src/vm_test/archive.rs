//! Packages of any Debian release, from where this machine gets its own.
//!
//! apt-get works in a directory of its own there: lists, sources and downloads of the machine stay as
//! they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::sh;

/// The keys of all Debian releases, where a machine has them in their usual place.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The packages of some releases ("suites").
pub(super) struct Archive {
    configuration: PathBuf,
}

impl Archive {
    /// Fetches the lists of `suites` into `directory`. Of lists that cannot be fetched, old ones are used.
    ///
    /// # Errors
    ///
    /// When this machine gets its packages from elsewhere, or the directory cannot be written.
    pub(super) fn open(directory: &Path, suites: &[&str]) -> Result<Self> {
        let directory = directory.join(suites.join("+"));
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part)).context("cannot make a directory for apt-get")?;
        }
        let write = |name: &str, text: String| {
            let file = directory.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write `{}`", file.display()))?;
            Ok::<_, anyhow::Error>(file)
        };
        write("sources.list", sources(&mirrors()?, suites)?)?;
        // By default a release for testing is used only where it is asked for by name.
        write("preferences", "Package: *\nPin: release *\nPin-Priority: 500\n".to_owned())?;
        let configuration = write("apt.conf", configuration(&directory))?;
        let archive = Self { configuration };
        if let Err(error) = sh::output(archive.command("apt-get").arg("update")) {
            eprintln!("vm-test: {error:#}");
        }
        Ok(archive)
    }

    /// What a package needs, in its newest version.
    ///
    /// # Errors
    ///
    /// When there is no such package.
    pub(super) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let text = sh::output(self.command("apt-cache").args(["depends", "--important", package]))?;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// Fetches the newest versions of packages into a directory, and unpacks them there.
    ///
    /// # Errors
    ///
    /// When one is gone, or cannot be unpacked.
    pub(super) fn unpack(&self, packages: &[String], directory: &Path) -> Result<()> {
        let mut download = self.command("apt-get");
        sh::output(download.arg("download").args(packages).current_dir(directory))?;
        extract(directory, directory)
    }

    /// Fetches a package with all that it needs, as for a machine that has nothing, and unpacks them into a directory.
    ///
    /// # Errors
    ///
    /// When one is gone, or cannot be unpacked.
    pub(super) fn unpack_whole(&self, package: &str, directory: &Path) -> Result<()> {
        let fetched = directory.join("fetched");
        fs::create_dir_all(fetched.join("partial")).context("cannot make a directory for packages")?;
        let mut download = self.command("apt-get");
        download
            .args(["install", "--download-only", "--yes", "--no-install-recommends", package, "--option"])
            .arg(format!("Dir::Cache::archives={}", fetched.display()))
            // Nothing of this machine is changed.
            .args(["--option", "Debug::NoLocking=true"]);
        sh::output(&mut download)?;
        extract(&fetched, directory)?;
        fs::remove_dir_all(fetched).context("cannot remove packages")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--quiet").arg("--config-file").arg(&self.configuration);
        command
    }
}

/// Unpacks the packages in a directory.
fn extract(packages: &Path, directory: &Path) -> Result<()> {
    for file in fs::read_dir(packages).context("cannot read what was fetched")? {
        let file = file.context("cannot read what was fetched")?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            sh::output(Command::new("dpkg-deb").arg("--extract").args([&file, directory]))?;
        }
    }
    Ok(())
}

/// The configuration of apt-get: its own files, and nothing that a machine does after an update.
fn configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"Dir::State "{directory}";
Dir::State::status "/dev/null";
Dir::Cache "{directory}/cache";
Dir::Etc::sourcelist "{directory}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "{directory}/preferences";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "root";
Acquire::Languages "none";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
"#
    )
}

/// Where this machine gets releases from, as pairs of an address and the name of a release.
fn mirrors() -> Result<Vec<(String, String)>> {
    let text = sh::output(Command::new("apt-get").args(["--print-uris", "--quiet", "update"]))?;
    Ok(text.lines().filter_map(mirror).collect())
}

/// Parses, for example, `'http://deb.debian.org/debian/dists/bookworm/InRelease' deb.debian.org_… 0`.
fn mirror(line: &str) -> Option<(String, String)> {
    let (address, _) = line.strip_prefix('\'')?.split_once('\'')?;
    let (mirror, suite) = address.strip_suffix("/InRelease")?.split_once("/dists/")?;
    Some((mirror.to_owned(), suite.to_owned()))
}

/// The sources of `suites`: those of security are in an archive of their own.
fn sources(mirrors: &[(String, String)], suites: &[&str]) -> Result<String> {
    let options = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    let mut lines = String::new();
    for suite in suites {
        let is_security = |suite: &str| suite.ends_with("-security");
        let (mirror, _) = mirrors
            .iter()
            .find(|(mirror, known)| mirror.contains("debian") && is_security(known) == is_security(suite))
            .with_context(|| format!("apt-get of this machine knows no mirror for the suite `{suite}`"))?;
        lines += &format!("deb {options}{mirror} {suite} main\n");
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_those_of_the_machine_with_other_suites() {
        let said = "'http://mirror/debian/dists/bookworm/InRelease' mirror_debian 0\n\
                    'http://mirror/debian/dists/bookworm/main/binary-amd64/Packages.xz' mirror_main 0\n\
                    'http://mirror/debian-security/dists/bookworm-security/InRelease' mirror_security 0\n";
        let mirrors: Vec<_> = said.lines().filter_map(mirror).collect();
        let text = sources(&mirrors, &["bullseye", "bullseye-security"]).unwrap();
        let words: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split(' ').filter(|word| !word.starts_with('[')).collect())
            .collect();
        assert_eq!(
            words,
            [
                ["deb", "http://mirror/debian", "bullseye", "main"],
                ["deb", "http://mirror/debian-security", "bullseye-security", "main"],
            ]
        );
        assert!(sources(&[], &["sid"]).is_err());
    }
}
