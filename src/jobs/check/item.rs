//! One tensor to check, and its kind.

use super::matrix::Matrix;
use crate::models::spec::{Role, TensorSpec};

/// A tensor to check.
pub(crate) struct Item<'a> {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Role and block of the tensor, where they are known.
    pub(crate) place: Option<(Role, usize)>,
    pub(crate) matrix: Matrix<'a>,
}

impl Item<'_> {
    /// Returns the name of the stored tensor that decides how large the values are.
    pub(crate) fn largest_part(&self) -> String {
        self.part(self.matrix.largest_part())
    }

    fn part(&self, part: &str) -> String {
        match self.name.strip_suffix(".weight") {
            Some(path) => format!("{path}.{part}"),
            None => self.name.clone(),
        }
    }

    /// Describes the stored tensors with values that are not finite, of which there are `values` in all.
    pub(crate) fn non_finite(&self, values: u64) -> Vec<String> {
        let parts = self.matrix.non_finite_parts();
        if parts.is_empty() {
            return vec![format!("`{}` ({values})", self.name)];
        }
        parts.iter().map(|(part, count)| format!("`{}` ({count})", self.part(part))).collect()
    }
}

/// Kind of a tensor, by which checks differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Linear,
    Embedding,
    Norm,
    /// Biases, scales and unknown tensors: their values only have to be finite.
    Other,
}

pub(crate) fn kind(spec: &TensorSpec, dimensions: usize) -> Kind {
    match spec.role {
        Role::Norm if spec.name.ends_with(".weight") => Kind::Norm,
        Role::Embed | Role::Positions => Kind::Embedding,
        Role::Norm | Role::Activation | Role::Correction | Role::Sinks => Kind::Other,
        _ if !spec.name.ends_with(".weight") => Kind::Other,
        _ if dimensions > 1 => Kind::Linear,
        _ => Kind::Other,
    }
}

pub(crate) fn place(spec: &TensorSpec) -> Option<(Role, usize)> {
    Some((spec.role, spec.layer?))
}
