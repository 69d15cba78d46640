//! Parse, run, print the error and its hint, exit code.

use std::process::ExitCode;

use clap::Parser;
use mixbit::cli::Cli;

/// MLX frees and allocates every temporary; glibc gives big ones back to the kernel each time, which costs more than
/// the arithmetic. On Linux this one also serves libmlx.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Pages that were freed are not given back to the kernel: the next temporary wants them again, and clearing them anew
/// took about a tenth of analyze's time on a model of a billion parameters.
#[cfg(target_os = "linux")]
fn keep_pages() {
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets a number; -1 is documented to mean never.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    keep_pages();
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
