//! Findings of a check, one per line.

use std::fmt::Write;

use super::paint::Canvas;
use crate::jobs::check::{Finding, Level};

/// Formats findings as `level  subject: message; hint`, the level's word coloured when stdout is a terminal.
pub fn finding_lines(findings: &[Finding]) -> String {
    lines(findings, Canvas::stdout())
}

fn lines(findings: &[Finding], canvas: Canvas) -> String {
    let mut text = String::new();
    for finding in findings {
        let word = format!("{:<7}", finding.level.name());
        let word = match finding.level {
            Level::Ok => canvas.paint("32", &word),
            Level::Note => canvas.paint("33", &word),
            Level::Problem => canvas.paint("1;31", &word),
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
            lines(&findings, Canvas::Plain),
            "ok       values: all finite\nproblem  values: all finite; hint: mend it\n"
        );
        assert_eq!(lines(&findings[..1], Canvas::Colour), "\x1b[32mok     \x1b[0m  values: all finite\n");
    }
}
