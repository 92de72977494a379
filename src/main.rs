//! The `somaagent` executable.
fn main() {}
