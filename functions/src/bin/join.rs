//! The Lambda function `join` as a program of its own.

fn main() -> Result<(), functions::Error> {
    functions::run(&functions::JOIN)
}
