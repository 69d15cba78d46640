//! Tensors of GGUF files: floats as they lie, blocks as layers of MLX where that has the form, and else decoded as they are read.
//! What llama.cpp's converter changes, the order of rows and the 1 of norms, is undone.
mod blocks;
mod codes;
mod rows;
mod take;

pub(crate) use take::take;
