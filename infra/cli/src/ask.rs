//! Whether it shall really be done: asked on a terminal, or said with `--yes`.

use std::io::{self, IsTerminal, Write};

use crate::{args::Yes, failure::Failure};

/// That there is somebody to ask, or nobody needs to be asked. Checked before anything else is done.
pub(crate) fn possible(yes: &Yes) -> Result<(), Failure> {
    if yes.yes || (io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(());
    }
    let why = "this asks before it does anything, and there is no terminal to ask on. Nothing was done.\n  hint: `--yes` \
               does it without asking";
    Err(Failure::Unconfirmed(why.to_owned()))
}

/// Asks. Everything but yes is no.
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
