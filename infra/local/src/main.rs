//! OWMM local.
fn main() {}
