//! specimen
fn main() {}
