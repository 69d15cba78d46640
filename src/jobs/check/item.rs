//! One tensor to check, and of which kind it is.

use super::matrix::Matrix;
use crate::models::spec::{Role, TensorSpec};

pub(crate) struct Item<'a> {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// What it does in which block, where that is known.
    pub(crate) place: Option<(Role, usize)>,
    pub(crate) matrix: Matrix<'a>,
}

impl Item<'_> {
    /// The tensor that makes its values as large as they are.
    pub(crate) fn largest_part(&self) -> String {
        self.part(self.matrix.largest_part())
    }

    fn part(&self, part: &str) -> String {
        match self.name.strip_suffix(".weight") {
            Some(path) => format!("{path}.{part}"),
            None => self.name.clone(),
        }
    }

    /// The tensors that hold values that are no numbers, of which there are `values` in all.
    pub(crate) fn non_finite(&self, values: u64) -> Vec<String> {
        let parts = self.matrix.non_finite_parts();
        if parts.is_empty() {
            return vec![format!("`{}` ({values})", self.name)];
        }
        parts.iter().map(|(part, count)| format!("`{}` ({count})", self.part(part))).collect()
    }
}

/// What a tensor is for the checks here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Linear,
    Embedding,
    Norm,
    /// Biases, scales and whatever is not known: only numbers are asked for.
    Other,
}

pub(crate) fn kind(role: Role, dimensions: usize) -> Kind {
    match role {
        Role::Norm => Kind::Norm,
        Role::Embed => Kind::Embedding,
        _ if dimensions > 1 => Kind::Linear,
        _ => Kind::Other,
    }
}

pub(crate) fn place(spec: &TensorSpec) -> Option<(Role, usize)> {
    Some((spec.role, spec.layer?))
}
