//! `-h`.

use std::io::{self, Write};

use super::failure::Failure;
use super::files;
use super::options::{OPTIONS, Spec, Takes, What};
use super::protocols::Known;
use crate::flow::Protocol;

/// Prints all options, and those of a protocol.
pub(super) fn print(protocol: Option<Protocol>) -> Result<(), Failure> {
    Ok(write(&mut io::stdout().lock(), protocol)?)
}

/// Writes all options, and those of a protocol.
pub(super) fn write(out: &mut impl Write, protocol: Option<Protocol>) -> io::Result<()> {
    writeln!(
        out,
        "Lists, changes and watches the kernel's connection tracking, as conntrack(8) 1.4.7 does."
    )?;
    writeln!(out, "Usage: conntrack COMMAND [TABLE] [OPTION]...")?;
    writeln!(out, "Tables: conntrack (default), expect, dying, unconfirmed")?;
    let (commands, options): (Vec<&Spec>, Vec<&Spec>) =
        OPTIONS.iter().partition(|spec| matches!(spec.what, What::Command(_)));
    writeln!(out, "\nCommands:")?;
    commands.into_iter().try_for_each(|spec| describe(out, spec))?;
    writeln!(out, "  -R, --load-file FILE")?;
    writeln!(out, "\nOptions:")?;
    options.into_iter().try_for_each(|spec| describe(out, spec))?;
    if let Some(protocol) = protocol {
        let known = Known::by_number(protocol);
        let name = match known {
            Some(known) => known.name.to_owned(),
            None => files::protocol_name(protocol.0).unwrap_or_else(|| protocol.0.to_string()),
        };
        writeln!(out, "\nOptions of {name}:")?;
        match known {
            Some(known) => known.options.iter().try_for_each(|spec| describe(out, spec))?,
            None => writeln!(out, "  none")?,
        }
    }
    writeln!(out, "\nconntrack(8) explains the options.")?;
    Ok(())
}

fn describe(out: &mut impl Write, spec: &Spec) -> io::Result<()> {
    let Spec { long, short, takes, what } = spec;
    let short = short.map(|letter| format!("-{letter}, ")).unwrap_or_default();
    let value = match (takes, what) {
        (Takes::OptionalValue, What::Command(_)) => " [TABLE]",
        (Takes::OptionalValue, _) => " [VALUE]",
        (Takes::Value, _) => " VALUE",
        (Takes::Nothing, _) => "",
    };
    writeln!(out, "  {short}--{long}{value}")
}
