//! The Lambda function `deregister-player` as a program of its own.

fn main() -> Result<(), functions::Error> {
    functions::run(&functions::DEREGISTER_PLAYER)
}
