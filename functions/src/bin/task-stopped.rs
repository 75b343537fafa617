//! The Lambda function `task-stopped` as a program of its own.

fn main() -> Result<(), functions::Error> {
    functions::run(&functions::TASK_STOPPED)
}
