//! Entries and expectations to stdout, in the format that was asked for.

use std::io::{self, BufWriter, Write};
use std::time::SystemTime;

use jiff::tz::TimeZone;

use super::failure::Failure;
use super::parse::Invocation;
use super::save;
use super::values::Format;
use crate::connections::ctnetlink::decode::EventKind;
use crate::connections::ctnetlink::{Entry, Expectation};
use crate::connections::proc_net::print::Style;
use crate::connections::proc_net::{LabelNames, print, xml};
use crate::host::time_zone;
use crate::time::since_1970;

/// Room for lines that are written with one system call.
const BUFFER_BYTES: usize = 64 * 1024;

/// Writes to stdout.
pub(super) struct Printer {
    out: BufWriter<io::Stdout>,
    /// The line that is being made.
    line: Vec<u8>,
    format: Format,
    label_names: Option<LabelNames>,
    time_zone: TimeZone,
    /// The XML element around all that is printed; none for a list that is no document.
    root: Option<&'static str>,
    is_open: bool,
}

impl Printer {
    pub(super) fn new(invocation: &Invocation, root: Option<&'static str>) -> Result<Self, Failure> {
        let format = invocation.format;
        // Nothing else is printed in local time.
        let time_zone = if format.ktimestamp || format.xml { time_zone::local() } else { Ok(TimeZone::UTC) };
        let time_zone = time_zone.map_err(|error| Failure::usage(error.to_string()))?;
        Ok(Self {
            out: BufWriter::with_capacity(BUFFER_BYTES, io::stdout()),
            line: Vec::new(),
            format,
            // They may have been read for a filter only.
            label_names: invocation.label_names.clone(),
            time_zone,
            root: root.filter(|_| format.xml),
            is_open: false,
        })
    }

    /// Prints an entry of a list.
    pub(super) fn entry(&mut self, entry: &Entry) -> Result<(), Failure> {
        self.begin()?;
        self.make(entry, EventKind::Other, EventKind::New, self.format.ktimestamp, true);
        self.end("")
    }

    /// Prints an entry that was removed.
    pub(super) fn removed(&mut self, entry: &Entry) -> Result<(), Failure> {
        self.line.clear();
        self.make(entry, EventKind::Other, EventKind::Destroy, false, false);
        self.end("")
    }

    /// Prints an entry that was changed.
    pub(super) fn changed(&mut self, entry: &Entry) -> Result<(), Failure> {
        self.line.clear();
        self.make(entry, EventKind::Other, EventKind::New, false, true);
        self.end("")
    }

    /// Prints an event at once; `cause` is added to it.
    pub(super) fn event(&mut self, entry: &Entry, event: EventKind, cause: &str) -> Result<(), Failure> {
        self.begin()?;
        self.time_of_event();
        self.make(entry, event, event, self.format.ktimestamp, true);
        self.end(cause)?;
        Ok(self.out.flush()?)
    }

    /// Prints an expectation.
    pub(super) fn expectation(&mut self, expectation: &Expectation, event: EventKind) -> Result<(), Failure> {
        self.begin()?;
        self.time_of_event();
        if self.format.xml {
            let style = style(self.format, None, &self.time_zone, false);
            xml::expectation(&mut self.line, expectation, event, &style);
        } else {
            print::expectation(&mut self.line, expectation, event);
        }
        self.end("")
    }

    /// Prints any line.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Ends the document.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        if let Some(root) = self.root.filter(|_| self.is_open) {
            writeln!(self.out, "</{root}>")?;
        }
        self.flush()
    }

    /// What was printed so far becomes visible.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }

    fn begin(&mut self) -> Result<(), Failure> {
        self.line.clear();
        if let Some(root) = self.root.filter(|_| !self.is_open) {
            self.is_open = true;
            write!(self.out, "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<{root}>\n")?;
        }
        Ok(())
    }

    fn make(&mut self, entry: &Entry, event: EventKind, saved_as: EventKind, timestamps: bool, labels: bool) {
        let names = self.label_names.as_ref().filter(|_| labels);
        let style = style(self.format, names, &self.time_zone, timestamps);
        if self.format.save {
            save::entry(&mut self.line, entry, saved_as);
        } else if self.format.xml {
            xml::entry(&mut self.line, entry, event, &style);
        } else {
            print::entry(&mut self.line, entry, event, &style);
        }
    }

    /// XML has it at another place.
    fn time_of_event(&mut self) {
        if self.format.timestamp && !self.format.xml {
            let now = since_1970(SystemTime::now());
            let (seconds, micros) = (now.as_secs(), now.subsec_micros());
            // Writing into memory cannot fail.
            let _ = write!(self.line, "[{seconds:<8}.{micros:06}]\t");
        }
    }

    fn end(&mut self, more: &str) -> Result<(), Failure> {
        self.line.extend_from_slice(more.as_bytes());
        self.line.push(b'\n');
        Ok(self.out.write_all(&self.line)?)
    }
}

fn style<'a>(
    format: Format,
    labels: Option<&'a LabelNames>,
    time_zone: &'a TimeZone,
    timestamps: bool,
) -> Style<'a> {
    Style {
        layer3: format.extended,
        of_kernel: false,
        gre_timeouts_s: None,
        id: format.id,
        timestamps,
        labels,
        when: format.timestamp,
        now_s: since_1970(SystemTime::now()).as_secs(),
        time_zone,
    }
}
