//! What measurements have in common: samples, tables and their JSON.

use std::borrow::Cow;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Map, Value, json};

use crate::sh;

/// The same figure, measured several times.
#[derive(Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// Adds what is known of several.
    pub(super) fn extend(&mut self, samples: impl IntoIterator<Item = f64>) {
        self.0.extend(samples);
    }

    /// The median and the quartiles around it: half of the samples are between those. `None` without any.
    pub(super) fn quartiles(&self) -> Option<[f64; 3]> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |quarter: usize| {
            // Between two samples where it falls there.
            let (low, rest) = (quarter * last / 4, quarter * last % 4);
            let (low, high) = (sorted.get(low)?, sorted.get(low + usize::from(rest > 0))?);
            Some(low + (high - low) * small(rest) / 4.0)
        };
        Some([at(1)?, at(2)?, at(3)?])
    }

    /// The median; not a number without any sample.
    pub(super) fn median(&self) -> f64 {
        self.quartiles().map_or(f64::NAN, |[_, median, _]| median)
    }
}

/// A number that is small enough to be exact.
fn small(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

/// A count as a figure: exact far beyond what can be counted here.
pub(super) fn figure(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

/// One cell of a table.
pub(super) enum Cell {
    /// A name.
    Text(String),
    /// A figure, and how many decimals of it are shown.
    Figure(f64, usize),
}

/// Figures of one kind.
pub(super) struct Section {
    /// What they are about: the heading of the table.
    pub(super) title: String,
    /// Their name in JSON.
    pub(super) key: Cow<'static, str>,
    /// Names of the columns, with units. JSON has them as they are, the table with spaces.
    pub(super) columns: &'static [&'static str],
    pub(super) rows: Vec<Vec<Cell>>,
}

/// All that a measurement found.
pub(super) struct Report {
    /// Its name on the command line.
    pub(super) name: &'static str,
    pub(super) sections: Vec<Section>,
}

impl Report {
    /// Prints a table for each section.
    pub(super) fn print(&self) {
        for section in &self.sections {
            let mut table = Table::new();
            table.load_preset(presets::UTF8_FULL_CONDENSED);
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_header(section.columns.iter().map(|column| column.replace('_', " ")));
            for row in &section.rows {
                table.add_row(row.iter().map(|cell| {
                    match cell {
                        Cell::Text(text) => comfy_table::Cell::new(text),
                        // There is nothing to compare with, or nothing was kept.
                        Cell::Figure(figure, _) if figure.is_nan() => comfy_table::Cell::new("-"),
                        Cell::Figure(figure, decimals) => {
                            comfy_table::Cell::new(format!("{figure:.decimals$}"))
                                .set_alignment(CellAlignment::Right)
                        }
                    }
                }));
            }
            println!("\n{}\n{table}", section.title);
        }
    }

    /// The figures without rounding, and where they were taken.
    pub(super) fn to_json(&self) -> Value {
        let mut sections = Map::new();
        for section in &self.sections {
            let rows = section.rows.iter().map(|row| {
                let cells = section.columns.iter().zip(row).map(|(column, cell)| {
                    let value = match cell {
                        Cell::Text(text) => json!(text),
                        Cell::Figure(figure, _) => json!(figure),
                    };
                    ((*column).to_owned(), value)
                });
                Value::Object(cells.collect())
            });
            sections.insert(section.key.to_string(), rows.collect());
        }
        let kernel = sh::output(std::process::Command::new("uname").args(["-srm"])).ok();
        json!({
            "bench": self.name,
            "kernel": kernel.as_deref().map(str::trim),
            "cpus": std::thread::available_parallelism().ok(),
            "sections": sections,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_between_samples_where_they_fall_there() {
        let quartiles = |samples: &[f64]| Samples(samples.to_vec()).quartiles();
        assert_eq!(quartiles(&[]), None);
        assert_eq!(quartiles(&[7.0]), Some([7.0; 3]));
        assert_eq!(quartiles(&[4.0, 1.0, 3.0, 2.0]), Some([1.75, 2.5, 3.25]));
        assert_eq!(quartiles(&[5.0, 1.0, 4.0, 2.0, 3.0]), Some([2.0, 3.0, 4.0]));
    }

    #[test]
    fn a_report_as_json_has_the_columns_as_names() {
        let section = Section {
            title: "Rates".to_owned(),
            key: "rates".into(),
            columns: &["of", "per_s"],
            rows: vec![vec![Cell::Text("all".to_owned()), Cell::Figure(1.25, 0)]],
        };
        let json = Report { name: "test", sections: vec![section] }.to_json();
        assert_eq!(json["sections"], json!({"rates": [{"of": "all", "per_s": 1.25}]}));
    }
}
