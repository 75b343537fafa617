//! Child processes: how they are started, awaited and ended.
//!
//! Owns the environment of every child. Must not know which steps exist.

use std::{
    ffi::{OsStr, OsString},
    fmt, fs,
    io::{self, BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Time from SIGTERM to SIGKILL for a background process.
const GRACE: Duration = Duration::from_secs(30);

/// Why a step failed, in one line.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(why: impl Into<String>) -> Failure {
        Failure(why.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure(error.to_string())
    }
}

/// Result of a step.
pub(crate) type Outcome = Result<(), Failure>;

/// The project's root: the parent of this crate's folder.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}

/// A command that runs in the project's root, without the variables that `cargo run` has set for xtask itself.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        if is_of_cargo_run(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn is_of_cargo_run(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_BIN_NAME"
}

/// Prints and runs a command line; an exit code other than 0 is a failure.
pub(crate) fn run(line: &[&str]) -> Outcome {
    run_with(line, &[])
}

/// Prints and runs a command line with variables of its own.
pub(crate) fn run_with(line: &[&str], env: &[(&str, &str)]) -> Outcome {
    let Some((program, arguments)) = line.split_first() else {
        return Err(Failure::new("the command line is empty"));
    };
    let shown = shown(line, env);
    println!("$ {shown}");
    let mut command = command(program);
    let status = command
        .args(arguments)
        .envs(env.iter().copied())
        .status()
        .map_err(|error| Failure(format!("`{program}` cannot be run: {error}")))?;
    if status.success() { Ok(()) } else { Err(Failure(format!("`{shown}`: {}", ended(status)))) }
}

fn shown(line: &[&str], env: &[(&str, &str)]) -> String {
    let quote = |word: &str| if word.contains(' ') { format!("'{word}'") } else { word.to_owned() };
    let env = env.iter().map(|(name, value)| format!("{name}={}", quote(value)));
    env.chain(line.iter().map(|word| quote(word))).collect::<Vec<_>>().join(" ")
}

/// Runs a command line and returns its stdout; its stderr is that of this process.
pub(crate) fn stdout_of(line: &[&str]) -> Result<String, Failure> {
    let (program, arguments) = line.split_first().ok_or_else(|| Failure::new("the command line is empty"))?;
    let output = command(program)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure(format!("`{program}` cannot be run: {error}")))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Failure(format!("`{}`: {}", shown(line, &[]), ended(output.status))))
    }
}

/// Prints and runs a command line; returns the lines of its stderr, which are printed as they arrive.
pub(crate) fn stderr_of(line: &[&str]) -> Result<Vec<String>, Failure> {
    let (program, arguments) = line.split_first().ok_or_else(|| Failure::new("the command line is empty"))?;
    let shown = shown(line, &[]);
    println!("$ {shown}");
    let mut child = command(program).args(arguments).stderr(Stdio::piped()).spawn()?;
    let mut lines = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines() {
            let line = line?;
            eprintln!("{line}");
            lines.push(line);
        }
    }
    let status = child.wait()?;
    if status.success() { Ok(lines) } else { Err(Failure(format!("`{shown}`: {}", ended(status)))) }
}

/// How a process ended, in words.
pub(crate) fn ended(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"))
}

/// The files that git tracks, relative to the project's root, sorted.
pub(crate) fn tracked_files() -> Result<Vec<String>, Failure> {
    let listed = stdout_of(&["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
    let mut files: Vec<String> = listed.split('\0').filter(|it| !it.is_empty()).map(str::to_owned).collect();
    files.retain(|file| root().join(file).is_file());
    files.sort();
    files.dedup();
    Ok(files)
}

/// Reads a file of the project as text.
pub(crate) fn read(file: &str) -> Result<String, Failure> {
    fs::read_to_string(root().join(file)).map_err(|error| Failure(format!("{file}: {error}")))
}

/// A path under the project's root as text, for command lines.
pub(crate) fn path(relative: &str) -> String {
    root().join(relative).to_string_lossy().into_owned()
}

/// `PATH` with a folder of the project in front.
pub(crate) fn path_with(folder: &str) -> OsString {
    let mut path = root().join(folder).into_os_string();
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

/// A process that runs while a step does, ended when this value is dropped: on success, on failure and on a panic.
pub(crate) struct Background {
    name: String,
    child: Child,
}

impl Background {
    /// Starts a process and waits for a line of its stdout that starts with `prefix`; returns the rest of that line.
    ///
    /// The remaining stdout is read and dropped, so that the process never blocks on a full pipe.
    pub(crate) fn start(
        line: &[&str],
        env: &[(&str, &str)],
        prefix: &str,
        within: Duration,
    ) -> Result<(Background, String), Failure> {
        let (program, arguments) = line.split_first().ok_or_else(|| Failure::new("the command line is empty"))?;
        let shown = shown(line, env);
        println!("$ {shown} &");
        let mut child = command(program)
            .args(arguments)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure(format!("`{program}` cannot be run: {error}")))?;
        let stdout = child.stdout.take();
        let started = Background { name: shown.clone(), child };
        let (send, receive) = mpsc::channel();
        let prefix = prefix.to_owned();
        let wanted = prefix.clone();
        thread::spawn(move || {
            let Some(stdout) = stdout else { return };
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(rest) = line.strip_prefix(&wanted) {
                    // Sending fails once `start` has returned, which is fine.
                    let _ = send.send(rest.trim().to_owned());
                }
            }
        });
        let found = receive.recv_timeout(within).map_err(|error| {
            Failure(match error {
                mpsc::RecvTimeoutError::Timeout => format!("`{shown}` did not print `{prefix}` within {within:?}"),
                mpsc::RecvTimeoutError::Disconnected => format!("`{shown}` ended before it printed `{prefix}`"),
            })
        })?;
        Ok((started, found))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        end(&mut self.child, &self.name);
    }
}

/// Ends a child with SIGTERM, so that it can end its own children, and with SIGKILL if it has not ended after `GRACE`.
fn end(child: &mut Child, name: &str) {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    signal("TERM", &child.id().to_string());
    if !wait(child, GRACE) {
        eprintln!("xtask: killing `{name}`, which did not end within {GRACE:?} of SIGTERM");
        // Fails if the child has ended in the meantime.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Waits for a child to end; returns false if it has not ended within that time.
pub(crate) fn wait(child: &mut Child, within: Duration) -> bool {
    let start = std::time::Instant::now();
    while start.elapsed() < within {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    false
}

/// Sends a signal by its name to a process, or to a process group if `to` starts with `-`.
pub(crate) fn signal(name: &str, to: &str) {
    // Fails if the process has already ended, which is the purpose of the signal.
    let _ = Command::new("kill").args(["-s", name, "--", to]).stderr(Stdio::null()).status();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_background_process_is_ended_when_its_step_fails() {
        let (background, pid) =
            Background::start(&["sh", "-c", "echo \"pid $$\"; exec sleep 600"], &[], "pid ", Duration::from_secs(10))
                .unwrap();
        let alive = || Command::new("kill").args(["-0", &pid]).stderr(Stdio::null()).status().unwrap().success();
        assert!(alive());
        let step = move || -> Outcome {
            let _background = background;
            Err(Failure::new("on purpose"))
        };
        assert!(step().is_err());
        assert!(!alive());
    }

    #[test]
    fn a_background_process_that_ends_before_its_line_is_a_failure() {
        let failed = Background::start(&["true"], &[], "ready ", Duration::from_secs(10)).map(|_| ());
        assert!(failed.unwrap_err().to_string().contains("ended before it printed `ready `"));
    }

    #[test]
    fn a_failed_command_is_named_with_its_exit_code() {
        assert_eq!(run(&["sh", "-c", "exit 3"]).unwrap_err().to_string(), "`sh -c 'exit 3'`: exit code 3");
    }
}
