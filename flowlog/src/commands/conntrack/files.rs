//! Files that give names to numbers.

use std::fs;
use std::path::Path;

use super::failure::say;
use crate::connections::proc_net::LabelNames;

/// Names of connection labels.
const LABELS: &str = "/etc/xtables/connlabel.conf";

/// Names of protocols, protocols(5).
const PROTOCOLS: &str = "/etc/protocols";

/// The names of labels; none, and a message, where the file cannot be read.
pub(super) fn label_names() -> LabelNames {
    match fs::read_to_string(LABELS) {
        Ok(text) => LabelNames::parse(&text),
        Err(error) => {
            say(&format!("cannot read {LABELS}: {error}"));
            LabelNames::default()
        }
    }
}

/// The number of a protocol by one of its names.
pub(super) fn protocol_number(name: &str) -> Option<u8> {
    find_protocol(|words| words.contains(&name) && words.get(1) != Some(&name)).map(|(_, number)| number)
}

/// The name of a protocol.
pub(super) fn protocol_name(number: u8) -> Option<String> {
    let number = number.to_string();
    find_protocol(|words| words.get(1) == Some(&number.as_str())).map(|(name, _)| name)
}

/// The first line of which the words (name, number, more names) fit.
fn find_protocol(fits: impl Fn(&[&str]) -> bool) -> Option<(String, u8)> {
    let text = fs::read_to_string(Path::new(PROTOCOLS)).ok()?;
    text.lines().find_map(|line| {
        let words: Vec<&str> = line.split('#').next()?.split_whitespace().collect();
        let [name, number, ..] = words[..] else { return None };
        fits(&words).then(|| Some((name.to_owned(), number.parse().ok()?)))?
    })
}
