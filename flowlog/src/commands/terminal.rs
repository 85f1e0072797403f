//! What commands show on a terminal: tables, and the progress of what may take long.

use std::time::{Duration, Instant};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// When it is shown: most work is done in a moment.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// A bar that counts bytes.
pub(crate) struct Bar {
    bar: ProgressBar,
    /// Until it is shown.
    shown_from: Option<Instant>,
}

impl Bar {
    /// Not shown yet.
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        let style =
            ProgressStyle::with_template("{bar:40} {binary_bytes} of {binary_total_bytes}, {eta} left");
        let bar = match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        Self { bar, shown_from: Some(Instant::now() + SHOWN_AFTER) }
    }

    /// So much is done.
    pub(crate) fn set(&mut self, done_bytes: u64, total_bytes: u64) {
        if self.shown_from.take_if(|shown_from| Instant::now() > *shown_from).is_some() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        }
        self.bar.set_length(total_bytes.max(done_bytes));
        self.bar.set_position(done_bytes);
    }

    /// All is done.
    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// An empty table that is to be as wide as the terminal.
pub(crate) fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    // A serial line does not tell its width, and would get columns of one letter.
    if table.width() == Some(0) {
        table.set_width(80);
    }
    table
}
