//! Jinja as transformers sets it up for chat templates: Jinja2 in its sandbox, to the byte.
//!
//! The engine is minijinja: its virtual machine with scopes, loops, macros, and limits. It knows no Python, though, so
//! that lexer and parser are Jinja2's own rules here, and whatever computes is a filter of ours: `environment.rs` has
//! the list. The engine's syntax tree and compiler are behind its feature `unstable_machinery`, which is why its
//! version is pinned.
//!
//! Not there: the filter `random`, `lipsum`, characters by name (`\N{...}`), `self.block()`, other templates,
//! `autoescape`, `varargs` and `kwargs` in a `call` block, `break` and `continue` out of a `with`, `set` or `filter`
//! block within the loop, and integers beyond 128 bits. All are errors, as `goldens.rs` shows.

mod access;
mod arguments;
mod budget;
mod compare;
mod date;
mod environment;
mod escapes;
mod expressions;
mod filters;
mod format;
mod globals;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod goldens;
mod json;
mod lexer;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod limits;
mod macros;
mod methods;
mod numbers;
mod operators;
mod parser;
mod percent;
pub(crate) mod render;
mod statements;
mod string_parts;
mod string_tests;
pub(crate) mod strings;
mod subscripts;
mod tests;
mod text;
mod values;
