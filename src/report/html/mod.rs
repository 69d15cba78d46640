//! A model's report as one HTML file, and its charts as SVG: from what is in the model and how it was made to text.
//!
//! Each section is a plain value, computed in a file of its own; `templates/` turns it into HTML and SVG. The page needs
//! nothing but itself, follows the reader's light or dark theme, and is well-formed XML, so that tests can take it apart.
//! Charts are drawn here because colours must come from the page's variables, and every chart must have a title, a
//! description and its numbers in a table; plotting crates give pixels or fixed styles.
mod axis;
mod bits;
mod classes;
mod curve;
mod distance;
mod made;
mod page;
mod sample;
mod sensitivity;
mod summary;
mod template;

pub use curve::uniform_points;
pub use page::{Page, curve_svg, page};
pub use sample::{Answer, Sample};
