//! Holds the sources against the rules of ARCHITECTURE.md: who imports what, who does IO.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Modules that compute and do nothing else, by their path below `src`.
const WITHOUT_IO: &[&str] = &[
    "flow.rs",
    "record.rs",
    "record/",
    "flow_filter.rs",
    "ctnetlink/nla.rs",
    "ctnetlink/decode.rs",
    "ctnetlink/encode.rs",
    "ctnetlink/sets/",
    "ctnetlink/socket_filter.rs",
    "ctnetlink/socket_filter/",
    "proc_net.rs",
    "proc_net/",
    "duplicates.rs",
    "clocks.rs",
    "cmdline.rs",
    "cmdline/",
    "processes.rs",
    "lives.rs",
    "sockets.rs",
    "listeners.rs",
    "endpoints.rs",
    "addresses.rs",
    "raw_sockets.rs",
    "raw_sockets/",
    "containers.rs",
    "attribute.rs",
    "causes.rs",
    "dumps.rs",
    "gaps.rs",
    "needs.rs",
    "nft_rules.rs",
    "kernel_losses.rs",
    "schema.rs",
    "schema/",
    "metrics.rs",
];

/// What stands for IO, clocks and threads in a source.
const IO: [&str; 11] = [
    "std::{",
    "std::fs",
    "std::io",
    "std::os",
    "std::process",
    "std::thread",
    "std::time",
    "std::env",
    "nix::",
    "aya::",
    "tokio::",
];

/// Longer files need a sentence why, and a change here.
const MAX_LINES: usize = 600;

fn sources() -> Vec<(String, String)> {
    fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, files) } else { files.push(path) }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    assert!(files.len() > 10, "found only {files:?}");
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            let code: Vec<String> = fs::read_to_string(path)
                .unwrap()
                .lines()
                .map(|line| line.split("//").next().unwrap_or_default().to_owned())
                .collect();
            (name, code.join("\n"))
        })
        .collect()
}

/// The code without its tests, which may import and do what they like: they are last in a file.
fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

#[test]
fn a_module_uses_only_modules_above_it() {
    let sources = sources();
    let (_, lib) = sources.iter().find(|(name, _)| name == "lib.rs").unwrap();
    let order: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let position = |module: &str| order.iter().position(|name| *name == module);
    assert!(order.len() > 10, "found only {order:?}");

    for (name, code) in &sources {
        let module = name.split(['/', '.']).next().unwrap();
        let Some(own) = position(module) else { continue };
        for used in without_tests(code).split("crate::").skip(1) {
            let used = used.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
            let Some(used_position) = position(used) else { continue };
            assert!(used_position <= own, "{name} uses `{used}`, which is below `{module}` in lib.rs");
        }
    }
}

#[test]
fn modules_without_io_have_none() {
    for (name, code) in sources() {
        if WITHOUT_IO
            .iter()
            .any(|module| name == *module || (module.ends_with('/') && name.starts_with(module)))
        {
            for io in IO {
                assert!(!without_tests(&code).contains(io), "{name} uses `{io}`");
            }
        }
    }
}

#[test]
fn a_library_has_one_user() {
    for (library, users) in [
        ("aya::", &["ebpf.rs", "ebpf/"][..]),
        ("parquet::", &["writer.rs", "writer/", "verify.rs", "verify/"]),
        ("zstd::", &["writer/"]),
        ("daemon::run", &["main.rs"]),
    ] {
        for (name, code) in sources() {
            let is_user =
                users.iter().any(|user| name == *user || user.ends_with('/') && name.starts_with(user));
            // Names of column metadata come from the library that defines them.
            let code = without_tests(&code).replace("parquet::arrow::PARQUET_FIELD_ID_META_KEY", "");
            assert!(is_user || !code.contains(library), "{name} uses `{library}`");
        }
    }
}

#[test]
fn files_have_one_subject() {
    for (name, code) in sources() {
        let lines = code.lines().count();
        assert!(lines <= MAX_LINES, "{name} has {lines} lines, more than {MAX_LINES}");
    }
}
