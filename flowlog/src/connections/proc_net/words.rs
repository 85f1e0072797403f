//! A line as words, and what is wrong with it.

use std::str::FromStr;

/// How much of a word an error shows.
const MAX_SHOWN_CHARS: usize = 60;

/// A line is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {found}, expected {expected}")]
pub struct ParseError {
    /// Where: the number of the character in the line, from 1.
    pub column: usize,
    /// What is there.
    pub found: String,
    /// What should be there.
    pub expected: &'static str,
}

/// What is left of a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    line: &'a str,
    /// Begins with a word, or is empty.
    rest: &'a str,
}

impl<'a> Words<'a> {
    pub(super) fn new(line: &'a str) -> Self {
        Self { line, rest: line.trim_start_matches(is_space) }
    }

    /// The next word; empty at the end of the line.
    pub(super) fn peek(&self) -> &'a str {
        self.rest.split(is_space).next().unwrap_or_default()
    }

    pub(super) fn next(&mut self) -> &'a str {
        let word = self.peek();
        self.skip(word.len());
        word
    }

    /// Goes behind the next word where it is this one.
    pub(super) fn take(&mut self, word: &str) -> bool {
        let is_next = self.peek() == word;
        if is_next {
            self.next();
        }
        is_next
    }

    /// What is left up to a closing bracket, without the bracket.
    pub(super) fn bracketed(&mut self) -> Option<&'a str> {
        let (text, _) = self.rest.split_once(']')?;
        self.skip(text.len() + 1);
        Some(text)
    }

    /// What is left up to such a character that ends a word, without it, and the words behind it.
    pub(super) fn up_to(&self, end: char) -> Option<(&'a str, Self)> {
        let (text, rest) = self.rest.split_once(end)?;
        if !rest.is_empty() && !rest.starts_with(is_space) {
            return None;
        }
        Some((text, Self { line: self.line, rest: rest.trim_start_matches(is_space) }))
    }

    /// The value of `key=…` that may have blanks: up to a word that `is_next`, or to the end of the line.
    pub(super) fn text(&mut self, key: &str, is_next: impl Fn(&str) -> bool) -> Result<&'a str, ParseError> {
        let mut value = *self;
        value.skip_exactly(key.len() + 1);
        self.value(key)?;
        while !self.peek().is_empty() && !is_next(self.peek()) {
            self.next();
        }
        let bytes = value.rest.len() - self.rest.len();
        Ok(value.rest.get(..bytes).unwrap_or_default().trim_end_matches(is_space))
    }

    /// Goes to the end of the line.
    pub(super) fn skip_all(&mut self) {
        self.rest = "";
    }

    /// Whether the next word is `key=…`.
    pub(super) fn is_at(&self, key: &str) -> bool {
        self.rest.strip_prefix(key).is_some_and(|rest| rest.starts_with('='))
    }

    pub(super) fn number<T: FromStr>(&mut self, expected: &'static str) -> Result<T, ParseError> {
        let number = decimal(self.peek()).ok_or_else(|| self.error(expected))?;
        self.next();
        Ok(number)
    }

    /// The number of `key=number`.
    pub(super) fn field<T: FromStr>(&mut self, key: &str, expected: &'static str) -> Result<T, ParseError> {
        self.parsed(key, |text| decimal(text).ok_or(()), expected)
    }

    /// The value of `key=value`, which is not empty.
    pub(super) fn value(&mut self, key: &str) -> Result<&'a str, ParseError> {
        self.parsed(key, |text| Some(text).filter(|text| !text.is_empty()).ok_or(()), "a value behind `=`")
    }

    /// The value of `key=value` as `parse` reads it.
    pub(super) fn parsed<T, E>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&'a str) -> Result<T, E>,
        expected: &'static str,
    ) -> Result<T, ParseError> {
        if !self.is_at(key) {
            return Err(self.error(expected));
        }
        let mut value = *self;
        value.skip_exactly(key.len() + 1);
        let parsed = parse(value.peek()).map_err(|_| value.error(expected))?;
        self.next();
        Ok(parsed)
    }

    /// The next word is not what was expected.
    pub(super) fn error(&self, expected: &'static str) -> ParseError {
        let before = self.line.len() - self.rest.len();
        let column = self.line.get(..before).unwrap_or_default().chars().count() + 1;
        let found = match self.peek() {
            "" if self.rest.is_empty() => "the end of the line".to_owned(),
            // A value that is empty.
            "" => "a space".to_owned(),
            word => {
                let shown: String = word.chars().take(MAX_SHOWN_CHARS).collect();
                format!("`{}`", shown.escape_debug())
            }
        };
        ParseError { column, found, expected }
    }

    /// The value of `key=value`, which is next, is not what was expected.
    pub(super) fn value_error(&self, key: &str, expected: &'static str) -> ParseError {
        let mut value = *self;
        value.skip_exactly(key.len() + 1);
        value.error(expected)
    }

    fn skip(&mut self, bytes: usize) {
        self.skip_exactly(bytes);
        self.rest = self.rest.trim_start_matches(is_space);
    }

    fn skip_exactly(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }
}

/// A number of digits only.
pub(super) fn decimal<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_space(c: char) -> bool {
    c == ' ' || c == '\t'
}
