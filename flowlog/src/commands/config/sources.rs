//! Where settings come from: a file and the environment. Flags are the command line's.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;
use toml::{Table, Value};

use super::Settings;

/// What the variables of the environment begin with.
const PREFIX: &str = "FLOWLOG__";

/// What separates the section from the key in the name of a variable.
const SEPARATOR: &str = "__";

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of the file.
    #[error("{}:{line}:{column}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What was found and what was expected.
        message: String,
    },
    /// A variable of the environment.
    #[error("environment variable {name}: {message}")]
    Variable {
        /// Its name.
        name: String,
        /// What was found and what was expected.
        message: String,
    },
    /// Settings that make each other void.
    #[error("{0}")]
    Conflict(String),
}

impl Settings {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, or has anything in it that is not known.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::from_toml(path, &text)
    }

    pub(super) fn from_toml(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or(text);
            let last_line = before.rsplit('\n').next().unwrap_or_default();
            ConfigError::File {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: last_line.chars().count() + 1,
                message: one_line(error.message()),
            }
        })
    }

    /// Takes the variables `FLOWLOG__KEY` and `FLOWLOG__SECTION__KEY` out of the environment.
    ///
    /// # Errors
    ///
    /// Where one has a name or a value that is not known.
    pub fn from_environment(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut settings = Self::default();
        for (name, value) in variables {
            let Some(key) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
            let error = |message| ConfigError::Variable { name: format!("{PREFIX}{key}"), message };
            if key.contains(|letter: char| letter.is_ascii_lowercase()) {
                return Err(error("found lower case in its name, expected upper case".to_owned()));
            }
            let value = value.to_str().ok_or_else(|| error("its value is not UTF-8".to_owned()))?;
            let read = Self::from_variable(&key.to_ascii_lowercase(), value)
                .map_err(|message| error(one_line(&message)))?;
            settings = read.or(settings);
        }
        Ok(settings)
    }

    /// The value is written as in the file, where quotes around text may be left out: a number or a list is
    /// taken for one where text does not fit.
    fn from_variable(key: &str, text: &str) -> Result<Self, String> {
        let read = |value| {
            let nested = key
                .rsplit(SEPARATOR)
                .fold(value, |value, key| Value::Table(Table::from_iter([(key.to_owned(), value)])));
            Self::deserialize(nested).map_err(|error| error.message().to_owned())
        };
        read(Value::String(text.to_owned())).or_else(|message| match text.parse() {
            Ok(value) => read(value),
            Err(_) => Err(message),
        })
    }
}

/// A message of several lines as one.
fn one_line(message: &str) -> String {
    message.lines().collect::<Vec<_>>().join(", ")
}
