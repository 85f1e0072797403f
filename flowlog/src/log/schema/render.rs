//! The schema as text: the output of `flowlog schema --format table|json|sql`.

use std::fmt::Write;

use serde::Serialize;

use super::columns::{Column, ColumnType, columns};

/// A table for people: name, type, null, meaning.
pub fn table() -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    table.set_header(["name", "type", "null", "meaning"]);
    for column in columns() {
        let null = if column.required { "no" } else { "yes" };
        table.add_row([column.name.as_str(), column.kind.name(), null, column.doc.as_str()]);
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
        id: usize,
        name: &'a str,
        #[serde(rename = "type")]
        kind: &'static str,
        required: bool,
        doc: &'a str,
    }
    let columns = columns();
    let rows: Vec<Row<'_>> = columns
        .iter()
        .map(|Column { id, name, kind, required, doc }| Row {
            id: *id,
            name,
            kind: kind.name(),
            required: *required,
            doc,
        })
        .collect();
    Ok(serde_json::to_string_pretty(&rows)? + "\n")
}

/// A `CREATE TABLE` statement with the types of the SQL standard.
pub fn sql() -> String {
    let columns = columns();
    let mut sql = String::from("CREATE TABLE flows (\n");
    for column in &columns {
        let kind = match column.kind {
            ColumnType::Text => "VARCHAR",
            ColumnType::Int32 => "INTEGER",
            ColumnType::Int64 => "BIGINT",
            ColumnType::Bool => "BOOLEAN",
            ColumnType::TimestampUs => "TIMESTAMP WITH TIME ZONE",
        };
        let null = if column.required { " NOT NULL" } else { "" };
        let comma = if column.id == columns.len() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = writeln!(sql, "    {} {kind}{null}{comma} -- {}", column.name, column.doc);
    }
    sql.push_str(");\n");
    sql
}
