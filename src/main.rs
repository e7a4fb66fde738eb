//! Finback.
fn main() {}
