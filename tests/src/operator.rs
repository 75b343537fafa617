//! The program `owmm`, built here so that the tests can run it.

fn main() -> std::process::ExitCode {
    cli::main()
}
