//! Jinja as transformers sets it up for chat templates.

mod extras;
mod percent;
mod render;

pub(super) use render::render;
