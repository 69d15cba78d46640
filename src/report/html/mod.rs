//! Reports of a model as one HTML file, and its charts as SVG.
//!
//! Each section is a plain value, computed in a file of its own; `templates/` turns it into HTML and SVG. The page
//! needs no other file, follows the reader's light or dark theme, and is well-formed XML, so that tests can parse it.
//! Charts are drawn here because colours must come from the page's variables, and every chart must have a title, a
//! description and its numbers in a table; plotting crates give pixels or fixed styles.
mod axis;
mod bits;
mod classes;
mod curve;
mod distance;
mod frame;
mod page;
mod provenance;
mod sample;
mod sensitivity;
mod summary;
mod template;

pub use curve::uniform_points;
pub use page::{Page, curve_svg, page};
pub use sample::{Answer, Sample};
