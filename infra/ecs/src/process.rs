//! A process in a process group of its own: starts, logs, signals and reaps it. Does not depend on tasks.
//!
//! When the process ends, the rest of its group is killed. Dropping a [`Process`] kills the whole group at once.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::{sleep, timeout},
};

/// How long to wait until a killed group has disappeared. It takes this long only where the init process reaps no
/// orphans, as in some containers.
const GONE_WITHIN: Duration = Duration::from_millis(200);
/// How long to wait for the end of the output. A process that has left the group may keep the output open.
const OUTPUT_WITHIN: Duration = Duration::from_secs(1);
/// Longest line of output, in bytes. A longer line is logged in pieces, so that an endless line cannot fill the memory.
const MAX_LINE_BYTES: u64 = 16 * 1024;
/// Target of the log records with the output of processes. The message is the line; the fields are `task` and `stream`.
pub const OUTPUT: &str = "ecs::output";
/// Most lines of output that are kept for the log record of a crash.
const TAIL_LINES: usize = 20;
/// Most bytes of output that are kept for the log record of a crash.
const TAIL_BYTES: usize = 4 * 1024;

/// A process, its group and its output.
pub(crate) struct Process {
    child: Child,
    /// Id of the process group, which is also the id of the process: the process leads the group.
    group: Pid,
    output: JoinSet<()>,
    tail: Arc<Mutex<Tail>>,
    status: Option<ExitStatus>,
    cleared: bool,
}

/// The last lines that a process has written to stdout and stderr.
#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, line: &str) {
        let start = (line.len().saturating_sub(TAIL_BYTES)..=line.len()).find(|at| line.is_char_boundary(*at));
        let line = start.and_then(|start| line.get(start..)).unwrap_or_default();
        self.bytes += line.len();
        self.lines.push_back(line.to_owned());
        while self.lines.len() > TAIL_LINES || self.bytes > TAIL_BYTES {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.len());
        }
    }
}

impl Process {
    /// Starts `command`. `environment` overrides this process's environment. The output is logged with the task
    /// `label`.
    pub(crate) fn start<'a>(
        command: &[OsString],
        environment: impl Iterator<Item = (&'a str, &'a str)>,
        label: &str,
    ) -> io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or_else(|| io::Error::other("no command is configured"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let group = id.ok_or_else(|| io::Error::other("the process has no id"))?;
        let (mut output, tail) = (JoinSet::new(), Arc::<Mutex<Tail>>::default());
        if let Some(stdout) = child.stdout.take() {
            output.spawn(log(stdout, label.to_owned(), "stdout", Arc::clone(&tail)));
        }
        if let Some(stderr) = child.stderr.take() {
            output.spawn(log(stderr, label.to_owned(), "stderr", Arc::clone(&tail)));
        }
        Ok(Self { child, group, output, tail, status: None, cleared: false })
    }

    pub(crate) fn id(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// Waits until the process ends, and returns its exit code, or 128 plus the number of the signal that killed it.
    /// The future may be dropped and `wait` called again.
    pub(crate) async fn wait(&mut self) -> Option<i32> {
        let status = self.child.wait().await.ok()?;
        self.status = Some(status);
        status.code().or_else(|| status.signal().map(|signal| 128 + signal))
    }

    /// Describes the end of the process: `exit code N` or `signal N`.
    pub(crate) fn ending(&self) -> String {
        match self.status.map(|status| (status.code(), status.signal())) {
            Some((Some(code), _)) => format!("exit code {code}"),
            Some((None, Some(signal))) => format!("signal {signal}"),
            _ => "an unknown status".to_owned(),
        }
    }

    /// Returns the last lines of output, each after a line break. They are complete after [`Process::clear_up`].
    pub(crate) fn last_output(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.lines.iter().map(|line| format!("\n    {line}")).collect()
    }

    /// Sends SIGTERM to the process, and kills its group when `kill_due` completes first.
    pub(crate) async fn stop(&mut self, kill_due: impl Future<Output = ()>) -> Option<i32> {
        // Until the process is reaped, no other process can have its id.
        if self.child.id().is_some() {
            let _already_gone = kill_process(self.group, Signal::TERM);
        }
        tokio::select! {
            exit_code = self.wait() => exit_code,
            () = kill_due => {
                self.kill_group();
                self.wait().await
            }
        }
    }

    /// Kills the rest of the group and reads the output to its end. Call it after the process has ended.
    pub(crate) async fn clear_up(&mut self) {
        self.kill_group();
        let group_is_gone = async {
            while test_kill_process_group(self.group).is_ok() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let _gave_up = timeout(GONE_WITHIN, group_is_gone).await;
        let _gave_up = timeout(OUTPUT_WITHIN, async { while self.output.join_next().await.is_some() {} }).await;
        self.cleared = true;
    }

    fn kill_group(&self) {
        let _already_gone = kill_process_group(self.group, Signal::KILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.cleared {
            self.kill_group();
        }
    }
}

async fn log(stream: impl AsyncRead + Unpin, task: String, name: &'static str, tail: Arc<Mutex<Tail>>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while let Ok(1..) = (&mut stream).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await {
        let text = String::from_utf8_lossy(&line);
        tracing::info!(target: OUTPUT, task, stream = name, "{}", text.trim_end());
        tail.lock().unwrap_or_else(PoisonError::into_inner).push(text.trim_end());
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_the_output_keeps_the_last_lines_within_both_limits() {
        let mut tail = Tail::default();
        (1..=50).for_each(|line| tail.push(&line.to_string()));
        assert_eq!(tail.lines, (31..=50).map(|line| line.to_string()).collect::<VecDeque<_>>());
        tail.push(&"x".repeat(TAIL_BYTES - 10));
        assert_eq!((tail.lines.len(), tail.bytes), (6, TAIL_BYTES), "five lines of two bytes fit beside it");
        tail.push(&"é".repeat(TAIL_BYTES));
        assert_eq!((tail.lines.len(), tail.bytes), (1, TAIL_BYTES));
        tail.push("y");
        assert_eq!((tail.lines.len(), tail.bytes), (1, 1));
    }
}
