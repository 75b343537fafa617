//! The reaper: a shell that kills the tasks' processes if this process ends without stopping them, for example by
//! SIGKILL. The shell reads from a pipe which process groups start and end. When the pipe closes, it kills the
//! remaining groups.
//!
//! Limits: a process that starts just before this process is killed may not be reported yet. If the shell is killed
//! too, the processes stay.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
};

/// The shell's script. Each input line is `+ GROUP` or `- GROUP`. The script ignores Ctrl-C, which must not end it
/// early.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
left=' '
while read -r what group; do
    case "$what$left" in
        +*) left="$left$group " ;;
        -*" $group "*) left="${left%%" $group "*} ${left#*" $group "}" ;;
    esac
done
for group in $left; do kill -s KILL -- "-$group"; done
"#;

/// Handle of the shell. Dropping the handle closes the pipe, which has the same effect as the end of this process.
#[derive(Debug)]
pub(crate) struct Reaper {
    shell: Child,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Reaper {
    pub(crate) fn start() -> io::Result<Self> {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { pipe: Mutex::new(shell.stdin.take()), shell })
    }

    /// Reports that a process group has started.
    pub(crate) fn begun(&self, group: i32) {
        self.report('+', group);
    }

    /// Reports that a process group has ended. Its id may be reused, so the shell must not kill it any more.
    pub(crate) fn ended(&self, group: i32) {
        self.report('-', group);
    }

    fn report(&self, what: char, group: i32) {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let written = pipe.as_mut().map(|pipe| writeln!(pipe, "{what} {group}"));
        if let Some(Err(error)) = written {
            tracing::warn!(%error, "reaper does not respond: SIGKILL to this process leaves task processes running");
            *pipe = None;
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.pipe.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        // The pipe is closed, so the shell ends.
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn groups_that_have_not_ended_are_killed_when_the_pipe_closes() {
        let sleeper = || Command::new("sleep").arg("3600").process_group(0).spawn().unwrap();
        let [mut left, mut ended, mut another] = [sleeper(), sleeper(), sleeper()];
        let reaper = Reaper::start().unwrap();
        for sleeper in [&left, &ended, &another] {
            reaper.begun(i32::try_from(sleeper.id()).unwrap());
        }
        reaper.ended(i32::try_from(ended.id()).unwrap());
        drop(reaper);
        assert_eq!(left.wait().unwrap().signal(), Some(9));
        assert_eq!(another.wait().unwrap().signal(), Some(9));
        assert_eq!(ended.try_wait().unwrap(), None);
        ended.kill().unwrap();
        ended.wait().unwrap();
    }
}
