//! The Lambda function `pools` as a program of its own.

fn main() -> Result<(), functions::Error> {
    functions::run(&functions::POOLS)
}
