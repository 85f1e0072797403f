//! Holds the sources against the rules of ARCHITECTURE.md: who imports what, who does IO.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules that compute and do nothing else, by their path below `src`.
const WITHOUT_IO: &[&str] = &[
    "causes.rs",
    "time.rs",
    "flow.rs",
    "record.rs",
    "record/",
    "connections/filter.rs",
    "connections/ctnetlink/nla.rs",
    "connections/ctnetlink/decode.rs",
    "connections/ctnetlink/encode.rs",
    "connections/ctnetlink/sets.rs",
    "connections/ctnetlink/sets/",
    "connections/ctnetlink/socket_filter.rs",
    "connections/ctnetlink/socket_filter/",
    "connections/ctnetlink/table.rs",
    "connections/proc_net.rs",
    "connections/proc_net/",
    "connections/duplicates.rs",
    "connections/dumps.rs",
    "host/needs.rs",
    "host/nft_rules.rs",
    "host/kernel_losses.rs",
    "attribution/clocks.rs",
    "attribution/cmdline.rs",
    "attribution/cmdline/",
    "attribution/processes.rs",
    "attribution/processes/exe.rs",
    "attribution/slots.rs",
    "attribution/recent.rs",
    "attribution/holders.rs",
    "attribution/lives.rs",
    "attribution/lives/",
    "attribution/sockets.rs",
    "attribution/sockets/",
    "attribution/listeners.rs",
    "attribution/endpoints.rs",
    "attribution/endpoints/",
    "attribution/addresses.rs",
    "attribution/raw_sockets.rs",
    "attribution/raw_sockets/",
    "attribution/containers.rs",
    "attribution/join.rs",
    "attribution/join/",
    "log/schema.rs",
    "log/schema/",
    "log/retention.rs",
    "commands/arguments.rs",
    "commands/daemon/observed.rs",
    "commands/metrics.rs",
];

/// What stands for IO, clocks and threads in a source.
const IO: [&str; 13] = [
    "std::{",
    "std::fs",
    "std::io",
    "std::os",
    "std::process",
    "std::thread",
    "SystemTime::now",
    "Instant",
    ".elapsed(",
    "std::env",
    "nix::",
    "aya::",
    "tokio::",
];

/// Modules that have no more than others in them.
const WINGS: [&str; 5] = ["connections", "host", "attribution", "log", "commands"];

/// Longer files need a sentence why, and a change here.
const MAX_LINES: usize = 600;

/// Longer functions say why, in a comment that begins with `Long, since`.
const MAX_FUNCTION_LINES: usize = 80;

/// Modules of the reader that compute and do nothing else.
const READER_WITHOUT_IO: &[&str] =
    &["gaps.rs", "run.rs", "schema.rs", "layout.rs", "segments/bytes.rs", "segments/frame.rs"];

/// The sources of all packages.
const ALL_SOURCES: [&str; 7] = [
    "src",
    "lake/src",
    "../flowlog-common/src",
    "../flowlog-ebpf/src",
    "../flowlog-reader/src",
    "../tests",
    "../xtask/src",
];

/// The sources of the daemon and of all commands.
fn sources() -> Vec<(String, String)> {
    sources_of("src")
}

/// The sources of the reader.
fn reader_sources() -> Vec<(String, String)> {
    sources_of("../flowlog-reader/src")
}

fn sources_of(root: &str) -> Vec<(String, String)> {
    let without_comments = |code: String| {
        code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
    };
    with_comments(root).into_iter().map(|(name, code)| (name, without_comments(code))).collect()
}

fn with_comments(root: &str) -> Vec<(String, String)> {
    fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, files) } else { files.push(path) }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let mut files = Vec::new();
    walk(&root, &mut files);
    assert!(files.len() > 2, "found only {files:?}");
    let name = |path: &Path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    files.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// The code without its tests, which may import and do what they like: they are last in a file.
fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

/// The modules that a source declares, in their order.
fn declared(sources: &[(String, String)], name: &str) -> Vec<String> {
    let (_, code) = sources.iter().find(|(source, _)| source == name).unwrap();
    let module = |line: &str| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned());
    code.lines().filter_map(module).collect()
}

/// All modules in the order in which they may use each other: those of `lib.rs`, and behind each wing its own.
fn order(sources: &[(String, String)]) -> Vec<String> {
    let mut order = Vec::new();
    for wing in declared(sources, "lib.rs") {
        order.push(wing.clone());
        if WINGS.contains(&wing.as_str()) {
            let modules = declared(sources, &format!("{wing}.rs"));
            assert!(modules.len() > 3, "found only {modules:?}");
            order.extend(modules.into_iter().map(|module| format!("{wing}::{module}")));
        }
    }
    order
}

/// The module of a path: two names in a wing, else one.
fn module(path: &str, separator: &str) -> String {
    let mut names = path.split(separator);
    let first = names.next().unwrap_or_default();
    match names.next() {
        Some(second) if WINGS.contains(&first) => format!("{first}::{second}"),
        _ => first.to_owned(),
    }
}

#[test]
fn a_module_uses_only_modules_above_it() {
    assert_order(&sources(), 100);
    assert_order(&reader_sources(), 10);
}

fn assert_order(sources: &[(String, String)], at_least: usize) {
    let order = order(sources);
    let position = |module: &str| order.iter().position(|name| *name == module);
    let mut uses = 0;
    for (name, code) in sources {
        let own_module = module(name.strip_suffix(".rs").unwrap(), "/");
        let Some(own) = position(&own_module) else { continue };
        for used in without_tests(code).split("crate::").skip(1) {
            let path =
                used.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').next().unwrap();
            let used = module(path, "::");
            assert!(!WINGS.contains(&used.as_str()), "{name} uses all of `{used}`; name its module");
            let Some(used_position) = position(&used) else { continue };
            uses += 1;
            assert!(used_position <= own, "{name} uses `{used}`, which is below `{own_module}`");
        }
    }
    assert!(uses > at_least, "found only {uses} uses of modules");
}

#[test]
fn modules_without_io_have_none() {
    assert_no_io(&sources(), WITHOUT_IO);
    assert_no_io(&reader_sources(), READER_WITHOUT_IO);
}

fn assert_no_io(sources: &[(String, String)], without_io: &[&str]) {
    for module in without_io {
        let is_there = |(name, _): &(String, String)| is_in(name, module);
        assert!(sources.iter().any(is_there), "`{module}` is not there any more");
    }
    for (name, code) in sources {
        if is_test(name) || !without_io.iter().any(|module| is_in(name, module)) {
            continue;
        }
        // Its numbers are the kernel's, which some modules compare with.
        let code = without_tests(code).replace("nix::libc", "");
        for io in IO {
            assert!(!code.contains(io), "{name} uses `{io}`");
        }
    }
}

/// Whether a source is this file, or in this directory.
fn is_in(name: &str, module: &str) -> bool {
    name == module || (module.ends_with('/') && name.starts_with(module))
}

/// Whether all of a source is tests.
fn is_test(name: &str) -> bool {
    ["/tests.rs", "/properties.rs", "/round_trip.rs"].iter().any(|end| name.ends_with(end))
        || name.contains("/tests/")
}

#[test]
fn a_library_has_one_user() {
    for (library, users) in [
        ("aya::", &["attribution/ebpf.rs", "attribution/ebpf/"][..]),
        ("parquet::", &["log/writer.rs", "log/writer/", "log/verify.rs", "log/verify/"]),
        ("zstd::", &["log/writer/"]),
        ("daemon::", &["commands/run.rs", "commands/daemon.rs", "commands/daemon/"]),
    ] {
        for (name, code) in sources() {
            let is_user = users.iter().any(|user| is_in(&name, user));
            // Names of column metadata come from the library that defines them.
            let code = without_tests(&code).replace("parquet::arrow::PARQUET_FIELD_ID_META_KEY", "");
            assert!(is_user || !code.contains(library), "{name} uses `{library}`");
        }
    }
}

#[test]
fn units_of_time_are_converted_in_one_place() {
    for (name, code) in sources() {
        for conversion in ["ns / 1000", "ns / 1_000", "UNIX_EPOCH).", "as_micros()", "as_nanos() /"] {
            let is_there = without_tests(&code).contains(conversion);
            assert!(
                !is_there || name == "time.rs" || is_test(&name),
                "{name} has `{conversion}`; see `time`"
            );
        }
    }
}

#[test]
fn paths_below_the_output_directory_are_spelled_in_one_place() {
    for (name, code) in sources().into_iter().chain(reader_sources()) {
        for path in ["_flowlog", ".parquet\"", "\"flows/", "\"gaps/", ".wal\"", "ledger.jsonl"] {
            let is_there = without_tests(&code).contains(path);
            let is_known = name == "layout.rs" || name.starts_with("fuzzing/") || is_test(&name);
            assert!(!is_there || is_known, "{name} has `{path}`; see `flowlog_reader::layout`");
        }
    }
}

#[test]
fn the_reader_changes_nothing() {
    for (name, code) in reader_sources().into_iter().filter(|(name, _)| !is_test(name)) {
        for change in [
            "fs::write",
            "File::create",
            ".write(true)",
            ".append(true)",
            "remove_",
            "rename(",
            "create_dir",
            ".lock()",
            ".try_lock()",
        ] {
            assert!(!without_tests(&code).contains(change), "{name} has `{change}`");
        }
    }
}

/// Only the daemon has what lasts: threads, channels, a runtime. Others do something in another namespace, on a thread
/// that ends before they go on.
#[test]
fn threads_that_last_are_the_daemons() {
    for (name, code) in sources() {
        if is_test(&name) || name == "commands/daemon.rs" || name.starts_with("commands/daemon/") {
            continue;
        }
        for lasting in ["thread::spawn", "thread::Builder", "mpsc", "tokio::", "signal("] {
            assert!(!without_tests(&code).contains(lasting), "{name} uses `{lasting}`");
        }
        let is_brief = ["host/namespace.rs", "attribution/ebpf/mounts.rs"].contains(&name.as_str());
        assert!(is_brief || !without_tests(&code).contains("thread::scope"), "{name} uses a thread");
    }
}

#[test]
fn files_have_one_subject() {
    for (name, code) in ALL_SOURCES.into_iter().flat_map(sources_of) {
        let lines = code.lines().count();
        assert!(lines <= MAX_LINES, "{name} has {lines} lines, more than {MAX_LINES}");
    }
}

#[test]
fn functions_that_are_long_say_why() {
    let mut long = 0;
    for root in ALL_SOURCES {
        for (name, code) in with_comments(root) {
            let lines: Vec<&str> = without_tests(&code).lines().collect();
            for (number, line) in lines.iter().enumerate() {
                let code = line.trim_start();
                let indent = &line[..line.len() - code.len()];
                let is_function =
                    code.split_whitespace().take_while(|word| !word.contains('(')).any(|word| word == "fn");
                // What a trait asks for has no lines of its own.
                if !is_function || code.starts_with("//") || code.ends_with(';') {
                    continue;
                }
                let end = lines[number..].iter().position(|line| *line == format!("{indent}}}"));
                let says_why = || {
                    lines[number.saturating_sub(3)..number].iter().any(|line| line.contains("// Long, since"))
                };
                if end.is_some_and(|length| length + 1 > MAX_FUNCTION_LINES) {
                    long += 1;
                    assert!(says_why(), "{name}:{} is longer than {MAX_FUNCTION_LINES} lines", number + 1);
                }
            }
        }
    }
    assert!(long > 0, "no function is that long any more; this test may find none");
}

#[test]
fn a_type_is_in_two_files_at_most() {
    for sources in [sources(), reader_sources()] {
        let mut files: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for (name, code) in &sources {
            for line in without_tests(code).lines() {
                let Some(rest) = line.strip_prefix("impl") else { continue };
                let rest = rest
                    .strip_prefix('<')
                    .and_then(|rest| rest.split_once("> "))
                    .map_or(rest, |(_, rest)| rest);
                let rest = rest.trim_start();
                // `impl Trait for Type` belongs to the trait.
                if rest.contains(" for ") || is_test(name) {
                    continue;
                }
                let of = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
                // Two modules may have types of one name.
                let module = name.split('/').take(2).collect::<Vec<_>>().join("/").replace(".rs", "");
                files.entry((module, of.to_owned())).or_default().insert(name.clone());
            }
        }
        for ((_, of), files) in files {
            assert!(files.len() <= 2, "`{of}` is in {files:?}");
        }
    }
}
