//! The program `owmm-local`, built here so that the tests can start it.

fn main() -> std::process::ExitCode {
    local::cli::main()
}
