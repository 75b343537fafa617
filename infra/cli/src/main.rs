//! `owmm`: OWMM's operators' command line.

fn main() -> std::process::ExitCode {
    cli::main()
}
