//! The program `owmm`: OWMM's command line for operators.

fn main() -> std::process::ExitCode {
    cli::main()
}
