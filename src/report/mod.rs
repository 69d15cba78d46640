//! Everything that prints: data on stdout, the rest on stderr.

mod ahead;
mod answer;
mod bits;
mod class_bars;
mod console;
mod evaluation;
mod findings;
mod lines;
mod paint;
mod table;

pub use answer::{Answered, answer_json, logprob_table};
pub use bits::{bit_table, cell, class_table};
pub use class_bars::class_bars;
pub use console::{Console, bytes, error, out, show_progress};
pub use evaluation::evaluation_table;
pub use findings::finding_lines;
pub use lines::{Line, Lines};
pub use paint::plus_minus;
pub use table::{Align, Table};
