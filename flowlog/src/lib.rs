//! flowlog

#![forbid(unsafe_code)]

pub mod flow;

pub mod ctnetlink;

pub mod processes;
pub mod sockets;

pub mod attribute;

pub mod schema;
pub mod writer;
