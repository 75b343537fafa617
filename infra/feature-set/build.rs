//! An empty build script: cargo resolves the features of build dependencies only for a crate that has one.

fn main() {}
