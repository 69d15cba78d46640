//! Values in the metadata of a GGUF file.

/// Value under a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Integer of any width; `u64` fits.
    Integer(i128),
    /// Number of 32 bits, which has the shortest decimal that names it.
    Single(f32),
    /// Number of 64 bits.
    Double(f64),
    /// Truth.
    Bool(bool),
    /// Text.
    Text(String),
    /// Values of one type.
    List(Vec<Self>),
}

impl Value {
    /// Returns the integer from 0 that this is.
    pub fn as_size(&self) -> Option<usize> {
        match self {
            Self::Integer(number) => usize::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Returns the number that this is. A single is the decimal that it was written as: 1e-5, not the double nearest to it.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Integer(number) => Some(*number as f64),
            Self::Single(number) => number.to_string().parse().ok(),
            Self::Double(number) => Some(*number),
            _ => None,
        }
    }

    /// Returns the truth that this is.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(truth) => Some(*truth),
            Self::Integer(0) => Some(false),
            Self::Integer(1) => Some(true),
            _ => None,
        }
    }

    /// Returns the text that this is.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the values that this is a list of.
    pub fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(values) => Some(values),
            _ => None,
        }
    }

    /// Describes the value for messages.
    pub fn shown(&self) -> String {
        match self {
            Self::Integer(number) => number.to_string(),
            Self::Single(number) => number.to_string(),
            Self::Double(number) => number.to_string(),
            Self::Bool(truth) => truth.to_string(),
            Self::Text(text) => format!("{text:?}"),
            Self::List(values) => format!("a list of {}", values.len()),
        }
    }
}
