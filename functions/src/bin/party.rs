//! The Lambda function `party` as a program of its own.

fn main() -> Result<(), functions::Error> {
    functions::run(&functions::PARTY)
}
