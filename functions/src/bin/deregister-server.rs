//! The Lambda function `deregister-server` as a program of its own.

fn main() -> Result<(), functions::Error> {
    functions::run(&functions::DEREGISTER_SERVER)
}
