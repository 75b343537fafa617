//! `owmm`, for the tests to run.

fn main() -> std::process::ExitCode {
    cli::main()
}
