//! Output for people: data on stdout, everything else on stderr, and reports as HTML.

mod answer;
mod architecture;
mod bits;
mod class_bars;
mod console;
mod evaluation;
mod findings;
pub mod html;
mod page;
mod paint;
mod remaining;
mod supported;
mod table;

pub use answer::{Answered, answer_json, logprob_table};
pub use architecture::architecture;
pub use bits::{bit_table, cell, class_table};
pub use class_bars::class_bars;
pub use console::{Console, error, out};
pub use evaluation::evaluation_table;
pub use findings::finding_lines;
pub use page::{PageInputs, page};
pub use paint::{plus_minus, unicode_bars};
pub use supported::{family_markdown, model_type_markdown, supported_json, supported_table};
pub use table::{Align, Table};
