//! The program `owmm-local`, which `cargo run` starts: the local stack.

fn main() -> std::process::ExitCode {
    local::cli::main()
}
