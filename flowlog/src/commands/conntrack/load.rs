//! `-R`: commands from a file, one a line.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};

use super::commands::Command;
use super::execute::{Session, execute};
use super::failure::Failure;
use super::parse::{self, Invocation};

/// Runs all commands of a file; none where one of them makes no sense. They are read again rather than
/// kept, since a file may save a whole table.
pub(super) fn load(path: &OsString) -> Result<(), Failure> {
    let text = read(path)
        .map_err(|_| Failure::usage(format!("Failed to open file {} for reading", path.to_string_lossy())))?;
    let lines = || {
        let lines = text.lines().map(|line| line.trim_start_matches([' ', '\t']));
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| parse::parse(words(line)))
    };
    // A line that makes no sense is told first, then a command that does not belong into a file.
    let mut checked = Ok(());
    for line in lines() {
        let line = line?;
        checked = checked.and_then(|()| check(&line));
    }
    checked?;
    let mut session = Session::default();
    lines().try_for_each(|line| execute(&line?, &mut session).map(|_| ()))
}

fn read(path: &OsString) -> io::Result<String> {
    let mut bytes = Vec::new();
    if path == "-" {
        io::stdin().read_to_end(&mut bytes)?;
    } else {
        bytes = fs::read(path)?;
    }
    // Without a copy where it is text, as it should be.
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Only commands that change the table of entries make sense in a file.
fn check(line: &Invocation) -> Result<(), Failure> {
    let name = match line.command {
        Some(Command::Create | Command::Add | Command::Update | Command::Delete | Command::Flush) => {
            return Ok(());
        }
        Some(Command::List) => "-L",
        Some(Command::Get) => "-G",
        Some(Command::Event) => "-E",
        Some(Command::Version) => "-V",
        Some(Command::Help) => "-h",
        Some(Command::Count) => "-C",
        Some(Command::Stats) => "-S",
        Some(Command::ExpList) => "-L expect",
        Some(Command::ExpCreate) => "-I expect",
        Some(Command::ExpDelete) => "-D expect",
        Some(Command::ExpGet) => "-G expect",
        Some(Command::ExpFlush) => "-F expect",
        Some(Command::ExpEvent) => "-E expect",
        Some(Command::ExpCount) => "-C expect",
        Some(Command::ExpStats) => "-S expect",
        None => "unknown",
    };
    Err(Failure::usage(format!("Cannot use command `{name}' with --load-file")))
}

/// The words of a line. Double quotes keep spaces together, a backslash in them keeps what follows it.
pub(super) fn words(line: &str) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut is_quoted = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => is_quoted = !is_quoted,
            '\\' if is_quoted => word.extend(characters.next()),
            ' ' | '\t' if !is_quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word).into());
                }
            }
            other => word.push(other),
        }
    }
    if !word.is_empty() {
        words.push(word.into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_words() {
        assert_eq!(words("-A  -s\t1.1.1.1 "), ["-A", "-s", "1.1.1.1"]);
        assert_eq!(words(r#"-l "a \"b\" c" x"#), ["-l", r#"a "b" c"#, "x"]);
        assert_eq!(words(""), [""; 0]);
    }
}
