//! The `reheat` command line.
fn main() {}
