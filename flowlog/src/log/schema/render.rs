//! The schema as text: the output of `flowlog schema --format table|json|sql`.

use std::fmt::Write;

use flowlog_reader::schema::ColumnType;
use serde::Serialize;

use super::column::{Column, columns};

/// A table for people: name, type, null, meaning.
pub fn table() -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    table.set_header(["name", "type", "null", "meaning"]);
    for column in columns() {
        let null = if column.form.is_required { "no" } else { "yes" };
        table.add_row([column.name.as_str(), column.kind.name(), null, column.meaning.as_str()]);
    }
    format!("{table}\n")
}

/// An array of objects with `id`, `name`, `type`, `required` and `doc`.
///
/// # Errors
///
/// Those of the JSON serialiser; plain texts and numbers have none.
pub fn json() -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Row<'a> {
        id: u16,
        name: &'a str,
        #[serde(rename = "type")]
        kind: &'static str,
        required: bool,
        doc: &'a str,
    }
    let row = |column: &'static Column| {
        let Column { id, name, kind, form, meaning } = column;
        Row { id: *id, name, kind: kind.name(), required: form.is_required, doc: meaning }
    };
    let rows: Vec<Row<'_>> = columns().iter().map(row).collect();
    Ok(serde_json::to_string_pretty(&rows)? + "\n")
}

/// A `CREATE TABLE` statement with the types of the SQL standard, and a view that has also what follows from other columns.
pub fn sql() -> String {
    let lines: Vec<String> = columns().iter().map(sql_column).collect();
    // A comma goes before the comment, and there is none after the last column.
    let last = lines.len().saturating_sub(1);
    let mut sql = String::from("CREATE TABLE flows (\n");
    for (number, (line, column)) in lines.iter().zip(columns()).enumerate() {
        let comma = if number == last { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = writeln!(sql, "    {line}{comma} -- {}", column.meaning);
    }
    sql.push_str(");\n\n");
    sql.push_str(VIEW);
    sql
}

fn sql_column(column: &Column) -> String {
    let kind = match column.kind {
        ColumnType::Text => "VARCHAR",
        ColumnType::Int32 => "INTEGER",
        ColumnType::Int64 => "BIGINT",
        ColumnType::Bool => "BOOLEAN",
        ColumnType::TimestampUs => "TIMESTAMP WITH TIME ZONE",
    };
    let null = if column.form.is_required { " NOT NULL" } else { "" };
    format!("{} {kind}{null}", column.name)
}

/// Files do not have how long a flow lasted, since it follows from two other columns and would be a tenth of the bytes.
const VIEW: &str = "\
-- How long each flow lasted, where both times are the kernel's.
CREATE VIEW flows_with_duration AS
SELECT
    flows.*,
    CASE
        WHEN time_source = 'kernel' AND end_time >= start_time
        THEN CAST(EXTRACT(EPOCH FROM (end_time - start_time)) * 1000000 AS BIGINT)
    END AS duration_us
FROM flows;
";
