//! Parse, run, print the error and its hint, exit code.

use std::process::ExitCode;

use clap::Parser;
use mixbit::cli::Cli;

/// MLX frees and allocates every temporary; glibc gives big ones back to the kernel each time, which costs more than
/// the arithmetic. On Linux this one also serves libmlx.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    mixbit::interrupt::install();
    match mixbit::commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            mixbit::report::error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
