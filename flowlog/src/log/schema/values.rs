//! The texts of columns that have one of a few values.

use crate::record::{Direction, Method, Sighting};

/// Of the column `record_type`.
pub(super) fn record_type(sighting: Sighting) -> &'static str {
    match sighting {
        Sighting::Destroyed
        | Sighting::Vanished
        | Sighting::ImportedEnd { .. }
        | Sighting::ImportedEntry { .. } => "end",
        Sighting::Alive => "active",
    }
}

/// Of the column `end_source`.
pub(super) fn end_source(sighting: Sighting) -> &'static str {
    match sighting {
        Sighting::Destroyed => "destroy",
        Sighting::Vanished => "reconcile",
        Sighting::Alive => "active",
        Sighting::ImportedEnd { .. } | Sighting::ImportedEntry { .. } => "import",
    }
}

/// Of the column `direction`.
pub(super) fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
        Direction::Local => "local",
        Direction::Forwarded => "forwarded",
    }
}

/// Of the columns `src_attribution` and `dst_attribution`.
pub fn attribution(method: Method) -> &'static str {
    match method {
        Method::Socket => "socket",
        Method::Endpoint => "endpoint",
        Method::Inherited => "inherited",
        Method::Closer => "closer",
        Method::Seed => "seed",
        Method::Raw => "raw",
        Method::Program => "program",
        Method::Ambiguous => "ambiguous",
    }
}
