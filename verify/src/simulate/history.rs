//! What happened, line by line.

use std::fmt::Write as _;

/// The history of a run; without one, nothing is written.
#[derive(Debug, Default)]
pub(super) struct History {
    text: Option<String>,
}

impl History {
    /// Keeps the text.
    pub(super) fn kept() -> Self {
        Self { text: Some(String::new()) }
    }

    /// Nobody reads it.
    pub(super) const fn none() -> Self {
        Self { text: None }
    }

    /// Whether anybody reads it.
    pub(super) const fn is_kept(&self) -> bool {
        self.text.is_some()
    }

    /// A line.
    pub(super) fn line(&mut self, at_ms: u64, line: std::fmt::Arguments<'_>) {
        if let Some(text) = &mut self.text {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:>4}.{:03} {line}", at_ms / 1_000, at_ms % 1_000);
        }
    }

    /// All of it.
    pub(super) fn take(&mut self) -> String {
        self.text.take().unwrap_or_default()
    }
}
