//! `-C` and `-S`.

use std::io::{self, Write};

use super::commands::Command;
use super::failure::Failure;
use crate::connections::ctnetlink::Requests;
use crate::connections::ctnetlink::sets::{CpuStatistics, ExpectationStatistics};

/// Prints the number of entries.
pub(super) fn count(requests: &mut Requests) -> Result<u64, Failure> {
    let count = requests.count().map_err(|error| Failure::request(Command::Count, &error))?;
    writeln!(io::stdout(), "{count}")?;
    Ok(0)
}

/// Prints a line of counters for each CPU.
pub(super) fn cpus(requests: &mut Requests) -> Result<u64, Failure> {
    let mut lines = String::new();
    let each = |cpu, statistics: CpuStatistics| {
        let counters = [
            ("searched", statistics.searched),
            ("found", statistics.found),
            ("new", statistics.new),
            ("invalid", statistics.invalid),
            ("ignore", statistics.ignore),
            ("delete", statistics.delete),
            ("delete_list", statistics.delete_list),
            ("insert", statistics.insert),
            ("insert_failed", statistics.insert_failed),
            ("drop", statistics.drop),
            ("early_drop", statistics.early_drop),
            ("error", statistics.error),
            ("search_restart", statistics.search_restart),
            ("clash_resolve", statistics.clash_resolve),
            ("chaintoolong", statistics.chain_toolong),
        ];
        line(&mut lines, cpu, &counters);
    };
    requests.cpu_statistics(each).map_err(|error| Failure::request(Command::Stats, &error))?;
    write!(io::stdout(), "{lines}")?;
    Ok(0)
}

/// Prints a line of counters of expectations for each CPU.
pub(super) fn expectations(requests: &mut Requests) -> Result<u64, Failure> {
    let mut lines = String::new();
    let each = |cpu, statistics: ExpectationStatistics| {
        let counters = [
            ("expect_new", statistics.new),
            ("expect_create", statistics.create),
            ("expect_delete", statistics.delete),
        ];
        line(&mut lines, cpu, &counters);
    };
    requests.expectation_statistics(each).map_err(|error| Failure::request(Command::ExpStats, &error))?;
    write!(io::stdout(), "{lines}")?;
    Ok(0)
}

fn line(lines: &mut String, cpu: u16, counters: &[(&str, Option<u32>)]) {
    lines.push_str(&format!("cpu={cpu:<4}\t"));
    for (name, value) in counters {
        if let Some(value) = value {
            lines.push_str(&format!("{name}={value} "));
        }
    }
    lines.push('\n');
}
