//! The Lambda function `players` as a program of its own.

fn main() -> Result<(), functions::Error> {
    functions::run(&functions::PLAYERS)
}
