//! The `vmlan` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmlan::control::cli::main()
}
