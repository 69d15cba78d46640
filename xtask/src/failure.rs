//! Errors as the programs print them.

use std::process::ExitCode;

/// Turns a result into an exit code; prints an error and its causes, and after them the hints they contain.
pub fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let mut hints = Vec::new();
    for (depth, cause) in error.chain().enumerate() {
        let message = cause.to_string();
        let (what, hint) = message.split_once("\nhint: ").unwrap_or((&message, ""));
        eprintln!("{}: {what}", if depth == 0 { "error" } else { "because" });
        hints.extend((!hint.is_empty()).then(|| hint.to_owned()));
    }
    for hint in hints {
        eprintln!("hint: {hint}");
    }
    ExitCode::FAILURE
}
