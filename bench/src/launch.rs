//! Starting a program from a small process. A program's peak memory includes that of the process which turned into it, on Linux
//! even where the two only share it, so a bench that has grown would show in all programs that it starts. Hence the bench
//! starts itself anew, and that process starts the program.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

/// A program to start. Its output goes to standard error.
#[derive(Args)]
pub struct Launch {
    /// Name and value of a variable for the program alone: a preloaded library would be in the launcher too
    #[arg(long, num_args = 2, value_names = ["NAME", "VALUE"], allow_hyphen_values = true)]
    env: Vec<OsString>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Time, memory and status of a program that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Seconds from start to end.
    pub seconds: f64,
    /// Peak resident set in bytes; at least the few MB of the launcher itself.
    pub peak: f64,
    /// Status as `wait` returns it: 0 for success.
    pub status: libc::c_int,
}

/// Runs a command to its end from a new process of `launcher`, the program of the benches. Both print to `log`.
pub fn run(launcher: &Path, command: &Command, log: File) -> Result<Ended> {
    let mut launched = Command::new(launcher);
    launched.arg("launch");
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => launched.arg("--env").args([name, value]),
            None => launched.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        launched.current_dir(folder);
    }
    launched.arg("--").arg(command.get_program()).args(command.get_args());
    launched.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let output = launched.spawn().and_then(std::process::Child::wait_with_output);
    let output = output.with_context(|| format!("cannot start {}", launcher.display()))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let mut numbers = stdout.split_whitespace();
    let mut number = || numbers.next()?.parse::<f64>().ok();
    match (number(), number(), number()) {
        (Some(seconds), Some(peak), Some(status)) => {
            Ok(Ended { seconds, peak, status: status as libc::c_int })
        }
        _ => Ok(Ended { seconds: 0.0, peak: 0.0, status: 1 }),
    }
}

impl Launch {
    /// Runs the program and prints seconds, peak and status.
    pub fn serve(&self) -> Result<()> {
        let [program, arguments @ ..] = &self.command[..] else { return Ok(()) };
        let mut command = Command::new(program);
        command.args(arguments).envs(self.env.chunks_exact(2).map(|pair| (&pair[0], &pair[1])));
        command.stdin(Stdio::null()).stdout(std::io::stderr().as_fd().try_clone_to_owned()?);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
        // SAFETY: both pointers are to live locals.
        let waited =
            unsafe { libc::wait4(child.id() as libc::pid_t, &raw mut status, 0, usage.as_mut_ptr()) };
        let seconds = started.elapsed().as_secs_f64();
        ensure!(waited >= 0, "cannot wait for the child: {}", std::io::Error::last_os_error());
        // SAFETY: plain numbers, for which zero is a value.
        let usage = unsafe { usage.assume_init() };
        // Linux counts kilobytes, macOS bytes.
        let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
        println!("{seconds} {} {status}", usage.ru_maxrss * unit);
        Ok(())
    }
}
