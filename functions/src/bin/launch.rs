//! The Lambda function `launch` as a program of its own.

fn main() -> Result<(), functions::Error> {
    functions::run(&functions::LAUNCH)
}
