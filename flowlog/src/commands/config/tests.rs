use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::*;

const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

/// What packages install as /etc/flowlog/flowlog.toml.
const PACKAGED: &str = include_str!("../../../../packaging/flowlog.toml");

fn file(text: &str) -> Result<Settings, String> {
    Settings::from_toml(Path::new("f.toml"), text).map_err(|error| error.to_string())
}

fn environment(variables: &[(&str, &str)]) -> Result<Settings, String> {
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    Settings::from_environment(variables).map_err(|error| error.to_string())
}

fn config(settings: Settings) -> Config {
    Config::new(settings, Wanted::new(&[]).unwrap(), Vec::new())
}

#[test]
fn later_sources_win_key_by_key() {
    let file = file(
        "output = '/file'\n[rotate]\ninterval = '1min'\nrows = 1\nbytes = '1MiB'\n[wal]\nsync = 'off'\n",
    );
    let environment = environment(&[
        ("FLOWLOG__OUTPUT", "/environment"),
        ("FLOWLOG__ROTATE__ROWS", "2"),
        ("FLOWLOG__ROTATE__BYTES", "2MiB"),
        ("FLOWLOG_LOG", "debug"),
        ("PATH", "/bin"),
    ]);
    let bytes = Some(Size(3 << 20));
    let flags = Settings { rotate: Rotate { bytes, ..Rotate::default() }, ..Settings::default() };
    let merged = config(flags.or(environment.unwrap()).or(file.unwrap()));
    assert_eq!(merged.output, Path::new("/environment"));
    assert_eq!(merged.rotation, Rotation { interval: Duration::from_secs(60), rows: 2, bytes: 3 << 20 });
    assert_eq!(merged.wal_sync, WalSync::Off);
}

#[test]
fn the_environment_has_all_kinds_of_values() {
    let settings = environment(&[
        ("FLOWLOG__OUTPUT", "17"),
        ("FLOWLOG__NETNS", r#"["blue", "/run/netns/red"]"#),
        ("FLOWLOG__EBPF", "false"),
        ("FLOWLOG__METRICS", "[::1]:9464"),
        ("FLOWLOG__WAL__SYNC", "\"batch\""),
        ("FLOWLOG__HOLD__TABLE_SHARE", "0"),
        ("FLOWLOG__ACTIVE_INTERVAL", "1h 30min"),
        ("FLOWLOG__PROCESS__CMDLINE", "full"),
    ])
    .unwrap();
    assert_eq!(settings.netns.as_deref(), Some(["blue".to_owned(), "/run/netns/red".to_owned()].as_slice()));
    let config = config(settings);
    assert_eq!(config.output, Path::new("17"));
    assert!(!config.ebpf);
    assert_eq!(config.metrics, Some("[::1]:9464".parse().unwrap()));
    assert_eq!(config.wal_sync, WalSync::Batch);
    assert_eq!(config.table_share_percent, 0);
    assert_eq!(config.active_interval, Some(Duration::from_secs(90 * 60)));
    assert_eq!(config.cmdline, cmdline::Mode::Full);
}

#[test]
fn filters_are_networks_names_and_numbers() {
    let text = "[filter.only]\nprotocol = ['tcp', '47']\n[filter.except]\naddress = ['10.1.2.3/8', '::1']\n";
    let environment = environment(&[
        ("FLOWLOG__FILTER__ONLY__ZONE", "[0, 7]"),
        ("FLOWLOG__FILTER__EXCEPT__MARK", r#"["0x10/0xf0", "7"]"#),
    ]);
    let filter = config(environment.unwrap().or(file(text).unwrap())).filter;
    let expected = concat!(
        r#"{"only":{"protocol":["tcp","gre"],"zone":[0,7]},"#,
        r#""except":{"address":["10.0.0.0/8","::1/128"],"mark":["0x10/0xf0","0x7/0xffffffff"]}}"#
    );
    assert_eq!(serde_json::to_string(&filter).unwrap(), expected);
}

#[test]
fn faults_of_a_file_have_their_place() {
    for (text, place, message) in [
        ("out = '/'", "1:1", "unknown field `out`, expected one of `output`, `netns`, "),
        ("[rotate]\nrows = 1\nbites = '1'", "3:1", "unknown field `bites`, expected one of `interval`, "),
        ("\n[rotat]\nrows = 1", "2:2", "unknown field `rotat`, expected one of "),
        ("rotate = 1", "1:10", "invalid type: integer `1`, expected a section with keys"),
        ("output = ''", "1:10", "invalid value: string \"\", expected the path of a directory"),
        ("ebpf = 'no'", "1:8", "invalid type: string \"no\", expected a boolean"),
        ("# ä\nmetrics = ':80'", "2:11", "invalid value: string \":80\", expected an address with a port"),
        (
            "delivery = 'fast'",
            "1:12",
            "invalid value: string \"fast\", expected \"reliable\" or \"best-effort\"",
        ),
        ("rotate.rows = 0", "1:15", "invalid value: integer `0`, expected a nonzero u64"),
        ("rotate.interval = '0s'", "1:19", "invalid value: string \"0s\", expected a duration with a unit"),
        ("rotate.interval = 90", "1:19", "invalid type: integer `90`, expected a duration with a unit"),
        ("rotate.bytes = '0MiB'", "1:16", "invalid value: string \"0MiB\", expected a size with a unit"),
        ("hold.table_share = 101", "1:20", "invalid value: integer `101`, expected 0 to 100"),
        (
            "hold.receive_buffer = '2GiB'",
            "1:23",
            "invalid value: string \"2GiB\", expected a size of at most",
        ),
        ("wal.sync = 'never'", "1:12", "invalid value: string \"never\", expected \"batch\", \"off\", or a"),
        ("process.cmdline = 'on'", "1:19", "invalid value: string \"on\", expected \"masked\", \"full\" or"),
        (
            "attribution.ring_buffer = '9MiB'",
            "1:27",
            "invalid value: string \"9MiB\", expected a power of two",
        ),
        (
            "attribution.ring_buffer = '4KiB'",
            "1:27",
            "invalid value: string \"4KiB\", expected a power of two",
        ),
        ("filter.only.zone = [-1]", "1:21", "invalid value: integer `-1`, expected u16"),
        (
            "filter.except.address = ['10.0.0.0/33']",
            "1:26",
            "invalid value: string \"10.0.0.0/33\", expected a network or an address, such as",
        ),
        (
            "[filter.only]\nprotocol = ['tpc']",
            "2:13",
            "invalid value: string \"tpc\", expected a protocol by name or number",
        ),
        ("filter.only.mark = ['1/0']", "1:21", "invalid value: string \"1/0\", expected a mark or its bits"),
        ("output = '/a'\noutput = '/b'", "2:1", "duplicate key"),
        ("ebpf = yes", "1:8", "string values must be quoted, expected literal string"),
        ("output = \"\n", "1:11", "invalid basic string, expected"),
    ] {
        let error = file(text).unwrap_err();
        let expected = format!("f.toml:{place}: {message}");
        assert!(error.starts_with(&expected), "found `{error}`, expected `{expected}`");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn faults_of_the_environment_have_their_variable() {
    for (name, value, message) in [
        ("FLOWLOG__OUT", "/", "unknown field `out`, expected one of "),
        ("FLOWLOG__", "/", "unknown field ``, expected one of "),
        ("FLOWLOG__WAL__SYNC__NOW", "1", "invalid type: map, expected \"batch\", "),
        ("FLOWLOG__ROTATE__ROWS", "many", "invalid type: string \"many\", expected a nonzero u64"),
        ("FLOWLOG__ROTATE__ROWS", "0", "invalid value: integer `0`, expected a nonzero u64"),
        ("FLOWLOG__ROTATE", "1", "invalid type: integer `1`, expected a section with keys"),
        ("FLOWLOG__EBPF", "maybe", "invalid type: string \"maybe\", expected a boolean"),
        ("FLOWLOG__NETNS", "blue", "invalid type: string \"blue\", expected a sequence"),
        ("FLOWLOG__WAL__SYNC", "never", "invalid value: string \"never\", expected \"batch\", "),
        ("FLOWLOG__wal__SYNC", "off", "found lower case in its name, expected upper case"),
    ] {
        let error = environment(&[(name, value)]).unwrap_err();
        let expected = format!("environment variable {name}: {message}");
        assert!(error.starts_with(&expected), "found `{error}`, expected `{expected}`");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let not_utf8 = (OsString::from("FLOWLOG__OUTPUT"), OsString::from_vec(vec![0xff]));
    let error = Settings::from_environment([not_utf8]).unwrap_err();
    assert_eq!(error.to_string(), "environment variable FLOWLOG__OUTPUT: its value is not UTF-8");
}

/// The file in the document.
fn documented() -> String {
    let (_, rest) = DOCUMENT.split_once("```toml\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// The text, with those keys that are behind this.
fn uncommented(text: &str, comment: &str) -> String {
    let uncommented = |line: &str| {
        let is_key = line
            .strip_prefix(comment)
            .and_then(|line| line.split_once(" = "))
            .is_some_and(|(key, _)| key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_'));
        line.strip_prefix(comment).filter(|_| is_key).unwrap_or(line).to_owned()
    };
    text.lines().map(uncommented).collect::<Vec<_>>().join("\n")
}

/// The file in the document, with the keys that have no default.
fn documented_in_full() -> String {
    uncommented(&documented(), "# ")
}

#[track_caller]
fn assert_has_the_defaults(text: &str) {
    let settings = file(text).unwrap();
    assert_eq!(format!("{:?}", config(settings)), format!("{:?}", config(Settings::default())));
}

#[track_caller]
fn assert_has_all_keys(text: &str) {
    let settings = file(text).unwrap();
    let debug = format!("{settings:#?}");
    assert!(!debug.contains("None"), "a key is missing: {debug}");
}

#[test]
fn the_document_has_the_defaults() {
    assert_has_the_defaults(&documented());
}

#[test]
fn the_document_has_all_keys_and_no_other() {
    assert_has_all_keys(&documented_in_full());
}

#[test]
fn the_packaged_file_sets_nothing() {
    assert_eq!(file(PACKAGED).unwrap(), Settings::default());
}

#[test]
fn the_packaged_file_has_all_keys_with_their_defaults() {
    let with_defaults = uncommented(PACKAGED, "#");
    assert_has_the_defaults(&with_defaults);
    assert_has_all_keys(&uncommented(&with_defaults, "# "));
}

/// The key, or those within it.
fn keys(key: &str, value: &toml::Value) -> Vec<String> {
    match value.as_table() {
        Some(section) => {
            section.iter().flat_map(|(inner, value)| keys(&format!("{key}.{inner}"), value)).collect()
        }
        None => vec![key.to_owned()],
    }
}

#[test]
fn the_document_names_all_variables() {
    let mut names = Vec::new();
    for (key, value) in documented_in_full().parse::<toml::Table>().unwrap() {
        names.extend(keys(&key, &value));
    }
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let variable = format!("FLOWLOG__{}", name.replace('.', "__").to_uppercase());
        let row = format!("| `{name}` | `{variable}`");
        assert!(DOCUMENT.contains(&row), "no row begins with {row}");
    }
}

#[test]
fn settings_that_make_each_other_void_are_named() {
    let conflicts = |text: &str| {
        let settings = file(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        settings.conflicts().map_err(|error| error.to_string())
    };
    let filter = |only: &str, except: &str| format!("[filter.only]\n{only}\n[filter.except]\n{except}\n");
    for (only, except, key) in [
        ("protocol = ['tcp', '17']", "protocol = ['udp', 'tcp', 'icmp']", "protocol"),
        ("address = ['10.1.0.0/16', '10.2.3.4']", "address = ['10.0.0.0/9', '10.128.0.0/9']", "address"),
        ("", "address = ['0.0.0.0/1', '128.0.0.0/1', '::/0']", "address"),
        ("zone = [7]", "zone = [7, 8]", "zone"),
        ("mark = ['0x11/0xff']", "mark = ['0x1/0xf']", "mark"),
        ("", "mark = ['0/0']", "mark"),
    ] {
        let error = conflicts(&filter(only, except)).unwrap_err();
        assert!(error.starts_with("nothing would be recorded"), "{error}");
        assert!(
            error.contains(&format!("`filter.except.{key}`")) && error.contains("`filter.only."),
            "{error}"
        );
    }
    let error = conflicts("[filter.only]\nprotocol = ['58']\naddress = ['10.0.0.0/8']\n").unwrap_err();
    assert!(error.contains("`filter.only.protocol`") && error.contains("`filter.only.address`"), "{error}");
    for (only, except) in [
        ("protocol = ['tcp', '17']", "protocol = ['tcp']"),
        ("address = ['10.0.0.0/8']", "address = ['10.0.0.0/9']"),
        ("", "address = ['0.0.0.0/0']"),
        ("mark = ['1/1']", "mark = ['0x11/0xff']"),
        ("protocol = ['58', 'tcp']\naddress = ['10.0.0.0/8']", ""),
        ("", ""),
    ] {
        assert_eq!(conflicts(&filter(only, except)), Ok(Vec::new()), "{only} {except}");
    }

    for (text, keys) in [
        ("ebpf = false\n[attribution]\nring_buffer = '4MiB'\n", ["attribution.ring_buffer", "ebpf"]),
        ("ebpf = false\n[process]\ncmdline = 'full'\n", ["process.cmdline", "ebpf"]),
        ("delivery = 'best-effort'\n[hold]\ntable_share = 9\n", ["hold.table_share", "delivery"]),
        ("[hold]\ntable_share = 0\n", ["hold.table_share", "delivery"]),
        ("[rotate]\ninterval = '2h'\n", ["rotate.interval", "its hour is over"]),
        ("[rotate]\ninterval = '200ms'\n", ["rotate.interval", "once a second"]),
        ("[rotate]\nbytes = '1KiB'\n", ["rotate.bytes", "a thousand rows"]),
        ("[wal]\nsync = '20min'\n", ["wal.sync", "rotate.interval"]),
        ("[retention]\nbytes = '100MiB'\n", ["retention.bytes", "rotate.bytes"]),
        ("[retention]\nage = '1min'\n", ["retention.age", "rotate.interval"]),
        ("dump_interval = '5min'\nactive_interval = '1min'\n", ["dump_interval", "active_interval"]),
        ("active_interval = '300ms'\n", ["active_interval", "every 100 ms"]),
        ("audit_interval = '5min'\n[filter.only]\nmark = ['1']\n", ["audit_interval", "mark"]),
    ] {
        let said = conflicts(text).unwrap();
        assert_eq!(said.len(), 1, "{text}: {said:?}");
        assert!(keys.iter().all(|key| said[0].contains(key)), "{text}: {said:?}");
    }
    // Nobody set what has no effect.
    for text in [
        "",
        "ebpf = false\n",
        "delivery = 'best-effort'\n",
        "[rotate]\ninterval = '1h'\n",
        "[filter.only]\nmark = ['1']\n",
    ] {
        assert_eq!(conflicts(text), Ok(Vec::new()), "{text}");
    }
}

#[test]
fn the_table_is_listed_often_enough_for_records_of_what_goes_on() {
    let interval = |text: &str| config(file(text).unwrap()).dump_interval;
    assert_eq!(interval(""), Duration::from_secs(60));
    assert_eq!(interval("active_interval = '2s'"), Duration::from_millis(200));
    assert_eq!(interval("active_interval = '5min'"), Duration::from_secs(30));
    assert_eq!(interval("active_interval = '1h'"), Duration::from_secs(60));
    assert_eq!(interval("active_interval = '5ns'"), Duration::from_millis(100));
    assert_eq!(interval("active_interval = '1h'\ndump_interval = '5s'"), Duration::from_secs(5));
}
