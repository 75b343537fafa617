//! The Lambda function `register-player` as a program of its own.

fn main() -> Result<(), functions::Error> {
    functions::run(&functions::REGISTER_PLAYER)
}
