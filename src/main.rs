//! The `vmlan` command.
fn main() {}
