//! The Lambda function `drain` as a program of its own.

fn main() -> Result<(), functions::Error> {
    functions::run(&functions::DRAIN)
}
