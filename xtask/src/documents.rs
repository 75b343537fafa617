//! The step `docs-commands`: every command in the project's documents runs, or the document says that it does not.
//!
//! A fenced block of commands has the language `console`. Lines that start with `$ ` are its commands, which run in one
//! bash in the project's root; the first failure ends the block. A command continues after a backslash, and in lines
//! that start with `> `. All other lines are output, which is not compared.
//!
//! | block | runs |
//! |---|---|
//! | `console` | unconditionally |
//! | `console stack` | while a local stack with one ready server is up on port 9000; neighbouring blocks share it |
//! | `console not-run` | not at all |
//!
//! So that every command is checked, each block must name a language, a shell's language must be `console`, and only
//! `console` may have lines that start with `$ `. `owmm` is the workspace's program, and `OWMM_URL` is the local stack.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::Stdio,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use crate::shell::{self, Background, Failure, Outcome};

/// Maximum time of one block.
const BLOCK_WITHIN: Duration = Duration::from_secs(300);

/// Maximum time until the stack listens, and then until its first server is ready.
const STACK_WITHIN: Duration = Duration::from_secs(60);

const STACK_PORT: &str = "9000";
const STACK_URL: &str = "http://127.0.0.1:9000";

/// Languages of shells, which are refused because their blocks would not be run.
const SHELLS: &[&str] =
    &["sh", "bash", "zsh", "fish", "shell", "shell-session", "sh-session", "shellsession", "terminal"];

/// When a block of commands runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    AsItIs,
    WithStack,
    Never,
}

/// A block of commands.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    when: When,
    commands: Vec<Command>,
}

/// A command, which may have several lines, with its line number in the document.
#[derive(Debug, PartialEq, Eq)]
struct Command {
    line: usize,
    text: String,
}

/// Runs the step on the project.
pub(crate) fn check() -> Outcome {
    let mut documents = Vec::new();
    let mut wrong = Vec::new();
    for file in shell::tracked_files()?.into_iter().filter(|it| it.ends_with(".md")) {
        match blocks(&shell::read(&file)?) {
            Ok(found) => documents.push((file, found)),
            Err(lines) => wrong.extend(lines.into_iter().map(|(line, why)| format!("{file}:{line}: {why}"))),
        }
    }
    for line in &wrong {
        println!("{line}");
    }
    if !wrong.is_empty() {
        return Err(Failure::new(format!("{} code blocks break the rules of `docs-commands`", wrong.len())));
    }
    shell::run(&["cargo", "build", "--locked", "--workspace", "--bins"])?;
    let mut ran = 0;
    let mut not_run = 0;
    for (file, blocks) in &documents {
        let mut stack = None;
        for block in blocks {
            match block.when {
                When::Never => {
                    for command in &block.commands {
                        println!("{file}:{}: not run: {}", command.line, command.text);
                        not_run += 1;
                    }
                    continue;
                }
                // Stops the stack, so that the port is free for a command that starts one itself.
                When::AsItIs => stack = None,
                When::WithStack if stack.is_none() => stack = Some(start_stack()?),
                When::WithStack => (),
            }
            run_block(file, block, BLOCK_WITHIN)?;
            ran += block.commands.len();
        }
        drop(stack);
    }
    println!("{ran} commands ran, {not_run} are marked as not run");
    Ok(())
}

/// Starts the local stack and one server, and waits until the server is ready.
fn start_stack() -> Result<Background, Failure> {
    let line = ["target/debug/owmm-local", "--no-demo", "--port", STACK_PORT];
    let env = [("OWMM_LOG", "warn")];
    let (stack, _) = Background::start(&line, &env, "ready ", STACK_WITHIN)?;
    let owmm = shell::path("target/debug/owmm");
    let owmm = |arguments: &[&str]| {
        let mut line = vec![owmm.as_str(), "--url", STACK_URL];
        line.extend(arguments);
        shell::stdout_of(&line)
    };
    owmm(&["launch", "default", "--at-least", "1", "--yes"])?;
    let start = Instant::now();
    // The JSON is compared without white space.
    while !owmm(&["servers", "--json"])?.replace(char::is_whitespace, "").contains("\"state\":\"ready\"") {
        if start.elapsed() > STACK_WITHIN {
            return Err(Failure::new(format!("the stack's first server was not ready within {STACK_WITHIN:?}")));
        }
        thread::park_timeout(Duration::from_millis(200));
    }
    Ok(stack)
}

/// Runs a block's commands in one bash, and prints each with its result.
fn run_block(file: &str, block: &Block, within: Duration) -> Outcome {
    const MARK: &str = "\u{1}done ";
    let mut script = String::from("set -eo pipefail\n");
    for (index, command) in block.commands.iter().enumerate() {
        // On a line of its own, even if the command's output does not end with a line break.
        script.push_str(&format!("{}\nprintf '\\n{MARK}%s\\n' {index}\n", command.text));
    }
    let start = Instant::now();
    let mut bash = shell::command("bash")
        .args(["--noprofile", "--norc", "-c", &script])
        .env("PATH", shell::path_with("target/debug"))
        .env("OWMM_URL", STACK_URL)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let group = format!("-{}", bash.id());
    let (send, receive) = mpsc::channel();
    if let Some(stdout) = bash.stdout.take() {
        thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                // Sending fails after the time limit, which is fine.
                let _ = send.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
    }
    let mut commands = block.commands.iter();
    let mut current = commands.next();
    let announce = |command: Option<&Command>| {
        if let Some(command) = command {
            println!("{file}:{}: $ {}", command.line, command.text);
        }
    };
    announce(current);
    let mut in_time = true;
    let mut has_ended = false;
    while current.is_some() && in_time {
        match receive.recv_timeout(Duration::from_millis(100)) {
            Ok(line) if line.starts_with(MARK) => {
                println!("    ok, {:.1} s", start.elapsed().as_secs_f64());
                current = commands.next();
                announce(current);
            }
            Ok(line) if line.is_empty() => (),
            Ok(line) => println!("    {line}"),
            Err(RecvTimeoutError::Disconnected) => break,
            // A process that a command has left running may keep the pipe open; all output of the shell has been read.
            Err(RecvTimeoutError::Timeout) if has_ended => break,
            Err(RecvTimeoutError::Timeout) => has_ended = !matches!(bash.try_wait(), Ok(None)),
        }
        in_time = start.elapsed() < within;
        std::io::stdout().flush()?;
    }
    // Ends all processes that the block has left running.
    if current.is_some() && !in_time {
        shell::signal("TERM", &group);
        if !shell::wait(&mut bash, Duration::from_secs(10)) {
            shell::signal("KILL", &group);
        }
    }
    let status = bash.wait()?;
    shell::signal("KILL", &group);
    match current {
        None if status.success() => Ok(()),
        None => Err(Failure::new(format!("{file}: a block's shell: {}", shell::ended(status)))),
        Some(command) => {
            let why = if in_time { shell::ended(status) } else { format!("not done within {within:?}") };
            Err(Failure::new(format!("{file}:{}: `{}`: {why}", command.line, command.text)))
        }
    }
}

/// The blocks of commands of a document, or the line number and reason of each block that breaks the rules.
fn blocks(text: &str) -> Result<Vec<Block>, Vec<(usize, String)>> {
    let mut found = Vec::new();
    let mut wrong = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let trimmed = line.trim_start();
        let Some(fence) = ["```", "~~~"].into_iter().find(|it| trimmed.starts_with(it)) else { continue };
        let length = trimmed.len() - trimmed.trim_start_matches(fence.chars().next().unwrap_or('`')).len();
        let (fence, info) = trimmed.split_at(length);
        let indent = line.len() - trimmed.len();
        let mut content = Vec::new();
        for (index, line) in lines.by_ref() {
            if line.trim().starts_with(fence) && line.trim().chars().all(|it| fence.starts_with(it)) {
                break;
            }
            // In a list, the whole block is indented.
            let inside = line
                .get(..indent)
                .filter(|it| it.trim().is_empty())
                .map_or(line, |_| line.get(indent..).unwrap_or_default());
            content.push((index + 1, inside));
        }
        match when(info) {
            Ok(Some(when)) => match commands(&content) {
                Ok(commands) => found.push(Block { when, commands }),
                Err(why) => wrong.push(why),
            },
            Ok(None) => {
                if let Some((line, _)) = content.iter().find(|(_, line)| line.starts_with("$ ")) {
                    wrong.push((*line, format!("a command in a block of `{}`: make it `console`", info.trim())));
                }
            }
            Err(why) => wrong.push((index + 1, why)),
        }
    }
    if wrong.is_empty() { Ok(found) } else { Err(wrong) }
}

/// When a block with this info string runs; `None` if it has no commands.
fn when(info: &str) -> Result<Option<When>, String> {
    let words: Vec<&str> = info.split_whitespace().collect();
    match words.as_slice() {
        [] => Err("the block has no language: write `console` for commands, `text` for other text".to_owned()),
        ["console"] => Ok(Some(When::AsItIs)),
        ["console", "stack"] => Ok(Some(When::WithStack)),
        ["console", "not-run"] => Ok(Some(When::Never)),
        ["console", other @ ..] => {
            Err(format!("`console` goes with `stack` or `not-run`, not with `{}`", other.join(" ")))
        }
        [language, ..] if SHELLS.contains(language) => {
            Err(format!("a block of `{language}`: write `console`, and `$ ` before each command"))
        }
        _ => Ok(None),
    }
}

/// The commands of a block's lines, or the number and problem of a wrong line.
fn commands(content: &[(usize, &str)]) -> Result<Vec<Command>, (usize, String)> {
    let mut found: Vec<Command> = Vec::new();
    let mut goes_on = false;
    // Whether lines with `> ` may still follow: only right after a command.
    let mut is_command = false;
    for &(line, text) in content {
        let last = found.last_mut();
        match (last, text.strip_prefix("$ "), text.strip_prefix("> ").or((text == ">").then_some(""))) {
            (Some(last), _, more) if goes_on => {
                last.text.push('\n');
                last.text.push_str(more.unwrap_or(text));
            }
            (_, Some(command), _) => found.push(Command { line, text: command.to_owned() }),
            (Some(last), None, Some(more)) if is_command => {
                last.text.push('\n');
                last.text.push_str(more);
            }
            _ => {
                is_command = false;
                continue;
            }
        }
        is_command = true;
        goes_on = text.ends_with('\\');
    }
    match content.first() {
        Some((line, _)) if found.is_empty() => {
            Err((*line, "a block of `console` without a line that starts with `$ `".to_owned()))
        }
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: usize, text: &str) -> Command {
        Command { line, text: text.to_owned() }
    }

    fn wrong(text: &str) -> Vec<usize> {
        blocks(text).unwrap_err().into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn commands_are_separated_from_output_and_keep_their_line_numbers() {
        let text = "# A\n```console\n$ one\noutput\n$ two \\\n    more\n> no command any more\n$ cat <<END\n> a\n> END\n```\n\
                    1. b\n   ```console stack\n   $ three\n   ```\n~~~console not-run\n$ four\n~~~\n```json\n{}\n```\n";
        assert_eq!(
            blocks(text).unwrap(),
            [
                Block {
                    when: When::AsItIs,
                    commands: vec![
                        command(3, "one"),
                        command(5, "two \\\n    more\nno command any more"),
                        command(8, "cat <<END\na\nEND")
                    ]
                },
                Block { when: When::WithStack, commands: vec![command(14, "three")] },
                Block { when: When::Never, commands: vec![command(17, "four")] },
            ]
        );
    }

    #[test]
    fn a_block_of_commands_that_nothing_would_run_is_an_error_with_its_line() {
        assert_eq!(wrong("a\n```sh\necho\n```\n"), [2]);
        assert_eq!(wrong("```\necho\n```\n"), [1]);
        assert_eq!(wrong("```text\na\n$ echo\n```\n"), [3]);
        assert_eq!(wrong("```console later\n$ echo\n```\n"), [1]);
        assert_eq!(wrong("```console\necho\n```\n"), [2]);
        assert_eq!(blocks("```text\n$5\n```\n`$ echo`\n"), Ok(vec![]));
    }

    fn run(text: &str, within: Duration) -> Result<(), String> {
        let blocks = blocks(text).unwrap();
        assert_eq!(blocks.len(), 1);
        run_block("a.md", &blocks[0], within).map_err(|failure| failure.to_string())
    }

    #[test]
    fn commands_of_a_block_share_a_shell_in_the_projects_root() {
        let text = "```console\n$ A=1 && test -f Cargo.toml\n$ test $A = 1 && test \"$OWMM_URL\" = http://127.0.0.1:9000\n```\n";
        assert_eq!(run(text, Duration::from_secs(20)), Ok(()));
    }

    #[test]
    fn the_first_command_that_fails_ends_the_block_and_is_named() {
        let text = "```console\n$ true\n$ false | cat\n$ touch target/never\n```\n";
        assert_eq!(run(text, Duration::from_secs(20)), Err("a.md:3: `false | cat`: exit code 1".to_owned()));
        assert_eq!(
            run("```console\n$ exit 0\n$ true\n```", Duration::from_secs(20)),
            Err("a.md:2: `exit 0`: exit code 0".to_owned())
        );
    }

    #[test]
    fn a_block_does_not_wait_for_what_it_has_left_running() {
        let start = Instant::now();
        assert_eq!(run("```console\n$ sleep 600 &\n$ true\n```\n", Duration::from_secs(60)), Ok(()));
        let failed = run("```console\n$ sleep 600 &\n$ false\n```\n", Duration::from_secs(60));
        assert_eq!(failed, Err("a.md:3: `false`: exit code 1".to_owned()));
        assert!(start.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn a_block_that_takes_too_long_is_ended_with_all_it_has_started() {
        let start = Instant::now();
        let text = "```console\n$ true\n$ sleep 600 | sleep 600\n```\n";
        let failed = run(text, Duration::from_secs(1));
        assert_eq!(failed, Err("a.md:3: `sleep 600 | sleep 600`: not done within 1s".to_owned()));
        assert!(start.elapsed() < Duration::from_secs(15));
    }
}
