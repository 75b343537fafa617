//! The Lambda function `register-server` as a program of its own.

fn main() -> Result<(), functions::Error> {
    functions::run(&functions::REGISTER_SERVER)
}
