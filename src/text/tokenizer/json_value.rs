//! JSON values as Python's `json` module reads them, for templates.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::files::json;

/// A value whose NaN, Infinity and long integers are numbers, and not the objects that stand for them in JSON.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Python<'a>(pub(crate) &'a Value);

/// An object of such values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PythonObject<'a>(pub(crate) &'a Map<String, Value>);

impl Serialize for Python<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(items) => serializer.collect_seq(items.iter().map(Python)),
            Value::Object(object) => match (json::as_f64(self.0), json::as_long_integer(self.0)) {
                (Some(number), _) => serializer.serialize_f64(number),
                (None, Some(integer)) => serializer.serialize_i128(integer),
                (None, None) => PythonObject(object).serialize(serializer),
            },
            value => value.serialize(serializer),
        }
    }
}

impl Serialize for PythonObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, Python(value))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use minijinja::Value as Jinja;
    use minijinja::value::Serde;
    use std::path::Path;

    use super::super::jinja::render::render;
    use super::*;

    #[test]
    fn templates_see_numbers_that_are_not_finite() {
        let value = json::parse_text(r#"{"a": NaN, "b": [1, -Infinity, {"c": 1e999}], "d": 1.5}"#).unwrap();
        let variables = Jinja::from_pairs([("x", Jinja::from(Serde(Python(&value))))]);
        let template = "{{ x.a }} {{ x.b }} {{ x.b[1] < 0 }} {{ x.d }} {{ x|tojson }}";
        let text = render(Path::new("t.jinja"), template, variables).unwrap();
        let json = r#"{"a": NaN, "b": [1, -Infinity, {"c": Infinity}], "d": 1.5}"#;
        assert_eq!(text, format!("nan [1, -inf, {{'c': inf}}] True 1.5 {json}"));
    }

    /// The expected text is that of Python 3.
    #[test]
    fn templates_see_long_integers_as_they_are() {
        let value = json::parse_text_exact(r#"{"a": 18446744073709551617, "b": [-18446744073709551617]}"#);
        let value = value.unwrap();
        let variables = Jinja::from_pairs([("x", Jinja::from(Serde(Python(&value))))]);
        let template = "{{ x.a }} {{ x.a + 1 }} {{ x.b }} {{ x.a > 1 }} {{ x.a is integer }} {{ x|tojson }}";
        let text = render(Path::new("t.jinja"), template, variables).unwrap();
        let expected = "18446744073709551617 18446744073709551618 [-18446744073709551617] True True ";
        let json = r#"{"a": 18446744073709551617, "b": [-18446744073709551617]}"#;
        assert_eq!(text, format!("{expected}{json}"));
    }
}
