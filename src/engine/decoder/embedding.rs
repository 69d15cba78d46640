//! Embeddings: tokens to hidden states, with learned positions where the model has some.

use mlx_rs::Array;

use super::linear::Weight;
use super::load::Loader;
use super::norm::Norm;
use crate::engine::array::factor;
use crate::error::{Error, Result};
use crate::models::spec::DecoderSpec;
use crate::numerics::dtype::Dtype;

/// Token embedding.
#[derive(Debug, Clone)]
pub(crate) struct Embedding {
    weight: Weight,
    scale: Option<f32>,
    /// Table of learned positions, and its rows.
    positions: Option<(Weight, usize)>,
    norm: Option<Norm>,
}

impl Embedding {
    pub(crate) fn load(loader: &Loader<'_>) -> Result<Self> {
        let spec = &loader.source.spec().embed;
        let positions = spec.positions.as_ref();
        let positions =
            positions.map(|positions| Ok::<_, Error>((loader.weight(&positions.path)?, positions.count)));
        Ok(Self {
            weight: loader.weight(&spec.path)?,
            scale: spec.scale,
            positions: positions.transpose()?,
            norm: Norm::load_some(loader, spec.norm.as_ref())?,
        })
    }

    /// Returns the matrix.
    pub(crate) fn weight(&self) -> &Weight {
        &self.weight
    }

    /// Returns the hidden states of tokens [batch, tokens] that come after `seen` others.
    ///
    /// # Errors
    /// When there are no learned positions for all of them.
    pub(crate) fn rows(&self, tokens: &Array, seen: usize, dtype: Dtype) -> Result<Array> {
        let rows = self.weight.rows(tokens, dtype)?;
        let rows = match self.scale {
            Some(scale) => rows.multiply(factor(scale, &rows)?)?,
            None => rows,
        };
        let rows = match &self.positions {
            Some((table, count)) => {
                let end = seen + tokens.dim(-1) as usize;
                if end > *count {
                    return Err(too_long(end, *count));
                }
                let indices: Vec<u32> = (seen as u32..end as u32).collect();
                rows.add(table.rows(&Array::from_slice(&indices, &[indices.len() as i32]), dtype)?)?
            }
            None => rows,
        };
        self.norm.as_ref().map_or_else(|| Ok(rows.clone()), |norm| norm.forward(&rows))
    }
}

/// Fails if texts of so many tokens are longer than a model with learned positions can read.
pub(crate) fn check_length(spec: &DecoderSpec, tokens: usize) -> Result<()> {
    let count = spec.embed.positions.as_ref().map(|positions| positions.count);
    count.filter(|&count| tokens > count).map_or(Ok(()), |count| Err(too_long(tokens, count)))
}

fn too_long(tokens: usize, count: usize) -> Error {
    Error::input(format!("a text of {tokens} tokens: the model has learned positions for {count}"))
        .hint("shorten the text; this model cannot read past its positions, nor forget a part of it")
}
