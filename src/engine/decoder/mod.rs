//! The decoder in MLX: linear layers, attention, MLPs, blocks, and how they are loaded.
pub mod attention;
pub mod block;
pub mod capped;
pub mod embedding;
pub mod experts;
pub mod interleaved;
pub mod linear;
pub mod load;
pub mod mlp;
pub mod model;
pub mod norm;
pub mod positions;
pub mod router;
