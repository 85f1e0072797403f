//! What a column is, and the Arrow schemas that follow from the table of them.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow_array::ArrayRef;
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use flowlog_reader::schema::ColumnType;
use flowlog_reader::schema::ColumnType::{Bool, Int32, Int64, Text, TimestampUs};

use super::columns::{EndColumns, FlowColumns, RETIRED};
use super::sparse::Unknown;

/// The metadata key under which Parquet's Arrow writer looks for a field id, which Iceberg and other
/// table formats identify columns by.
const FIELD_ID_KEY: &str = "PARQUET:field_id";

/// A column of the flow record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Field id: names the column for ever, and says nothing of its place.
    pub id: u16,
    /// Name.
    pub name: String,
    /// Type.
    pub kind: ColumnType,
    /// Whether every row has a value, and how the values are stored.
    pub form: Form,
    /// What the values mean and where they come from, in one line.
    pub meaning: String,
}

/// The Arrow type of the files.
pub(super) fn in_files(kind: ColumnType) -> DataType {
    match kind {
        Text => DataType::Utf8,
        Int32 => DataType::Int32,
        Int64 => DataType::Int64,
        Bool => DataType::Boolean,
        TimestampUs => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    }
}

/// The Arrow type of the batches in memory: that of the files, with text as dictionary keys. A text that repeats is
/// then a number from the row to the encoder.
fn in_memory(kind: ColumnType) -> DataType {
    match kind {
        Text => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        Int32 | Int64 | Bool | TimestampUs => in_files(kind),
    }
}

/// Whether every row has a value, and how the values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Every row has a value.
    pub is_required: bool,
    /// The values grow or are nearly all distinct, so that a dictionary would hold each of them: distances from one to
    /// the next are smaller.
    pub is_delta_encoded: bool,
    /// People look up single values: a bloom filter spares the row groups without them.
    pub is_looked_up: bool,
}

/// Every row has a value.
pub(super) const REQUIRED: Form = Form { is_required: true, is_delta_encoded: false, is_looked_up: false };

/// Some rows may have none.
pub(super) const NULLABLE: Form = Form { is_required: false, ..REQUIRED };

impl Form {
    /// With distances instead of a dictionary.
    pub(super) const fn delta(self) -> Self {
        Self { is_delta_encoded: true, ..self }
    }

    /// With a bloom filter.
    pub(super) const fn looked_up(self) -> Self {
        Self { is_looked_up: true, ..self }
    }
}

/// What builds a column: values are appended row by row.
pub(super) trait Kind {
    /// The type of the column.
    const TYPE: ColumnType;

    /// The column, which begins anew. One without any value is `unknown`.
    fn finish(&mut self, unknown: &Unknown) -> ArrayRef;
}

/// A row of the table of columns. `Id` is one field id, or one for each end of a flow.
#[derive(Debug)]
pub(super) struct Definition<Id> {
    pub(super) id: Id,
    pub(super) name: &'static str,
    pub(super) kind: ColumnType,
    pub(super) form: Form,
    pub(super) meaning: &'static str,
}

/// The ends of a flow that have columns: prefix of their names, and what it stands for.
const ENDS: [(&str, &str); 2] = [("src_", "initiating end"), ("dst_", "responding end")];

/// All columns, in the order in which files have them.
pub fn columns() -> &'static [Column] {
    static COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| {
        let flow = FlowColumns::DEFINITIONS.iter().map(|definition| {
            let Definition { id, name, kind, form, meaning } = *definition;
            Column { id, name: name.to_owned(), kind, form, meaning: meaning.to_owned() }
        });
        let ends = (0..).zip(ENDS).flat_map(|(number, (prefix, end))| {
            EndColumns::DEFINITIONS.iter().filter_map(move |definition| {
                let Definition { id, name, kind, form, meaning } = definition;
                let (name, meaning) = (format!("{prefix}{name}"), format!("{end}: {meaning}"));
                Some(Column { id: *id.get::<usize>(number)?, name, kind: *kind, form: *form, meaning })
            })
        });
        flow.chain(ends).collect()
    });
    &COLUMNS
}

/// The type of a column that older versions wrote, where `id` is one.
pub fn retired(id: u16) -> Option<DataType> {
    let (.., kind) = RETIRED.iter().find(|(retired, ..)| *retired == id)?;
    Some(in_memory(*kind))
}

/// The schema of the files.
pub fn file_schema() -> SchemaRef {
    schema(in_files)
}

/// The schema of the batches in memory.
pub fn batch_schema() -> SchemaRef {
    schema(in_memory)
}

fn schema(data_type: impl Fn(ColumnType) -> DataType) -> SchemaRef {
    let fields = columns().iter().map(|column| {
        field(&column.name, data_type(column.kind), !column.form.is_required, column.id.into())
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A column with its field id.
pub(super) fn field(name: &str, data_type: DataType, is_nullable: bool, id: usize) -> Field {
    let metadata = HashMap::from([(FIELD_ID_KEY.to_owned(), id.to_string())]);
    Field::new(name, data_type, is_nullable).with_metadata(metadata)
}
