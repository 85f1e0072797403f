//! The Parquet files below an output directory, read by the `parquet` crate into plain rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// All published files of one output directory, in the order of their paths.
pub(crate) struct Dataset {
    pub(crate) files: Vec<DataFile>,
}

/// One published file.
pub(crate) struct DataFile {
    /// Below `flows/v1`.
    pub(crate) path: PathBuf,
    /// Key-value metadata of the footer.
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) rows: Vec<Row>,
}

/// The cells of one flow by the name of their column.
pub(crate) struct Row(BTreeMap<String, Cell>);

/// A value of one of the types that the schema has.
#[derive(Debug, PartialEq)]
enum Cell {
    Null,
    Int(i64),
    Bool(bool),
    Text(String),
    /// Microseconds since 1970 UTC.
    Time(i64),
}

impl Dataset {
    /// Reads what is published now.
    #[track_caller]
    pub(crate) fn read(output: &Path) -> Self {
        let root = output.join("flows/v1");
        let mut paths = files_below(&root);
        paths.sort();
        let files = paths.iter().map(|path| DataFile::read(&root, path)).collect();
        Self { files }
    }

    /// The rows of all files in the order in which they were logged.
    pub(crate) fn rows(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.files.iter().flat_map(|file| &file.rows).collect();
        rows.sort_by_key(|row| row.int("seq"));
        rows
    }

    /// The rows whose responder has this port.
    pub(crate) fn rows_to(&self, dst_port: u16) -> Vec<&Row> {
        let mut rows = self.rows();
        rows.retain(|row| row.int("dst_port") == Some(i64::from(dst_port)));
        rows
    }

    /// The only row whose responder has this port.
    #[track_caller]
    pub(crate) fn row_to(&self, dst_port: u16) -> &Row {
        let rows = self.rows_to(dst_port);
        assert_eq!(rows.len(), 1, "one flow to port {dst_port}, found {rows:#?}");
        rows[0]
    }
}

impl DataFile {
    #[track_caller]
    fn read(root: &Path, path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        let metadata = reader.metadata().file_metadata().key_value_metadata();
        let metadata = metadata.into_iter().flatten().filter_map(|pair| {
            let value = pair.value.clone()?;
            Some((pair.key.clone(), value))
        });
        Self {
            path: path.strip_prefix(root).unwrap().to_owned(),
            metadata: metadata.collect(),
            rows: reader.build().unwrap().flat_map(|batch| rows_of(&batch.unwrap())).collect(),
        }
    }

    /// A number of its metadata.
    #[track_caller]
    pub(crate) fn number(&self, key: &str) -> i64 {
        let value = self.metadata.get(key);
        let number = value.and_then(|value| value.parse().ok());
        number.unwrap_or_else(|| panic!("`{key}` of {} is {value:?}", self.path.display()))
    }
}

impl Row {
    /// A number; `None` is NULL.
    #[track_caller]
    pub(crate) fn int(&self, column: &str) -> Option<i64> {
        match self.cell(column) {
            Cell::Int(value) => Some(*value),
            Cell::Null => None,
            other => panic!("`{column}` is {other:?}, expected a number"),
        }
    }

    /// A text; `None` is NULL.
    #[track_caller]
    pub(crate) fn text(&self, column: &str) -> Option<&str> {
        match self.cell(column) {
            Cell::Text(value) => Some(value),
            Cell::Null => None,
            other => panic!("`{column}` is {other:?}, expected a text"),
        }
    }

    /// A truth value; `None` is NULL.
    #[track_caller]
    pub(crate) fn bool(&self, column: &str) -> Option<bool> {
        match self.cell(column) {
            Cell::Bool(value) => Some(*value),
            Cell::Null => None,
            other => panic!("`{column}` is {other:?}, expected true or false"),
        }
    }

    /// A time in microseconds since 1970 UTC; `None` is NULL.
    #[track_caller]
    pub(crate) fn time(&self, column: &str) -> Option<i64> {
        match self.cell(column) {
            Cell::Time(value) => Some(*value),
            Cell::Null => None,
            other => panic!("`{column}` is {other:?}, expected a time"),
        }
    }

    /// The columns of the local process at one end (`src` or `dst`) that are not NULL.
    pub(crate) fn of_process(&self, end: &str) -> Vec<&str> {
        let of_flow = ["ip", "port"];
        let is_of_process = |column: &str| match column.split_once('_') {
            Some((prefix, name)) => prefix == end && !of_flow.contains(&name),
            None => false,
        };
        let known = self.0.iter().filter(|(_, cell)| **cell != Cell::Null);
        known.map(|(column, _)| column.as_str()).filter(|column| is_of_process(column)).collect()
    }

    /// The names of all columns.
    pub(crate) fn columns(&self) -> BTreeSet<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    #[track_caller]
    fn cell(&self, column: &str) -> &Cell {
        self.0.get(column).unwrap_or_else(|| panic!("there is no column `{column}`"))
    }
}

/// One line with what is not NULL.
impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (column, cell) in &self.0 {
            match cell {
                Cell::Null => Ok(()),
                Cell::Int(value) | Cell::Time(value) => write!(f, "{column}={value} "),
                Cell::Bool(value) => write!(f, "{column}={value} "),
                Cell::Text(value) => write!(f, "{column}={value} "),
            }?;
        }
        Ok(())
    }
}

/// All files below a directory; none where it does not exist.
#[track_caller]
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let schema = batch.schema();
    let row = |number| {
        let columns = schema.fields().iter().zip(batch.columns());
        Row(columns.map(|(field, column)| (field.name().clone(), cell(column, number))).collect())
    };
    (0..batch.num_rows()).map(row).collect()
}

fn cell(column: &dyn Array, row: usize) -> Cell {
    if column.is_null(row) {
        return Cell::Null;
    }
    match column.data_type() {
        DataType::Int32 => Cell::Int(column.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Cell::Int(column.as_primitive::<Int64Type>().value(row)),
        DataType::Boolean => Cell::Bool(column.as_boolean().value(row)),
        DataType::Utf8 => Cell::Text(column.as_string::<i32>().value(row).to_owned()),
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == "UTC" => {
            Cell::Time(column.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        other => panic!("a column has the type {other}, which the schema does not have"),
    }
}
