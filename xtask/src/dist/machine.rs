//! The kinds of machines that packages are for, and what each tool calls them.

use std::env;

use anyhow::{Result, bail};

/// A kind of machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machine {
    /// 64-bit PCs.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

/// What a program needs beside the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linkage {
    /// The C library of the distribution: in deb and rpm.
    Gnu,
    /// Nothing: in the tarball and the image.
    Static,
}

impl Machine {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// By the name that `--target` takes.
    ///
    /// # Errors
    ///
    /// When there is no such machine.
    pub(crate) fn by_name(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|machine| machine.name() == name) {
            Some(machine) => Ok(machine),
            None => bail!("unknown target `{name}`, expected `x86_64` or `aarch64`"),
        }
    }

    /// The one that this is.
    ///
    /// # Errors
    ///
    /// When packages cannot be made for it.
    pub(crate) fn own() -> Result<Self> {
        Self::by_name(env::consts::ARCH)
    }

    /// As Rust, the kernel and rpm say it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As Debian and container images say it.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The target of the compiler.
    pub(crate) fn triple(self, linkage: Linkage) -> String {
        let library = match linkage {
            Linkage::Gnu => "gnu",
            Linkage::Static => "musl",
        };
        format!("{}-unknown-linux-{library}", self.name())
    }

    /// All targets of the compiler for it.
    pub(crate) fn triples(self) -> [String; 2] {
        [Linkage::Gnu, Linkage::Static].map(|linkage| self.triple(linkage))
    }

    /// A program of the GNU toolchain for it: Debian has this name for the native one, too.
    pub(crate) fn gnu_tool(self, tool: &str) -> String {
        format!("{}-linux-gnu-{tool}", self.name())
    }

    /// The Debian packages with a C compiler, linker and C library for it.
    pub(crate) fn compiler_packages(self) -> [&'static str; 2] {
        match (self, Self::own()) {
            (own, Ok(machine)) if own == machine => ["gcc", "libc6-dev"],
            (Self::X86_64, _) => ["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
            (Self::Aarch64, _) => ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
        }
    }

    /// What executes its programs on another kind of machine, and the Debian package that has it.
    pub(crate) fn emulator(self) -> Option<(&'static str, &'static str)> {
        let emulator = match self {
            Self::X86_64 => "qemu-x86_64-static",
            Self::Aarch64 => "qemu-aarch64-static",
        };
        let is_own = Self::own().is_ok_and(|own| own == self);
        (!is_own).then_some((emulator, "qemu-user-static"))
    }
}
