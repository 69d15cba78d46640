//! Templates and the filters that they may call. Every value that is put into them is escaped, and characters that no
//! document may hold are replaced: names and texts come from files that anyone may have written.

use minijinja::value::{Serde, ValueKind};
use minijinja::{AutoEscape, Environment, Output, State, UndefinedBehavior, Value, escape_formatter};
use serde::Serialize;

use super::axis::place;
use crate::error::{Error, Result};
use crate::words::bytes;

const TEMPLATES: [(&str, &str); 9] = [
    ("page.html", include_str!("templates/page.html")),
    ("theme.css", include_str!("templates/theme.css")),
    ("page.css", include_str!("templates/page.css")),
    ("chart.css", include_str!("templates/chart.css")),
    ("axes.svg", include_str!("templates/axes.svg")),
    ("bars.svg", include_str!("templates/bars.svg")),
    ("curve.svg", include_str!("templates/curve.svg")),
    ("panel.svg", include_str!("templates/panel.svg")),
    ("histogram.svg", include_str!("templates/histogram.svg")),
];

/// Fills the template called `name`.
pub fn render(name: &str, values: &impl Serialize) -> Result<String> {
    let text = environment().and_then(|environment| environment.get_template(name)?.render(Serde(values)));
    text.map_err(|e| Error::input(format!("cannot draw {name}: {e:#}")))
}

fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    let mut syntax = minijinja::syntax::SyntaxConfig::builder();
    environment.set_syntax(syntax.trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_formatter(write_clean);
    environment.add_filter("bytes", bytes);
    environment.add_filter("kl", kl);
    environment.add_filter("fixed", |value: f64, digits: usize| format!("{value:.digits$}"));
    environment.add_filter("share", share);
    for (name, source) in TEMPLATES {
        environment.add_template(name, source)?;
    }
    Ok(environment)
}

/// Writes a value without unfit characters; numbers that no filter has formatted are rounded as positions in pixels.
fn write_clean(out: &mut Output, state: &mut State, value: &Value) -> Result<(), minijinja::Error> {
    if let Some(pixels) = f64::try_from(value.clone()).ok().filter(|_| !value.is_integer()) {
        return escape_formatter(out, state, &Value::from(place(pixels)));
    }
    let dirty = value.as_str().filter(|text| value.kind() == ValueKind::String && text.chars().any(unfit));
    match dirty {
        Some(text) if !value.is_safe() => {
            let text: String = text.chars().map(|c| if unfit(c) { '\u{fffd}' } else { c }).collect();
            escape_formatter(out, state, &Value::from(text))
        }
        _ => escape_formatter(out, state, value),
    }
}

/// True for characters that neither HTML nor XML allows.
fn unfit(c: char) -> bool {
    matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\x7f'..='\u{9f}' | '\u{fffe}' | '\u{ffff}')
}

/// Formats a KL divergence with three digits: `0.00158`, `3.71e-7`, `0`.
pub fn kl(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs().log10().floor();
    if (-3.0..3.0).contains(&magnitude) {
        let digits = (2.0 - magnitude).max(0.0) as usize;
        return format!("{value:.digits$}");
    }
    format!("{value:.2e}")
}

/// Formats a KL divergence with its standard error to the same place: `0.00158 ± 0.00003`.
pub fn kl_plus_minus(value: f64, error: f64) -> String {
    let written = kl(value);
    match written.split_once('.') {
        Some((_, digits)) if !digits.contains('e') => format!("{written} ± {error:.*}", digits.len()),
        _ => format!("{written} ± {error:.1e}"),
    }
}

/// Formats a share in percent: `0.3 %`.
pub fn share(value: f64) -> String {
    format!("{:.1} %", 100.0 * value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_tell_enough() {
        let written = [0.0, 0.001_578_4, 3.708e-7, -0.02, 1.5, 4.2e4].map(kl);
        assert_eq!(written, ["0", "0.00158", "3.71e-7", "-0.0200", "1.50", "4.20e4"]);
        assert_eq!(kl_plus_minus(0.001_578, 3.01e-5), "0.00158 ± 0.00003");
        assert_eq!(kl_plus_minus(1.578e-5, 3.01e-7), "1.58e-5 ± 3.0e-7");
        assert_eq!(share(0.96471), "96.5 %");
    }

    #[test]
    fn whatever_comes_from_files_is_text() {
        let mut environment = environment().unwrap();
        environment.add_template("t", "<p title=\"{{ x }}\">{{ x }}</p>").unwrap();
        let value = minijinja::context! { x => "<script>\"a\" & 'b'\0\u{1b}[31m</script>\n" };
        let text = environment.get_template("t").unwrap().render(value).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        assert_eq!(
            document.root_element().text(),
            Some("<script>\"a\" & 'b'\u{fffd}\u{fffd}[31m</script>\n")
        );
        assert_eq!(document.root_element().attributes().len(), 1);
    }
}
