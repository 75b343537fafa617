//! `owmm-local`, for the tests to start.

fn main() -> std::process::ExitCode {
    local::cli::main()
}
