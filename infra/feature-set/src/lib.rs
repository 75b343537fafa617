//! An empty library: the crate exists for the dependency features in its `Cargo.toml`, which explains the reason.
