//! No code: this crate's dependencies are what it is for. Its Cargo.toml says why.
