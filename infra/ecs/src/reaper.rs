//! What ends the processes of tasks should this process die without a word, as of SIGKILL: a shell at the other end of a
//! pipe. It is told each process group that begins and ends, and when the pipe closes it kills those that are left.
//!
//! Limits: a process that was started in the very moment of the death may not have been told of. And whoever kills the
//! shell too has to clean up.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
};

/// One line a change: `+ GROUP` or `- GROUP`. It is not for Ctrl-C to end.
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

/// The shell. Dropping it is the end of this process, as far as it can tell.
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

    /// A process group has begun.
    pub(crate) fn begun(&self, group: i32) {
        self.tell('+', group);
    }

    /// A process group has ended: its id may be another's soon.
    pub(crate) fn ended(&self, group: i32) {
        self.tell('-', group);
    }

    fn tell(&self, what: char, group: i32) {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let told = pipe.as_mut().map(|pipe| writeln!(pipe, "{what} {group}"));
        if let Some(Err(error)) = told {
            tracing::warn!(%error, "should this process die now, the tasks' processes stay behind");
            *pipe = None;
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.pipe.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        // It has nothing left to do but that.
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn what_has_begun_and_not_ended_is_killed_when_the_pipe_closes() {
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
