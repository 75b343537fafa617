//! The Lambda function `reconcile` as a program of its own.

fn main() -> Result<(), functions::Error> {
    functions::run(&functions::RECONCILE)
}
