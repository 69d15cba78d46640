//! Lists in config.json, most of them with an entry for each layer.

use serde_json::Value;

use super::config::{ModelConfig, as_bool};
use crate::error::Result;
use crate::files::json;

impl ModelConfig {
    /// Reads a list of booleans (0 and 1 count), if present.
    pub fn booleans(&self, key: &str) -> Result<Option<Vec<bool>>> {
        self.list(key, "a list of 0 and 1", as_bool)
    }

    /// Reads a list of a boolean for each of so many layers, if present.
    pub(crate) fn flags_of_layers(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>> {
        let flags = self.booleans(key)?;
        match flags.as_ref().filter(|flags| flags.len() != layers) {
            Some(wrong) => Err(self.error(key, format!("{} entries for {layers} layers", wrong.len()))),
            None => Ok(flags),
        }
    }

    /// Reads a list of numbers from 0, if present.
    pub fn indices(&self, key: &str) -> Result<Option<Vec<usize>>> {
        self.list(key, "a list of integers from 0", |v| json::as_u64(v).and_then(|n| usize::try_from(n).ok()))
    }

    /// Reads a list of a number for each of so many layers, if present.
    pub(crate) fn numbers_of_layers(&self, key: &str, layers: usize) -> Result<Option<Vec<f64>>> {
        let numbers =
            self.list(key, "a list of numbers", |value| value.as_f64().filter(|x| x.is_finite()))?;
        match numbers.as_ref().filter(|numbers| numbers.len() != layers) {
            Some(wrong) => Err(self.error(key, format!("{} entries for {layers} layers", wrong.len()))),
            None => Ok(numbers),
        }
    }

    /// Reads a list of a size below `most` for each of so many layers.
    pub(crate) fn sizes_of_layers(&self, key: &str, layers: usize, most: usize) -> Result<Vec<usize>> {
        let is_size = |size: &usize| (1..most).contains(size);
        let sizes = self.indices(key)?.filter(|sizes| sizes.len() == layers && sizes.iter().all(is_size));
        sizes.ok_or_else(|| self.error(key, format!("expected a list of {layers} sizes below {most}")))
    }

    /// Reads a list of strings, if present.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.list(key, "a list of strings", |v| v.as_str().map(str::to_owned))
    }

    /// Reads a list of positive numbers that has to be there, one for each of so many `layers` where they are given.
    pub fn positives(&self, key: &str, layers: Option<usize>) -> Result<Vec<f64>> {
        let values = self.get(key).ok_or_else(|| self.missing(key))?.as_array();
        let numbers: Option<Vec<f64>> = values.and_then(|values| values.iter().map(Value::as_f64).collect());
        let numbers = numbers
            .filter(|numbers| numbers.iter().all(|x| x.is_finite() && *x > 0.0))
            .ok_or_else(|| self.error(key, "expected a list of positive numbers"))?;
        match layers.filter(|layers| numbers.len() != *layers) {
            Some(layers) => Err(self.error(key, format!("{} entries for {layers} layers", numbers.len()))),
            None => Ok(numbers),
        }
    }

    fn list<T>(&self, key: &str, what: &str, item: impl Fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value
            .as_array()
            .and_then(|items| items.iter().map(&item).collect::<Option<Vec<T>>>())
            .map(Some)
            .ok_or_else(|| self.error(key, format!("expected {what}, found {}", json::shown(value))))
    }
}
