//! `--watch`: repeats a view at an interval, in place on a terminal, elsewhere one block after another.
//!
//! A failed request is shown as a note, and the next interval tries again. Only SIGINT (Ctrl-C) or SIGTERM ends the
//! command, with exit code 0.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use crate::{
    failure::{Failure, say},
    show::{View, long, now, out},
};

/// Rows to assume if the terminal's size is unknown.
const ROWS: usize = 24;

/// Prints the view of `fetch` at every interval, until SIGINT or SIGTERM.
pub(crate) async fn watch(
    every: Duration,
    json: bool,
    fetch: impl AsyncFn() -> Result<View, Failure>,
) -> Result<(), Failure> {
    let interrupted = interrupted()?;
    tokio::select! {
        () = interrupted => Ok(()),
        ended = rounds(every, json, fetch) => ended,
    }
}

async fn rounds(every: Duration, json: bool, fetch: impl AsyncFn() -> Result<View, Failure>) -> Result<(), Failure> {
    let in_place = !json && io::stdout().is_terminal();
    let mut seen: Option<(View, Instant)> = None;
    for round in 0_u64.. {
        let (note, pause) = match fetch().await {
            Ok(view) => {
                seen = Some((view, Instant::now()));
                (None, every)
            }
            // In the first round a lasting error is a mistake on the command line. Later it is an outage that may end,
            // such as credentials that expired and can be renewed.
            Err(failure) if round == 0 && failure.is_for_good() => return Err(failure),
            Err(failure) => (Some(failure.to_string()), every.max(failure.retry_after())),
        };
        let fresh = seen.as_ref().filter(|_| note.is_none()).map(|(view, _)| view);
        if json {
            if let Some(view) = fresh {
                out(&format!("{}\n", view.json))?;
            }
            if let Some(note) = &note {
                say(&format!("error: {note}"));
            }
        } else if in_place {
            let mut text = heading(every, "; Ctrl-C ends");
            if let Some(note) = &note {
                text.push_str(&format!("! {note}\n"));
                if let Some((_, at)) = &seen {
                    text.push_str(&format!("! the view below is {} old\n", age(*at)));
                }
            }
            if let Some((view, _)) = &seen {
                text.push_str(&view.text);
            }
            let rows = terminal_size::terminal_size().map_or(ROWS, |(_, rows)| rows.0.into());
            out(&frame(&text, rows, round == 0))?;
        } else {
            let body = fresh
                .map_or_else(|| note.map(|note| format!("! {note}\n")).unwrap_or_default(), |view| view.text.clone());
            out(&format!("{}{body}\n", heading(every, "")))?;
        }
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

fn heading(every: Duration, more: &str) -> String {
    let second = now().replace_nanosecond(0).unwrap_or_else(|_| now());
    let at = second.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
    format!("{at}, every {}{more}\n", long(every.as_secs().try_into().unwrap_or(i64::MAX)))
}

fn age(at: Instant) -> String {
    long(at.elapsed().as_secs().try_into().unwrap_or(i64::MAX))
}

/// Returns the terminal output that draws `text` over the previous frame.
///
/// It turns wrapping off, starts at the top, cuts the text to `rows`, and clears the rest of each line and all lines
/// below.
fn frame(text: &str, rows: usize, first: bool) -> String {
    let lines = text.lines().collect::<Vec<_>>();
    let fit = rows.saturating_sub(1).max(1);
    let shown = if lines.len() > fit { fit.saturating_sub(1) } else { lines.len() };
    let mut frame = if first { "\x1b[2J".to_owned() } else { String::new() };
    frame.push_str("\x1b[?7l\x1b[H");
    for line in lines.iter().take(shown) {
        frame.push_str(line);
        frame.push_str("\x1b[K\r\n");
    }
    if shown < lines.len() {
        frame.push_str(&format!("... and {} more lines\x1b[K\r\n", lines.len() - shown));
    }
    frame.push_str("\x1b[J\x1b[?7h");
    frame
}

/// Returns a future that ends with SIGINT or SIGTERM. Signals count from this call on.
#[cfg(unix)]
fn interrupted() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(Failure::Output);
    let (mut int, mut term) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn interrupted() -> Result<impl Future<Output = ()>, Failure> {
    Ok(async {
        // If no handler can be installed, the system's default action ends the process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_the_terminal_and_counts_the_lines_that_it_leaves_out() {
        let text = "a\nb\nc\nd\n";
        assert_eq!(frame(text, 24, true).matches("\r\n").count(), 4);
        let cut = frame(text, 4, false);
        assert!(cut.contains("b\x1b[K\r\n... and 2 more lines") && !cut.contains('c'), "{cut:?}");
        assert_eq!(frame(text, 5, false).matches("\r\n").count(), 4);
        assert!(cut.starts_with("\x1b[?7l\x1b[H") && cut.ends_with("\x1b[J\x1b[?7h"), "{cut:?}");
    }
}
