//! Writes the man pages and the completions of shells, for packages: `manual DIRECTORY DATE`. It is an example, so that the
//! daemon has no code for it.

#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a command")]

use std::env;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use flowlog::commands::{cli, conntrack};

/// What all commands exit with.
const EXIT_CODES: [(&str, &str); 3] = [("0", "success"), ("1", "failure"), ("2", "wrong usage")];

/// Files, and what they are.
const FILES: [(&str, &str); 2] = [
    (
        "/etc/flowlog/flowlog.toml",
        "settings of flowlog run, if no other file is given; each is explained there",
    ),
    ("/var/log/flowlog", "the flow log, if no other directory is given"),
];

/// Variables of the environment, and what they do.
const VARIABLES: [(&str, &str); 2] = [
    ("FLOWLOG_LOG", "which lines go to standard error, for example debug"),
    (
        "FLOWLOG__SECTION__KEY",
        "a setting of flowlog run, for example FLOWLOG__ROTATE__INTERVAL=5min; it wins over the file",
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [directory, date] = arguments.as_slice() else {
        eprintln!("usage: manual DIRECTORY DATE");
        return ExitCode::from(2);
    };
    match write_all(Path::new(directory), date) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manual: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Man pages go to `man`, completions to a directory for each shell.
fn write_all(directory: &Path, date: &str) -> io::Result<()> {
    let mut flowlog = cli::Args::command().disable_help_subcommand(true);
    flowlog.build();

    let man = directory.join("man");
    fs::create_dir_all(&man)?;
    write_page(&flowlog, &flowlog, date, &man)?;
    for command in flowlog.get_subcommands() {
        write_page(command, &flowlog, date, &man)?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let completions = directory.join(shell.to_string());
        fs::create_dir_all(&completions)?;
        clap_complete::generate_to(shell, &mut cli::Args::command(), "flowlog", completions)?;
    }
    Ok(())
}

/// The page of a command. `flowlog` has all commands.
fn write_page(command: &Command, flowlog: &Command, date: &str, directory: &Path) -> io::Result<()> {
    let version = flowlog.get_version().unwrap_or_default();
    let man = Man::new(command.clone()).date(date).source(format!("flowlog {version}")).manual("flowlog");
    let name = man.get_filename();
    let mut file = File::create(directory.join(&name))?;
    man.render_title(&mut file)?;
    man.render_name_section(&mut file)?;
    man.render_synopsis_section(&mut file)?;
    man.render_description_section(&mut file)?;
    let is_conntrack = command.get_name() == "conntrack";
    if is_conntrack {
        // Its options are those of conntrack(8), which it reads itself.
        write_conntrack(&mut file)?;
    } else {
        man.render_options_section(&mut file)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut file)?;
    }

    let mut more = Roff::new();
    section(&mut more, "EXIT STATUS", &EXIT_CODES);
    section(&mut more, "ENVIRONMENT", &VARIABLES);
    section(&mut more, "FILES", &FILES);
    more.control("SH", ["SEE ALSO"]);
    let pages = [flowlog].into_iter().chain(flowlog.get_subcommands());
    let mut others: Vec<String> = pages
        .map(|page| page.get_display_name().unwrap_or_else(|| page.get_name()).to_owned())
        .filter(|other| name != format!("{other}.1"))
        .map(|other| format!("{other}(1)"))
        .collect();
    if is_conntrack {
        others.push("conntrack(8)".to_owned());
    }
    more.text([roman(others.join(", "))]);
    more.control("PP", []);
    more.text([roman("/usr/share/doc/flowlog has the documentation.")]);
    more.to_writer(&mut file)?;
    file.flush()
}

/// A section that explains some names.
fn section(page: &mut Roff, title: &str, names: &[(&str, &str)]) {
    page.control("SH", [title]);
    for (name, does) in names {
        page.control("TP", []);
        page.text([bold(*name)]);
        page.text([roman(*does)]);
    }
}

/// What `flowlog conntrack -h` prints, as it is printed.
fn write_conntrack(file: &mut File) -> io::Result<()> {
    let mut help = Vec::new();
    conntrack::write_help(&mut help)?;
    let mut page = Roff::new();
    page.control("SH", ["OPTIONS"]);
    page.control("nf", []);
    page.text([roman(String::from_utf8_lossy(&help).into_owned())]);
    page.control("fi", []);
    page.to_writer(file)
}
