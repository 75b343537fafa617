//! The history of a run: one line for each event.

use std::fmt::Write as _;

/// The history of a run. It discards all lines unless it is kept.
#[derive(Debug, Default)]
pub(super) struct History {
    text: Option<String>,
}

impl History {
    /// Creates a history that keeps its lines.
    pub(super) fn kept() -> Self {
        Self { text: Some(String::new()) }
    }

    /// Creates a history that discards its lines.
    pub(super) const fn none() -> Self {
        Self { text: None }
    }

    /// Whether the history keeps its lines.
    pub(super) const fn is_kept(&self) -> bool {
        self.text.is_some()
    }

    /// Adds a line with its time.
    pub(super) fn line(&mut self, at_ms: u64, line: std::fmt::Arguments<'_>) {
        if let Some(text) = &mut self.text {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:>4}.{:03} {line}", at_ms / 1_000, at_ms % 1_000);
        }
    }

    /// Takes the whole text.
    pub(super) fn take(&mut self) -> String {
        self.text.take().unwrap_or_default()
    }
}
