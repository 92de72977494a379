//! The `somaagent` executable.

fn main() -> std::process::ExitCode {
    somaagent::cli::main()
}
