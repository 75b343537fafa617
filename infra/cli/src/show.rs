//! Output: tables, ages, and values as text.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;
use time::{
    Duration, OffsetDateTime,
    format_description::well_known::{Rfc2822, Rfc3339},
};

use crate::{failure::Failure, terminal::plain};

/// Text of a missing value.
pub(crate) const NOTHING: &str = "-";

/// Largest difference at which this machine's clock and the API's count as equal.
const AGREED: Duration = Duration::seconds(5);

/// One output, as JSON for scripts and as text for people.
#[derive(Debug)]
pub(crate) struct View {
    /// The API's answer.
    pub(crate) json: Value,
    /// The text for people, ending with a line break.
    pub(crate) text: String,
}

impl View {
    /// Prints the JSON or the text to stdout.
    pub(crate) fn print(&self, json: bool) -> Result<(), Failure> {
        if json { out(&format!("{:#}\n", self.json)) } else { out(&self.text) }
    }
}

/// Writes to stdout and flushes.
pub(crate) fn out(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::Output)
}

/// Returns the time of this machine's clock.
#[expect(clippy::disallowed_methods, reason = "no part of the functions, whose time comes from their clock")]
pub(crate) fn system_time() -> SystemTime {
    SystemTime::now()
}

/// Returns the time of this machine's clock, as a date.
pub(crate) fn now() -> OffsetDateTime {
    system_time().into()
}

/// Returns the API's time: the `Date` header of its answer, or this machine's time if the two are at most `AGREED`
/// apart.
///
/// The header has whole seconds and is a moment old, so this machine's clock is the better one if it is right.
pub(crate) fn time_of_answer(date: Option<&str>, here: OffsetDateTime) -> OffsetDateTime {
    let there = date.and_then(|date| OffsetDateTime::parse(date, &Rfc2822).ok());
    there.filter(|there| (here - *there).abs() > AGREED).unwrap_or(here)
}

/// Returns a field as text, whatever its type.
pub(crate) fn field(of: &Value, name: &str) -> String {
    of.get(name).map_or_else(|| NOTHING.to_owned(), text)
}

/// Returns a value as text.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.to_owned(),
        Value::String(text) => plain(text).into_owned(),
        Value::Object(fields) if fields.is_empty() => NOTHING.to_owned(),
        Value::Array(entries) if entries.is_empty() => NOTHING.to_owned(),
        Value::Array(entries) => entries.iter().map(text).collect::<Vec<_>>().join(","),
        other => plain(&other.to_string()).into_owned(),
    }
}

/// Returns a field as a time; none if it is missing or no time.
pub(crate) fn time(of: &Value, name: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(of.get(name)?.as_str()?, &Rfc3339).ok()
}

/// Formats a duration in its two largest units: `3m12s`. A negative one is `0s`.
pub(crate) fn long(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Formats the time that has passed since `then`.
pub(crate) fn age(then: Option<OffsetDateTime>, now: OffsetDateTime) -> String {
    then.map_or_else(|| NOTHING.to_owned(), |then| long((now - then).whole_seconds()))
}

/// Formats the time left until `then`, or `over 24s` if it has passed.
pub(crate) fn left(then: Option<OffsetDateTime>, now: OffsetDateTime) -> String {
    match then.map(|then| (then - now).whole_seconds()) {
        None => NOTHING.to_owned(),
        Some(seconds) if seconds < 0 => format!("over {}", long(-seconds)),
        Some(seconds) => long(seconds),
    }
}

/// Formats a time field with its distance from now: `2026-11-22T15:30:30Z, 25s ago`.
pub(crate) fn moment(of: &Value, name: &str, now: OffsetDateTime) -> String {
    let Some(then) = time(of, name) else { return NOTHING.to_owned() };
    format!("{}, {}", field(of, name), distance(then, now))
}

/// Formats the distance of a time from now: `in 10s`, `25s ago`.
pub(crate) fn distance(then: OffsetDateTime, now: OffsetDateTime) -> String {
    let ahead = then - now;
    let seconds = long(ahead.abs().whole_seconds());
    if ahead.is_positive() { format!("in {seconds}") } else { format!("{seconds} ago") }
}

/// Formats a table with a heading. Columns named in `numbers` are aligned to the right.
pub(crate) fn table(heading: &[&str], numbers: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(heading.iter().copied()).add_rows(rows);
    for (column, name) in table.column_iter_mut().zip(heading) {
        column.set_padding((0, 2));
        if numbers.contains(name) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Formats one line for each name and value, with the values in one column.
pub(crate) fn list(rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_duration_has_two_units_and_is_never_negative() {
        let shown = [-5, 0, 59, 60, 192, 3_599, 3_600, 14_700, 86_399, 86_400, 1_000_000].map(long);
        let due = ["0s", "0s", "59s", "1m00s", "3m12s", "59m59s", "1h00m", "4h05m", "23h59m", "1d00h", "11d13h"];
        assert_eq!(shown, due);
    }

    #[test]
    fn a_past_time_is_shown_as_ago_and_a_future_time_as_in() {
        let now = OffsetDateTime::parse("2026-11-22T15:30:30Z", &Rfc3339).unwrap();
        let of = json!({ "then": "2026-11-22T15:30:05.5Z", "soon": "2026-11-22T15:31:30Z", "never": null });
        assert_eq!(moment(&of, "then", now), "2026-11-22T15:30:05.5Z, 24s ago");
        assert_eq!(moment(&of, "soon", now), "2026-11-22T15:31:30Z, in 1m00s");
        assert_eq!(moment(&of, "never", now), "-");
        assert_eq!((left(time(&of, "then"), now), age(time(&of, "then"), now)), ("over 24s".into(), "24s".into()));
    }

    #[test]
    fn the_date_header_replaces_a_local_clock_that_is_minutes_off() {
        let here = OffsetDateTime::parse("2026-11-22T15:30:30.7Z", &Rfc3339).unwrap();
        let late = OffsetDateTime::parse("2026-11-22T15:36:00Z", &Rfc3339).unwrap();
        assert_eq!(time_of_answer(Some("Sun, 22 Nov 2026 15:36:00 GMT"), here), late);
        for date in [Some("Sun, 22 Nov 2026 15:30:29 GMT"), Some("soon"), None] {
            assert_eq!(time_of_answer(date, here), here, "{date:?}");
        }
    }

    #[test]
    fn a_table_is_aligned_and_its_lines_have_no_trailing_blanks() {
        let rows = vec![vec!["default".into(), "3".into(), "-".into()], vec!["a".into(), "120".into(), "x".into()]];
        let text = table(&["POOL", "SERVERS", "NOTES"], &["SERVERS"], rows);
        assert_eq!(text, "POOL     SERVERS  NOTES\ndefault        3  -\na            120  x\n");
    }

    #[test]
    fn control_characters_in_a_value_are_replaced() {
        assert_eq!(text(&json!({ "map": "x" })), r#"{"map":"x"}"#);
        assert_eq!(text(&json!("a\u{1b}[2Jb\n")), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(text(&json!(["a", "b"])), "a,b");
    }
}
