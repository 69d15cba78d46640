//! Integers past 64 bits in JSON: serde_json reads them as floating-point numbers, and would write `1e30` for
//! `1000000000000000019884624838656`. (Its feature `arbitrary_precision` would keep them, and change how all crates read
//! numbers, that of the tokenizers too.)

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// The digits of a text's long integers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LongIntegers(BTreeMap<u64, String>);

impl LongIntegers {
    /// Those of `json`, which is valid.
    pub fn of(json: &str) -> Self {
        let mut found = BTreeMap::new();
        // Outside of strings; an escaped quote does not end one.
        let plain = json.replace(r"\\", "").replace("\\\"", "");
        for outside in plain.split('"').step_by(2) {
            for number in outside.split(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)) {
                let digits = number.strip_prefix('-').unwrap_or(number);
                let integer = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                let short = number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
                if let Some(value) = number.parse::<f64>().ok().filter(|_| integer && !short) {
                    found.insert(value.to_bits(), number.to_owned());
                }
            }
        }
        Self(found)
    }

    /// `value` in lines, with the long integers as they were.
    pub fn write(&self, value: &Value) -> serde_json::Result<Vec<u8>> {
        let mut text = Vec::new();
        let formatter = Exact { pretty: PrettyFormatter::new(), integers: self };
        value.serialize(&mut Serializer::with_formatter(&mut text, formatter))?;
        Ok(text)
    }
}

struct Exact<'a> {
    pretty: PrettyFormatter<'a>,
    integers: &'a LongIntegers,
}

impl Formatter for Exact<'_> {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        match self.integers.0.get(&value.to_bits()) {
            Some(digits) => writer.write_all(digits.as_bytes()),
            None => self.pretty.write_f64(writer, value),
        }
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.pretty.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.pretty.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_digit_is_lost() {
        let text = r#"{
  "a": 1000000000000000019884624838656,
  "b": [
    -18446744073709551616,
    18446744073709551615,
    -9223372036854775808,
    1e+300,
    0.1,
    3
  ],
  "\"c\\": "x \" 99999999999999999999999 \\",
  "d": {
    "e": 123456789012345678901234567890
  },
  "f": {},
  "g": []
}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        let integers = LongIntegers::of(text);
        assert_eq!(integers.0.len(), 3, "{integers:?}");
        assert_eq!(String::from_utf8(integers.write(&value).unwrap()).unwrap(), text);
        let plain = LongIntegers::default().write(&value).unwrap();
        assert_eq!(plain, serde_json::to_vec_pretty(&value).unwrap());
        assert_ne!(plain, text.as_bytes());
    }
}
