//! The columns of both tables as plain data: by their ids, which stay for ever.
//!
//! What makes them, and what they mean, is in `flowlog` (`log/schema`), which tests hold against this.

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Field id: names the column for ever, and says nothing of its place.
    pub id: u16,
    /// Name.
    pub name: &'static str,
    /// Type.
    pub kind: ColumnType,
    /// Whether files have it.
    pub state: State,
}

/// Whether files have a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Every row has a value.
    Required,
    /// Some rows may have none.
    Nullable,
    /// Only older versions wrote it. Its id is not used again.
    Retired,
}

/// Type of a column: the few that all engines read the same way. No unsigned integers (Iceberg,
/// Spark, Trino) and no nanoseconds (Spark).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// UTF-8 text.
    Text,
    /// Signed 32 bit integer.
    Int32,
    /// Signed 64 bit integer.
    Int64,
    /// Boolean.
    Bool,
    /// Microseconds since the Unix epoch, UTC.
    TimestampUs,
}

impl ColumnType {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Text, Self::Int32, Self::Int64, Self::Bool, Self::TimestampUs];

    /// The name that `flowlog schema` prints.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Bool => "bool",
            Self::TimestampUs => "timestamp us UTC",
        }
    }
}

/// The flow columns, also those that only older versions wrote: id, name, type and state, a line each.
const FIELD_IDS: &str = include_str!("../schema/field_ids");

/// The columns of flows, by id.
pub fn flow_columns() -> impl Iterator<Item = Column> {
    FIELD_IDS.lines().filter_map(parse)
}

/// The columns of gaps, in the order in which files have them.
pub const GAP_COLUMNS: [Column; 10] = {
    use ColumnType::{Int64, Text, TimestampUs};
    use State::{Nullable, Required};
    const fn column(id: u16, name: &'static str, kind: ColumnType, state: State) -> Column {
        Column { id, name, kind, state }
    }
    [
        column(1, "run_id", Text, Required),
        column(2, "host_id", Text, Required),
        column(3, "from_time", TimestampUs, Required),
        column(4, "to_time", TimestampUs, Required),
        column(5, "cause", Text, Required),
        column(6, "stage", Text, Required),
        column(7, "lost_flows", Int64, Nullable),
        column(8, "lost_orig_bytes", Int64, Nullable),
        column(9, "lost_reply_bytes", Int64, Nullable),
        column(10, "detail", Text, Nullable),
    ]
};

fn parse(line: &'static str) -> Option<Column> {
    let (id, rest) = line.split_once(' ')?;
    let (name, rest) = rest.split_once(' ')?;
    let (kind, state) = rest.rsplit_once(' ')?;
    let kind = ColumnType::ALL.into_iter().find(|known| known.name() == kind)?;
    let state = match state {
        "required" => State::Required,
        "nullable" => State::Nullable,
        "retired" => State::Retired,
        _ => return None,
    };
    Some(Column { id: id.parse().ok()?, name, kind, state })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_column() {
        let ids: Vec<u16> = flow_columns().map(|column| column.id).collect();
        assert_eq!(ids.len(), FIELD_IDS.lines().count());
        assert!(ids.is_sorted_by(|one, next| one < next), "an id is there twice");
        let duration = flow_columns().find(|column| column.name == "duration_us").unwrap();
        assert_eq!((duration.id, duration.kind, duration.state), (9, ColumnType::Int64, State::Retired));
    }
}
