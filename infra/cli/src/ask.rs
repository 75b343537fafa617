//! The confirmation before a change: asked on a terminal, or given with `--yes`.

use std::io::{self, IsTerminal, Write};

use crate::{args::Yes, failure::Failure};

/// Fails if the command must ask and there is no terminal to ask on. Checked before anything else is done.
pub(crate) fn possible(yes: &Yes) -> Result<(), Failure> {
    if yes.yes || (io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(());
    }
    let why = "this command asks for confirmation, and there is no terminal to ask on. Nothing was done.\n  hint: add \
               `--yes` to do it without asking";
    Err(Failure::Unconfirmed(why.to_owned()))
}

/// Asks `what` on stderr and reads the answer from stdin. Every answer but `y` and `yes` is a no.
pub(crate) fn sure(what: &str) -> Result<(), Failure> {
    let mut stderr = io::stderr();
    write!(stderr, "{what} [y/N] ").and_then(|()| stderr.flush()).map_err(Failure::Output)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(Failure::Output)?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Failure::Unconfirmed("nothing was done".to_owned()))
}
