//! What rounding knows of the inputs of layers that share them: one matrix, or one an expert.

use crate::engine::passes::collector::Moment;
use crate::numerics::affine::FloatType;
use crate::numerics::quant::Quant;
use crate::numerics::rounding;
use crate::numerics::rounding::{DAMPING, FEW_TOKENS, Gptq, Hessian, RoundingError};

/// Inputs of layers, before they are factored.
pub(crate) struct Inputs<'m> {
    moment: &'m Moment,
    /// Of the experts that have seen few tokens; all of them one after the other.
    diagonals: Vec<f32>,
}

/// What is known of one matrix' input.
pub(crate) enum Known<'i> {
    /// How the input's columns go together.
    Together(Hessian<'i>),
    /// How large each is, for scale search: too few tokens came.
    Apart(&'i [f32]),
}

impl<'m> Inputs<'m> {
    pub(crate) fn new(moment: &'m Moment) -> Self {
        let few = moment.tokens().len() > 1 && moment.tokens().iter().any(|&tokens| tokens < FEW_TOKENS);
        Self { moment, diagonals: if few { moment.diagonals() } else { Vec::new() } }
    }

    /// How many matrices a layer has.
    pub(crate) fn matrices(&self) -> usize {
        self.moment.tokens().len()
    }

    /// Of the input of matrix `index`.
    pub(crate) fn of(&self, index: usize) -> Result<Known<'_>, RoundingError> {
        let columns = self.moment.columns();
        if self.matrices() == 1 || self.moment.tokens()[index] >= FEW_TOKENS {
            return Hessian::new(self.moment.of(index), columns, DAMPING).map(Known::Together);
        }
        Ok(Known::Apart(&self.diagonals[index * columns..(index + 1) * columns]))
    }
}

impl Known<'_> {
    /// Whether too few tokens came for error feedback.
    pub(crate) fn is_little(&self) -> bool {
        matches!(self, Self::Apart(_))
    }

    /// One matrix, with error feedback where that is possible.
    pub(crate) fn round(
        &self,
        weights: &[f32],
        quant: Quant,
        dtype: FloatType,
    ) -> Result<Gptq, RoundingError> {
        match self {
            Self::Together(hessian) => rounding::gptq(weights, quant, dtype, hessian),
            Self::Apart(importance) => {
                let quantized = rounding::search(weights, importance.len(), quant, dtype, Some(importance))?;
                Ok(Gptq { quantized, searched_rows: weights.len() / importance.len() })
            }
        }
    }
}
