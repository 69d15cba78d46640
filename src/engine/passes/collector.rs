//! Adding up second moments of what goes into matrices, sequence after sequence.

use mlx_rs::Array;
use mlx_rs::transforms::eval;
use std::collections::BTreeMap;

use crate::engine::array::to_vec;
use crate::engine::decoder::mlp::Matrix;
use crate::error::Result;
use crate::models::spec::Role;
use crate::numerics::rounding::shrink;

/// How much of the moments is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// E[x_j^2], a value a column.
    Diagonal,
    /// E[x x^T], row-major [columns, columns].
    Full,
}

/// Moments by the role whose input they are of; see [`super::moments::input_of`].
pub type Moments = BTreeMap<Role, Moment>;

/// Moments of the input of a matrix, or of those of many experts.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    columns: usize,
    extent: Extent,
    /// By expert; empty for those that no token came to.
    values: Vec<Vec<f32>>,
    /// Tokens that were seen, by expert.
    tokens: Vec<usize>,
}

/// Tokens that all experts' mean counts for beside an expert's own.
const SHARED: usize = 16;

impl Moment {
    /// Columns of a matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Tokens that were seen, by expert; one number where there are none.
    pub fn tokens(&self) -> &[usize] {
        &self.tokens
    }

    /// What is known of the input of expert `index`; nothing where no token came to it.
    pub fn of(&self, index: usize) -> &[f32] {
        &self.values[index]
    }

    /// The expert to which most tokens came.
    pub fn busiest(&self) -> usize {
        (0..self.tokens.len()).rev().max_by_key(|&index| self.tokens[index]).unwrap_or(0)
    }

    /// E[x_j^2] of each matrix, one after the other. To an expert that has seen few tokens what all have seen counts too.
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
                let both = SHARED as f64 * sum / all + tokens as f64 * f64::from(x);
                (both / (SHARED + tokens) as f64) as f32
            });
            diagonals.extend(mixed);
        }
        diagonals
    }
}

/// Rows that go into one product E[x x^T] at least, if there are so many: the sum of products is as large as the square of
/// the columns, and to read and write it takes longer than a few rows' product.
const ROWS: usize = 1024;

/// Adds up moments over sequences.
pub(crate) struct Collector {
    extent: Extent,
    /// What is yet to be added: squares, or whole inputs to go into one product.
    waiting: BTreeMap<Matrix, Vec<Array>>,
    sums: BTreeMap<Matrix, Array>,
    tokens: BTreeMap<Matrix, usize>,
}

impl Collector {
    pub(crate) fn new(extent: Extent) -> Self {
        Self { extent, waiting: BTreeMap::new(), sums: BTreeMap::new(), tokens: BTreeMap::new() }
    }

    /// An input [batch, tokens, columns], not evaluated yet.
    pub(crate) fn see(&mut self, matrix: Matrix, x: &Array) -> Result<()> {
        let columns = x.shape().last().copied().unwrap_or(1);
        let x = x.reshape(&[-1, columns])?.as_dtype(mlx_rs::Dtype::Float32)?;
        *self.tokens.entry(matrix).or_default() += x.shape().first().map_or(0, |&rows| rows as usize);
        let waiting = match self.extent {
            Extent::Full => x,
            Extent::Diagonal => x.square()?.sum_axis(0, false)?,
        };
        self.waiting.entry(matrix).or_default().push(waiting);
        Ok(())
    }

    /// What was seen and is not added yet, to be evaluated beside what it is the input of.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Array> {
        self.waiting.values().flatten()
    }

    /// Adds what has been evaluated, inputs only where they are many. How many were evaluated together changes nothing.
    pub(crate) fn add(&mut self) -> Result<()> {
        for (matrix, waiting) in std::mem::take(&mut self.waiting) {
            let mut together = Vec::new();
            for seen in waiting {
                together.push(seen);
                if self.extent == Extent::Diagonal || are_many(&together) {
                    self.add_up(matrix, std::mem::take(&mut together))?;
                }
            }
            if !together.is_empty() {
                self.waiting.insert(matrix, together);
            }
        }
        Ok(())
    }

    fn add_up(&mut self, matrix: Matrix, mut together: Vec<Array>) -> Result<()> {
        let x = match together.len() {
            1 => together.remove(0),
            _ => mlx_rs::ops::concatenate(&together, 0)?,
        };
        drop(together);
        let mut sum = match self.extent {
            Extent::Full => x.t().matmul(&x)?,
            Extent::Diagonal => x,
        };
        if let Some(before) = self.sums.remove(&matrix) {
            sum = before.add(sum)?;
        }
        eval([&sum])?;
        self.sums.insert(matrix, sum);
        Ok(())
    }

    /// Means over all that was seen, which is given up.
    pub(crate) fn moments(&mut self) -> Result<Moments> {
        for (matrix, waiting) in std::mem::take(&mut self.waiting) {
            self.add_up(matrix, waiting)?;
        }
        let mut moments = Moments::new();
        for (matrix, sum) in std::mem::take(&mut self.sums) {
            let tokens = self.tokens.get(&matrix).copied().unwrap_or_default();
            let columns = sum.shape().last().map_or(0, |&columns| columns as usize);
            let mut values = to_vec(&sum)?;
            drop(sum);
            let scale = 1.0 / tokens.max(1) as f32;
            for value in &mut values {
                *value *= scale;
            }
            let moment = moments.entry(matrix.role).or_insert_with(|| Moment {
                columns,
                extent: self.extent,
                values: vec![Vec::new(); matrix.count],
                tokens: vec![0; matrix.count],
            });
            moment.values[matrix.index] = values;
            moment.tokens[matrix.index] = tokens;
        }
        Ok(moments)
    }

    /// The same as an estimate for other texts: see [`shrink`].
    pub(crate) fn estimates(&mut self) -> Result<Moments> {
        let mut moments = self.moments()?;
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

/// Whether a product of these inputs costs more than to add it up.
fn are_many(inputs: &[Array]) -> bool {
    let size = |axis: usize| inputs.iter().map(move |x| x.shape()[axis] as usize);
    size(0).sum::<usize>() >= (size(1).max().unwrap_or(0) / 2).min(ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::array::from_vec;
    use crate::engine::runtime::Engine;

    /// Moments of an expert that saw `rows` of two columns, of three experts.
    fn seen(extent: Extent, rows: [&[f32]; 3]) -> Moment {
        Engine::start().unwrap();
        let mut collector = Collector::new(extent);
        for (index, rows) in rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let x = from_vec(rows.to_vec(), &[1, rows.len() / 2, 2]);
            collector.see(Matrix { role: Role::Gate, index, count: 3 }, &x).unwrap();
        }
        eval(collector.waiting()).unwrap();
        collector.add().unwrap();
        collector.moments().unwrap().remove(&Role::Gate).unwrap()
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
            let found = moment.diagonals();
            assert_eq!(found.len(), 6);
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5, "{extent:?} {found} {expected}");
            }
        }
    }
}
