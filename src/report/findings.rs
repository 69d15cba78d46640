//! Findings of a check, one a line.

use std::fmt::Write;
use std::io::IsTerminal;

use crate::check::{Finding, Level};

/// `level  subject: message; hint`, the level's word coloured when stdout is a terminal.
pub fn finding_lines(findings: &[Finding]) -> String {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    lines(findings, colour)
}

fn lines(findings: &[Finding], colour: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let word = format!("{:<7}", finding.level.name());
        let word = match finding.level {
            _ if !colour => word,
            Level::Ok => format!("\x1b[32m{word}\x1b[0m"),
            Level::Note => format!("\x1b[33m{word}\x1b[0m"),
            Level::Problem => format!("\x1b[1;31m{word}\x1b[0m"),
        };
        let hint = finding.hint.as_ref().map(|hint| format!("; hint: {hint}")).unwrap_or_default();
        let _ = writeln!(text, "{word}  {}: {}{hint}", finding.subject, finding.message);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_each() {
        let finding = |level, hint: Option<&str>| Finding {
            level,
            subject: "values",
            message: "all finite".to_owned(),
            hint: hint.map(str::to_owned),
        };
        let findings = [finding(Level::Ok, None), finding(Level::Problem, Some("mend it"))];
        assert_eq!(
            lines(&findings, false),
            "ok       values: all finite\nproblem  values: all finite; hint: mend it\n"
        );
        assert_eq!(lines(&findings[..1], true), "\x1b[32mok     \x1b[0m  values: all finite\n");
    }
}
