//! Parse, run, print the error and its hint, exit code.

use std::process::ExitCode;

use mixbit::cli::args::Cli;
use mixbit::error::ErrorKind;

/// MLX frees and allocates every temporary; glibc gives big ones back to the kernel each time, which costs more than
/// the arithmetic. On Linux this one also serves libmlx.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// No huge pages: the allocator's lists touch memory here and there, and the kernel cleared and counted 2 MiB for each
/// touch, a quarter of the memory of a small model's analysis.
#[cfg(target_os = "linux")]
fn small_pages() {
    // SAFETY: sets a flag of this process.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    small_pages();
    let cli = Cli::from_arguments();
    mixbit::cli::signals::install();
    match mixbit::cli::commands::dispatch::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody reads on (`mixbit inspect | head`): there is nothing to say, and nothing went wrong.
            if !matches!(error.kind(), ErrorKind::ClosedPipe) {
                mixbit::report::error(&error);
            }
            ExitCode::from(match error.kind() {
                ErrorKind::Interrupted => mixbit::cli::signals::exit_code(),
                _ => error.exit_code(),
            })
        }
    }
}
