//! Tensors of GGUF files: floats as they lie, blocks as layers of MLX where that has the form, and else decoded as they are read.
//! The changes of llama.cpp's converter are undone: the order of rows of queries and keys, and the 1 that it adds to norms.
mod blocks;
mod codes;
mod rows;
mod take;

pub(crate) use take::take;
