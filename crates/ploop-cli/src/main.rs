//! The `ploop` command.
fn main() {}
