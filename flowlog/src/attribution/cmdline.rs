//! The arguments of a program as one text, without the secrets that people put there.
//!
//! What is a secret is guessed from the names of options, variables and programs, and rather too much is
//! hidden than too little: `cmdline/secret_names.rs` has the names. A secret that nothing names (a password as a bare
//! argument) is not found.

mod secret_names;

use std::borrow::Cow;

use self::secret_names::{Attached, Secrets};

/// Stands for a secret.
const HIDDEN: &str = "***";

/// How long a text is at most, without [`CUT`]. What is no UTF-8 takes three times its bytes there.
const MAX_TEXT_BYTES: usize = flowlog_common::ARGS_LEN;

/// Stands for what did not fit.
const CUT: &str = "...";

/// What is recorded of the arguments of programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// All, but values of options that look like secrets.
    #[default]
    Masked,
    /// All.
    Full,
    /// Nothing.
    Off,
}

/// The text of arguments, separated by spaces; `None` where nothing is known or wanted. `args` is as the
/// kernel has it, each ended by a zero byte. `is_cut` says that there were more.
pub fn text(args: &[u8], is_cut: bool, mode: Mode) -> Option<String> {
    // Programs that write a title over their arguments leave zero bytes behind.
    let end = args.iter().rposition(|byte| *byte != 0)?;
    let args: Vec<_> = args.get(..=end)?.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let mut text = match mode {
        Mode::Off => return None,
        Mode::Full => args.join(" "),
        Mode::Masked => mask_all(args.iter().map(|arg| (" ", arg.as_ref()))),
    };
    let is_long = text.len() > MAX_TEXT_BYTES;
    text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
    if is_cut || is_long {
        text.push_str(CUT);
    }
    Some(text)
}

/// What the next argument is.
#[derive(Clone, Copy)]
enum Next {
    Plain,
    Secret,
    /// A user, and perhaps a password after a colon.
    User,
    /// A line for a shell.
    Script,
}

/// Hides the secrets of arguments, each with what separates it from the one before.
fn mask_all<'a>(args: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    let mut next = Next::Plain;
    let mut known = Secrets::default();
    for (number, (separator, arg)) in args.enumerate() {
        if number > 0 {
            text.push_str(separator);
        }
        // `sudo`, `env` and others have the name of the program among their arguments.
        known.look_at(arg);
        let is_first = number == 0;
        let (masked, then) = match next {
            _ if is_first => (mask_text(arg), Next::Plain),
            Next::Secret => (Cow::Borrowed(HIDDEN), Next::Plain),
            Next::User if password(arg).is_some() => (mask_password(arg), Next::Plain),
            Next::Script => (mask_script(arg).into(), Next::Plain),
            Next::Plain | Next::User => mask_arg(arg, &known),
        };
        text.push_str(&masked);
        next = then;
    }
    text
}

/// Hides the secrets of an argument of which the one before says nothing, and says what it tells of the next.
fn mask_arg<'a>(arg: &'a str, known: &Secrets) -> (Cow<'a, str>, Next) {
    match known.attached(arg) {
        Some(Attached::Here(option)) => return (format!("{option}{HIDDEN}").into(), Next::Plain),
        Some(Attached::Next) => return (arg.into(), Next::Secret),
        None => {}
    }
    let name = arg.trim_start_matches('-');
    let is_option = name.len() < arg.len();
    if is_option && known.is_script(arg) {
        return (arg.into(), Next::Script);
    }
    if is_option && secret_names::is_user(arg) {
        return (arg.into(), Next::User);
    }
    if let Some((option, user)) = arg.split_once('=')
        && secret_names::is_user(option)
    {
        return (format!("{option}={}", mask_password(user)).into(), Next::Plain);
    }
    let is_name = name.chars().all(is_in_name);
    if is_option && is_name && secret_names::is_secret(name) {
        return (arg.into(), Next::Secret);
    }
    if arg.contains(char::is_whitespace) {
        // A line for a shell elsewhere, a header, a document: first as the one, then as the other.
        return (mask_text(&mask_script(arg)).into_owned().into(), Next::Plain);
    }
    (mask_text(arg), Next::Plain)
}

/// Hides the secrets of a line for a shell, word by word.
fn mask_script(script: &str) -> String {
    let unquoted = ['"', '\''].into_iter().find_map(|quote| {
        let inner = script.strip_prefix(quote)?.strip_suffix(quote)?;
        (!inner.contains(quote)).then_some((quote, inner))
    });
    match unquoted {
        Some((quote, inner)) => format!("{quote}{}{quote}", mask_script(inner)),
        None => {
            let mut words = words(script).peekable();
            // What is before the first word belongs to it.
            let space = words.peek().map_or("", |(space, _)| *space);
            format!("{space}{}", mask_all(words))
        }
    }
}

/// The words of a line for a shell, each with the space before it. Quotes stay.
fn words(mut rest: &str) -> impl Iterator<Item = (&str, &str)> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let word = rest.trim_start();
        let (space, _) = rest.split_at(rest.len() - word.len());
        let (word, following) = word.split_at(word_len(word));
        rest = following;
        Some((space, word))
    })
}

fn word_len(text: &str) -> usize {
    let mut quote = None;
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            _ if is_escaped => is_escaped = false,
            Some('\'') if c != '\'' => {}
            _ if c == '\\' => is_escaped = true,
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c.is_whitespace() => return at,
            _ => {}
        }
    }
    text.len()
}

/// Hides what follows the names of secrets in a text, and passwords in URLs.
fn mask_text(text: &str) -> Cow<'_, str> {
    let mut masked = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(authority) = rest.strip_prefix("://") {
            masked.push_str("://");
            let (hidden, following) = mask_authority(authority);
            masked.push_str(&hidden);
            rest = following;
            continue;
        }
        let name_len = rest.find(|c| !is_in_name(c)).unwrap_or(rest.len());
        let (name, following) = rest.split_at(if name_len == 0 { first.len_utf8() } else { name_len });
        masked.push_str(name);
        rest = following;
        if name_len == 0 || !secret_names::is_secret(name.trim_start_matches('-')) {
            continue;
        }
        let Some(separator_len) = separator_len(following, name) else { continue };
        let (separator, value) = following.split_at(separator_len);
        if value.is_empty() {
            continue;
        }
        masked.push_str(separator);
        masked.push_str(HIDDEN);
        // Of a secret that begins the argument, quotes are a part. Elsewhere they end it.
        let is_whole = masked.len() == name.len() + separator.len() + HIDDEN.len();
        let quote = separator.chars().last().filter(|c| !is_whole && is_quote(*c));
        rest = quote.and_then(|quote| after_quoted(value, quote)).unwrap_or_default();
    }
    // Most have no secrets.
    if masked == text { text.into() } else { masked.into() }
}

/// Length of what is between the name of a secret and its value, with the quote that opens the value;
/// `None` where this is no such name. A name that begins with a dash, or is one of a scheme, needs only a
/// space.
fn separator_len(following: &str, name: &str) -> Option<usize> {
    let after_quotes = following.trim_start_matches(['"', '\'', '\\', ']']);
    let after_space = after_quotes.trim_start();
    // `"--password", "value"`: a list in a document or a program.
    let is_in_list = after_quotes.len() < following.len() && after_space.starts_with(',');
    let value = match after_space.strip_prefix([':', '=']) {
        None if is_in_list => after_space.trim_start_matches(',').trim_start(),
        Some(_) if after_space.starts_with("://") => return None,
        Some(after) => after.trim_start_matches(['=', '>']).trim_start(),
        None if after_space.len() == after_quotes.len() => return None,
        None if name.starts_with('-') || name.eq_ignore_ascii_case("bearer") => after_space,
        None => return None,
    };
    let escaped = value.strip_prefix('\\').unwrap_or(value);
    let value = escaped.strip_prefix(is_quote).unwrap_or(value);
    Some(following.len() - value.len())
}

fn is_quote(c: char) -> bool {
    c == '"' || c == '\''
}

/// What is left of a text from the quote on that ends a value; `None` where none does.
fn after_quoted(value: &str, quote: char) -> Option<&str> {
    let mut is_escaped = false;
    let end = value.char_indices().find(|&(_, c)| {
        let ends = c == quote && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    });
    value.get(end?.0..)
}

/// Hides the password, or what stands alone before the host, in what follows the `://` of a URL.
fn mask_authority(text: &str) -> (String, &str) {
    let end = text.find(|c: char| c.is_whitespace() || is_quote(c)).unwrap_or(text.len());
    let (url, _) = text.split_at(end);
    let (authority, _) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
    // A password with characters that it must not have there looks as a port that is no number.
    let is_port = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let in_authority = authority.rfind('@');
    let user_len = match (in_authority, authority.split_once(':')) {
        (None, Some((host, port))) if !is_port(port) && !host.starts_with('[') => url.rfind('@'),
        _ => in_authority,
    };
    let Some(user_len) = user_len else { return (String::new(), text) };
    let (user, following) = text.split_at(user_len);
    match user.split_once(':') {
        Some((user, _)) => (format!("{user}:{HIDDEN}"), following),
        None => (HIDDEN.to_owned(), following),
    }
}

/// The password of `user:password` or `user%password`. Two numbers are a user and a group.
fn password(user: &str) -> Option<&str> {
    let (user, password) = user.split_once([':', '%'])?;
    let is_number = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    (!(is_number(user) && is_number(password))).then_some(password)
}

fn mask_password(user: &str) -> Cow<'_, str> {
    match password(user).and_then(|password| user.strip_suffix(password)) {
        Some(user) => format!("{user}{HIDDEN}").into(),
        None => user.into(),
    }
}

/// What names of options, variables and fields are made of.
fn is_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

#[cfg(test)]
mod tests;
