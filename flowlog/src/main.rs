//! flowlog command
#![forbid(unsafe_code)]
fn main() {}
