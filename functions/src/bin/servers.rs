//! The Lambda function `servers` as a program of its own.

fn main() -> Result<(), functions::Error> {
    functions::run(&functions::SERVERS)
}
