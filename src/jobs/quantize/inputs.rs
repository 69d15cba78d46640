//! Statistics of the inputs that layers share, as rounding uses them: of one matrix, or of one per expert.

use crate::engine::passes::collector::Moment;
use crate::numerics::affine::FloatType;
use crate::numerics::quant::Quant;
use crate::numerics::rounding;
use crate::numerics::rounding::{DAMPING, FEW_TOKENS, Gptq, Hessian, RoundingError};

/// Second moments of the input that layers share, before they are factored.
pub(crate) struct Inputs<'m> {
    moment: &'m Moment,
    /// E[x_j^2] of all experts in turn, where some have seen few tokens.
    diagonals: Vec<f32>,
}

/// Statistics of one matrix' input.
pub(crate) enum MatrixInput<'i> {
    /// Correlations of the columns, for error feedback.
    Hessian(Hessian<'i>),
    /// E[x_j^2] of the columns, for scale search: too few tokens came.
    Diagonal(&'i [f32]),
}

impl<'m> Inputs<'m> {
    pub(crate) fn new(moment: &'m Moment) -> Self {
        let few = moment.tokens().len() > 1 && moment.tokens().iter().any(|&tokens| tokens < FEW_TOKENS);
        Self { moment, diagonals: if few { moment.diagonals() } else { Vec::new() } }
    }

    /// Returns the number of matrices of a layer.
    pub(crate) fn matrices(&self) -> usize {
        self.moment.tokens().len()
    }

    /// Returns the statistics of the input of matrix `index`. Fails where its moments are not finite.
    pub(crate) fn of(&self, index: usize) -> Result<MatrixInput<'_>, RoundingError> {
        let columns = self.moment.columns();
        if self.matrices() == 1 || self.moment.tokens()[index] >= FEW_TOKENS {
            return Hessian::new(self.moment.of(index), columns, DAMPING).map(MatrixInput::Hessian);
        }
        Ok(MatrixInput::Diagonal(&self.diagonals[index * columns..(index + 1) * columns]))
    }
}

impl MatrixInput<'_> {
    /// True if too few tokens came for error feedback.
    pub(crate) fn has_few_tokens(&self) -> bool {
        matches!(self, Self::Diagonal(_))
    }

    /// Rounds the `weights` of one matrix, with error feedback where that is possible.
    pub(crate) fn round(
        &self,
        weights: &[f32],
        quant: Quant,
        dtype: FloatType,
    ) -> Result<Gptq, RoundingError> {
        match self {
            Self::Hessian(hessian) => rounding::gptq(weights, quant, dtype, hessian),
            Self::Diagonal(importance) => {
                let quantized = rounding::search(weights, importance.len(), quant, dtype, Some(importance))?;
                Ok(Gptq { quantized, searched_rows: weights.len() / importance.len() })
            }
        }
    }
}
