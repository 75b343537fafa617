//! `cargo run`: the local stack.

fn main() -> std::process::ExitCode {
    local::cli::main()
}
