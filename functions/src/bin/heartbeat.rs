//! The Lambda function `heartbeat` as a program of its own.

fn main() -> Result<(), functions::Error> {
    functions::run(&functions::HEARTBEAT)
}
