//! Output of the checks: a progress line on standard error, a summary table on standard output.
//!
//! Knows nothing of what is checked.

use std::{
    fmt,
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The check found no violation.
    Holds,
    /// The check found a violation, or could not run.
    Violated,
}

impl Verdict {
    /// Returns `Holds` if `holds` is true.
    pub const fn of(holds: bool) -> Self {
        if holds { Self::Holds } else { Self::Violated }
    }
}

/// Prints why a check could not run, and returns `Violated`.
pub fn failed(error: &dyn std::error::Error) -> Verdict {
    let _ = writeln!(std::io::stderr(), "{error}");
    Verdict::Violated
}

/// A line of progress: overwritten in place on a terminal, elsewhere a new line every five seconds.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    printed: Option<Instant>,
    overwrite: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self { begun: Instant::now(), printed: None, overwrite: std::io::stderr().is_terminal() }
    }
}

impl Progress {
    /// Returns the time since the start of the check.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Prints the progress of the check, unless the last line is recent.
    pub fn say(&mut self, progress: impl FnOnce() -> String) {
        let pause = Duration::from_millis(if self.overwrite { 250 } else { 5_000 });
        if self.printed.is_some_and(|printed| printed.elapsed() < pause) {
            return;
        }
        self.printed = Some(Instant::now());
        let line = format!("{:>5} s  {}", self.elapsed().as_secs(), progress());
        // A failed write to stderr does not fail the check.
        let _ = if self.overwrite {
            write!(std::io::stderr(), "\r\x1b[2K{line}")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.overwrite && self.printed.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

/// A table in Markdown, so that it can be pasted into a document. Each column is as wide as its widest cell.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table with these columns.
    pub fn new<const N: usize>(columns: [&str; N]) -> Self {
        Self { rows: vec![columns.map(str::to_owned).to_vec()] }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column: usize| self.rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0);
        let widths = (0..columns).map(width).collect::<Vec<_>>();
        for (i, row) in self.rows.iter().enumerate() {
            for (column, width) in widths.iter().enumerate() {
                write!(f, "| {:width$} ", cell(row, column))?;
            }
            writeln!(f, "|")?;
            if i == 0 {
                let rule = widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>();
                writeln!(f, "|{}|", rule.join("|"))?;
            }
        }
        Ok(())
    }
}

/// Formats a count with separators: `8,123,456`.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Prints a text on standard output. A failed write is ignored: the exit code has the result.
pub fn print(text: &impl fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_as_wide_as_its_widest_cell() {
        let mut table = Table::new(["what", "n"]);
        table.row(["a long one".to_owned(), grouped(1_234_567)]);
        assert_eq!(
            table.to_string(),
            "| what       | n         |\n|------------|-----------|\n| a long one | 1,234,567 |\n"
        );
        assert_eq!([grouped(0), grouped(999), grouped(1_000)], ["0", "999", "1,000"]);
    }
}
