//! Format of the stack's log on stderr.
//!
//! A line that a task's process has written follows the last characters of the task's id (`2f4c01ab | ...`). No time
//! and no level are added, because the process may write its own.

use std::{fmt, io::IsTerminal};

use shared::telemetry::harmless;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Writer},
        time::FormatTime,
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// Installs the log on stderr. `OWMM_LOG` sets the levels of targets; `default` is the filter without it.
pub fn to_stderr(default: &str) {
    let filter = EnvFilter::try_from_env("OWMM_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt::layer()
        .event_format(Lines(tracing_subscriber::fmt::format().with_target(false)))
        .with_ansi(std::io::stderr().is_terminal())
        // A closed stderr must not stop the stack, and there is no other place to report it.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    tracing_subscriber::registry().with(log.with_filter(harmless())).with(filter).init();
}

/// Formats the output of processes as plain lines, and every other record with the inner format.
struct Lines<T>(Format<Full, T>);

impl<S, N, T> FormatEvent<S, N> for Lines<T>
where
    T: FormatTime,
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if event.metadata().target() != ecs::OUTPUT {
            return self.0.format_event(context, writer, event);
        }
        let mut output = Output::default();
        event.record(&mut output);
        writeln!(writer, "{} | {}", output.task, printable(&output.line))
    }
}

/// Fields of a record with a line that a process has written.
#[derive(Default)]
struct Output {
    task: String,
    line: String,
}

impl Visit for Output {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "task" {
            value.clone_into(&mut self.task);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.line = format!("{value:?}");
        }
    }
}

/// Escapes the control characters of a line, so that a process cannot control the terminal.
fn printable(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    for char in line.chars() {
        if char.is_control() && char != '\t' { text.extend(char.escape_default()) } else { text.push(char) }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_of_a_process_is_prefixed_with_its_task_only() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Lines(tracing_subscriber::fmt::format().with_target(false).without_time()))
            .with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer.with_ansi(false));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: ecs::OUTPUT, task = "2f4c01ab", stream = "stdout", "{}", " WARN a\tb\u{1b}[2J");
            tracing::info!(task = "2f4c01ab", "started");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "2f4c01ab |  WARN a\tb\\u{1b}[2J\n INFO started task=\"2f4c01ab\"\n");
    }
}
