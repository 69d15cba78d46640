//! Values that transformers' config classes give to keys that config.json leaves out.

use serde_json::Value;

/// A key's value in the config class that transformers 5 has for an architecture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KeyDefault {
    /// The key.
    pub key: &'static str,
    /// Its value where config.json does not have it.
    pub value: DefaultValue,
    /// True where `null` is a choice of its own (`sliding_window`: none), which the default does not replace.
    pub nullable: bool,
    /// Reach of the value in the model.
    pub effect: Effect,
}

/// The value of a [`KeyDefault`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "the kinds of JSON values")]
pub enum DefaultValue {
    /// A size; `None` for one that is absent by default, and that the model may have.
    Size(Option<usize>),
    Number(f64),
    Boolean(bool),
    Text(&'static str),
}

/// Reach of a default in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Shapes of tensors, or the arithmetic of every model: a note names the value that was taken.
    Decisive,
    /// Anything less.
    Minor,
}

impl KeyDefault {
    /// A size.
    pub const fn size(key: &'static str, value: usize) -> Self {
        Self::new(key, DefaultValue::Size(Some(value)), Effect::Decisive)
    }

    /// A size whose `null` is a choice.
    pub const fn nullable_size(key: &'static str, value: usize) -> Self {
        Self { nullable: true, ..Self::size(key, value) }
    }

    /// A size that is absent by default.
    pub const fn optional_size(key: &'static str) -> Self {
        Self { nullable: true, ..Self::new(key, DefaultValue::Size(None), Effect::Minor) }
    }

    /// A number.
    pub const fn number(key: &'static str, value: f64) -> Self {
        Self::new(key, DefaultValue::Number(value), Effect::Decisive)
    }

    /// A number whose `null` is a choice.
    pub const fn nullable_number(key: &'static str, value: f64) -> Self {
        Self { nullable: true, ..Self::number(key, value) }
    }

    /// A switch.
    pub const fn boolean(key: &'static str, value: bool) -> Self {
        Self::new(key, DefaultValue::Boolean(value), Effect::Minor)
    }

    /// A switch whose `null` is a choice.
    pub const fn nullable_boolean(key: &'static str, value: bool) -> Self {
        Self { nullable: true, ..Self::boolean(key, value) }
    }

    /// A name.
    pub const fn text(key: &'static str, value: &'static str) -> Self {
        Self::new(key, DefaultValue::Text(value), Effect::Minor)
    }

    const fn new(key: &'static str, value: DefaultValue, effect: Effect) -> Self {
        Self { key, value, nullable: false, effect }
    }

    /// Marks a size or number that neither shapes nor every model's arithmetic depend on.
    #[must_use]
    pub const fn minor(self) -> Self {
        Self { effect: Effect::Minor, ..self }
    }

    /// The value as JSON; null for a size that is absent by default.
    pub fn json(&self) -> Value {
        match self.value {
            DefaultValue::Size(n) => n.into(),
            DefaultValue::Number(x) => x.into(),
            DefaultValue::Boolean(b) => b.into(),
            DefaultValue::Text(text) => text.into(),
        }
    }

    /// True for sizes, which config.json may write as floats and other readers want as integers.
    pub const fn is_size(&self) -> bool {
        matches!(self.value, DefaultValue::Size(_))
    }
}

/// Sizes of a class: rows of the embedding, width, width of the MLP, layers, heads, and heads of keys, of which null is a choice.
pub(crate) const fn sizes(
    [vocabulary, hidden, inner, layers, heads, kv_heads]: [usize; 6],
) -> [KeyDefault; 6] {
    [
        KeyDefault::size("vocab_size", vocabulary),
        KeyDefault::size("hidden_size", hidden),
        KeyDefault::size("intermediate_size", inner),
        KeyDefault::size("num_hidden_layers", layers),
        KeyDefault::size("num_attention_heads", heads),
        KeyDefault::nullable_size("num_key_value_heads", kv_heads),
    ]
}

/// Makes a list with [`extend`]: the defaults of a class that are those of another, but for its own, which may be several lists.
macro_rules! extended {
    ($base:expr, $own:expr) => {
        &$crate::models::defaults::extend::<{ $crate::models::defaults::extended_len($base, $own) }>($base, $own)
    };
    ($base:expr, $own:expr, $($more:expr),+) => {
        extended!(extended!($base, $own), $($more),+)
    };
}
pub(crate) use extended;

/// Defaults of a class that are those of another (`base`), but for its `own`: these replace values of the same key, in their
/// place, and add the rest. `N` is [`extended_len`].
pub(crate) const fn extend<const N: usize>(base: &[KeyDefault], own: &[KeyDefault]) -> [KeyDefault; N] {
    let mut all = [KeyDefault::text("", ""); N];
    let mut len = 0;
    while len < base.len() {
        all[len] = base[len];
        len += 1;
    }
    let mut i = 0;
    while i < own.len() {
        let at = position(base, own[i].key);
        if at < base.len() {
            all[at] = own[i];
        } else {
            all[len] = own[i];
            len += 1;
        }
        i += 1;
    }
    assert!(len == N, "N is the number of different keys");
    all
}

/// Number of defaults that [`extend`] makes of the two lists.
pub(crate) const fn extended_len(base: &[KeyDefault], own: &[KeyDefault]) -> usize {
    let mut len = base.len();
    let mut i = 0;
    while i < own.len() {
        if position(base, own[i].key) == base.len() {
            len += 1;
        }
        i += 1;
    }
    len
}

/// Index of `key` in the list; the list's length where it is absent.
const fn position(list: &[KeyDefault], key: &str) -> usize {
    let mut i = 0;
    while i < list.len() && !is_same(list[i].key.as_bytes(), key.as_bytes()) {
        i += 1;
    }
    i
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_defaults_replace_or_follow_those_of_the_base() {
        const BASE: &[KeyDefault] = &[KeyDefault::size("ab", 1), KeyDefault::size("a", 2)];
        const OWN: &[KeyDefault] = &[KeyDefault::size("a", 3), KeyDefault::size("b", 4)];
        let all = extend::<{ extended_len(BASE, OWN) }>(BASE, OWN);
        assert_eq!(all, [BASE[0], OWN[0], OWN[1]]);
    }
}
