//! Second moments of matrices' inputs, summed sequence after sequence.

use mlx_rs::Array;
use mlx_rs::transforms::eval;
use std::collections::BTreeMap;

use crate::engine::array::to_vec;
use crate::engine::decoder::mlp::Input;
use crate::error::Result;
use crate::models::spec::Tap;
use crate::numerics::rounding::shrink;

/// Part of the second moments that is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// E[x_j^2], one value per column.
    Diagonal,
    /// E[x x^T], row-major [columns, columns].
    Full,
}

/// Moments by the input that they describe.
pub type Moments = BTreeMap<Tap, Moment>;

/// Moments of the input of a matrix, or of the inputs of each expert's matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    columns: usize,
    extent: Extent,
    /// Moments by expert; empty for experts that got no token.
    values: Vec<Vec<f32>>,
    /// Tokens by expert.
    tokens: Vec<usize>,
}

/// Tokens that the mean over all experts counts for, beside an expert's own.
const SHARED_TOKENS: usize = 16;

impl Moment {
    /// Returns the columns of the matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the number of tokens by expert; one number for a matrix without experts.
    pub fn tokens(&self) -> &[usize] {
        &self.tokens
    }

    /// Returns the moments of the input of expert `index`; empty where it got no token.
    pub fn of(&self, index: usize) -> &[f32] {
        &self.values[index]
    }

    /// Returns the expert that got the most tokens.
    pub fn busiest(&self) -> usize {
        (0..self.tokens.len()).rev().max_by_key(|&index| self.tokens[index]).unwrap_or(0)
    }

    /// Returns E[x_j^2] of each matrix, one after the other. For an expert that got few tokens the mean over all
    /// experts is mixed in.
    pub fn diagonals(&self) -> Vec<f32> {
        let step = match self.extent {
            Extent::Diagonal => 1,
            Extent::Full => self.columns + 1,
        };
        let own = |index: usize| self.values[index].iter().step_by(step).copied();
        if self.tokens.len() == 1 {
            return own(0).collect();
        }
        let mut shared = vec![0.0f64; self.columns];
        for (index, &tokens) in self.tokens.iter().enumerate() {
            shared.iter_mut().zip(own(index)).for_each(|(sum, x)| *sum += tokens as f64 * f64::from(x));
        }
        let all = self.tokens.iter().sum::<usize>().max(1) as f64;
        let mut diagonals = Vec::with_capacity(self.tokens.len() * self.columns);
        for (index, &tokens) in self.tokens.iter().enumerate() {
            let own = own(index).chain(std::iter::repeat(0.0));
            let mixed = shared.iter().zip(own).map(|(sum, x)| {
                let both = SHARED_TOKENS as f64 * sum / all + tokens as f64 * f64::from(x);
                (both / (SHARED_TOKENS + tokens) as f64) as f32
            });
            diagonals.extend(mixed);
        }
        diagonals
    }
}

/// Fewest rows of one product E[x x^T], if there are so many. The sum of products is as large as the square of the
/// columns, and reading and writing it takes longer than a few rows' product.
const ROWS_PER_PRODUCT: usize = 1024;

/// Sums moments over sequences.
pub(crate) struct Collector {
    extent: Extent,
    /// Squares, or whole inputs for one product, that are not added yet.
    pending: BTreeMap<Input, Vec<Array>>,
    sums: BTreeMap<Input, Array>,
    tokens: BTreeMap<Input, usize>,
}

impl Collector {
    pub(crate) fn new(extent: Extent) -> Self {
        Self { extent, pending: BTreeMap::new(), sums: BTreeMap::new(), tokens: BTreeMap::new() }
    }

    /// Takes an input [batch, tokens, columns], which is not evaluated yet.
    pub(crate) fn see(&mut self, input: Input, x: &Array) -> Result<()> {
        let columns = x.shape().last().copied().unwrap_or(1);
        let x = x.reshape(&[-1, columns])?.as_dtype(mlx_rs::Dtype::Float32)?;
        *self.tokens.entry(input).or_default() += x.shape().first().map_or(0, |&rows| rows as usize);
        let pending = match self.extent {
            Extent::Full => x,
            Extent::Diagonal => x.square()?.sum_axis(0, false)?,
        };
        self.pending.entry(input).or_default().push(pending);
        Ok(())
    }

    /// Returns what is not added yet, to be evaluated with the outputs of the same matrices.
    pub(crate) fn pending(&self) -> impl Iterator<Item = &Array> {
        self.pending.values().flatten()
    }

    /// Adds what has been evaluated, whole inputs only where they are many. The result does not depend on how many were
    /// evaluated at once.
    pub(crate) fn add(&mut self) -> Result<()> {
        for (input, pending) in std::mem::take(&mut self.pending) {
            let mut inputs = Vec::new();
            for rows in pending {
                inputs.push(rows);
                if self.extent == Extent::Diagonal || are_many(&inputs) {
                    self.add_up(input, std::mem::take(&mut inputs))?;
                }
            }
            if !inputs.is_empty() {
                self.pending.insert(input, inputs);
            }
        }
        Ok(())
    }

    fn add_up(&mut self, input: Input, mut inputs: Vec<Array>) -> Result<()> {
        let x = match inputs.len() {
            1 => inputs.remove(0),
            _ => mlx_rs::ops::concatenate(&inputs, 0)?,
        };
        drop(inputs);
        let mut sum = match self.extent {
            Extent::Full => x.t().matmul(&x)?,
            Extent::Diagonal => x,
        };
        if let Some(before) = self.sums.remove(&input) {
            sum = before.add(sum)?;
        }
        eval([&sum])?;
        self.sums.insert(input, sum);
        Ok(())
    }

    /// Returns the means over all inputs and forgets them.
    pub(crate) fn take_moments(&mut self) -> Result<Moments> {
        for (input, pending) in std::mem::take(&mut self.pending) {
            self.add_up(input, pending)?;
        }
        let mut moments = Moments::new();
        for (input, sum) in std::mem::take(&mut self.sums) {
            let tokens = self.tokens.get(&input).copied().unwrap_or_default();
            let columns = sum.shape().last().map_or(0, |&columns| columns as usize);
            let mut values = to_vec(&sum)?;
            drop(sum);
            let scale = 1.0 / tokens.max(1) as f32;
            for value in &mut values {
                *value *= scale;
            }
            let moment = moments.entry(input.tap).or_insert_with(|| Moment {
                columns,
                extent: self.extent,
                values: vec![Vec::new(); input.count],
                tokens: vec![0; input.count],
            });
            moment.values[input.index] = values;
            moment.tokens[input.index] = tokens;
        }
        Ok(moments)
    }

    /// Returns the means over all inputs as estimates for other texts, and forgets the inputs: see [`shrink`].
    pub(crate) fn take_estimates(&mut self) -> Result<Moments> {
        let mut moments = self.take_moments()?;
        if self.extent == Extent::Full {
            for Moment { columns, values, tokens, .. } in moments.values_mut() {
                for (values, &tokens) in values.iter_mut().zip(&*tokens).filter(|(_, tokens)| **tokens > 0) {
                    shrink(values, *columns, tokens);
                }
            }
        }
        Ok(moments)
    }
}

/// True if a product of these inputs costs more than adding it to the sum.
fn are_many(inputs: &[Array]) -> bool {
    let size = |axis: usize| inputs.iter().map(move |x| x.shape()[axis] as usize);
    size(0).sum::<usize>() >= (size(1).max().unwrap_or(0) / 2).min(ROWS_PER_PRODUCT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::array::from_vec;
    use crate::engine::runtime::Engine;

    /// Moments of three experts that got `rows` of two columns each.
    fn seen(extent: Extent, rows: [&[f32]; 3]) -> Moment {
        Engine::start().unwrap();
        let mut collector = Collector::new(extent);
        for (index, rows) in rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let x = from_vec(rows.to_vec(), &[1, rows.len() / 2, 2]);
            collector.see(Input { tap: Tap::MLP, index, count: 3 }, &x).unwrap();
        }
        eval(collector.pending()).unwrap();
        collector.add().unwrap();
        collector.take_moments().unwrap().remove(&Tap::MLP).unwrap()
    }

    #[test]
    fn an_expert_that_saw_little_borrows_from_the_others() {
        let many = [3.0, 1.0].repeat(160);
        let rows = [&many[..], &[1.0, 2.0], &[]];
        for extent in [Extent::Diagonal, Extent::Full] {
            let moment = seen(extent, rows);
            assert_eq!((moment.tokens(), moment.columns(), moment.busiest()), (&[160, 1, 0][..], 2, 0));
            assert!(moment.of(2).is_empty() && !moment.of(1).is_empty());
            // 160 tokens of squares 9 and 1, one of 1 and 4.
            let all = [(160.0 * 9.0 + 1.0) / 161.0, (160.0 + 4.0) / 161.0];
            let expected = [[9.0, 1.0], [1.0, 4.0], [0.0, 0.0]].into_iter().zip([160.0, 1.0, 0.0]).flat_map(
                |(own, tokens): ([f32; 2], f32)| {
                    [0, 1].map(|i| (16.0 * all[i] + tokens * own[i]) / (16.0 + tokens))
                },
            );
            let diagonals = moment.diagonals();
            assert_eq!(diagonals.len(), 6);
            for (value, expected) in diagonals.iter().zip(expected) {
                assert!((value - expected).abs() < 1e-5, "{extent:?} {value} {expected}");
            }
        }
    }
}
