//! Finite values that are too large to be right: a row, an entry or a layer many times larger than others of its kind.
//!
//! The yardstick within a tensor is the median of the rows' largest magnitudes (of the magnitudes themselves in a
//! vector), which a few wrong values do not move. A layer is held against those that do the same in the other blocks,
//! and against the median layer where there are none. In trained models the largest row is within a few hundred times
//! of its yardstick and a layer within ten times, while entries of norms and biases are known to reach ten thousand;
//! whole norms do not.

use super::check::Finding;
use super::item::{Item, Kind};
use crate::words::{count, list};

/// Ratios to the typical magnitude from which a note or a problem is reported.
#[derive(Debug, Clone, Copy)]
struct Limits {
    note: f32,
    problem: f32,
}

/// Rows against the median row.
const ROWS: Limits = Limits { note: 1e3, problem: 1e4 };
/// Entries of vectors, of which some are large in good models.
const ENTRIES: Limits = Limits { note: f32::INFINITY, problem: 1e6 };
/// Layers against those that do the same in other blocks.
const SAME_ROLE: Limits = Limits { note: 30.0, problem: 200.0 };
/// Layers against all others.
const ANY_LAYER: Limits = Limits { note: 1e3, problem: 1e6 };
/// The median magnitude of a norm that no model has.
const ABSURD_NORM: f32 = 1e4;

/// Largest and median magnitude of a tensor's rows or entries.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Magnitudes {
    largest: f32,
    /// Median of the magnitudes that are not zero.
    median: f32,
}

impl Magnitudes {
    /// Summarizes the largest magnitudes of rows, or a vector's entries.
    pub(crate) fn of(rows: Vec<f32>) -> Self {
        let largest = rows.iter().copied().fold(0.0, f32::max);
        Self { largest, median: median(rows) }
    }

    fn ratio(self) -> f32 {
        if self.median > 0.0 { self.largest / self.median } else { 1.0 }
    }
}

/// Returns the largest magnitude of each row, or all magnitudes of a `vector`. Values that are not finite are left out.
pub(crate) fn magnitudes(values: &[f32], columns: usize, vector: bool) -> Vec<f32> {
    let finite = |x: &f32| Some(x.abs()).filter(|x| x.is_finite());
    if vector {
        return values.iter().filter_map(finite).collect();
    }
    values.chunks(columns).map(|row| row.iter().filter_map(finite).fold(0.0, f32::max)).collect()
}

fn median(mut values: Vec<f32>) -> f32 {
    values.retain(|&x| x > 0.0);
    let middle = values.len() / 2;
    if values.is_empty() { 0.0 } else { *values.select_nth_unstable_by(middle, f32::total_cmp).1 }
}

/// Reports tensors with values that are too large: one finding for problems and one for notes.
pub(crate) fn check(scanned: &[(&Item<'_>, Magnitudes)]) -> Vec<Finding> {
    let (mut absurd, mut large) = (Vec::new(), Vec::new());
    for (item, size) in scanned {
        let (within, matrix) = (size.ratio(), item.matrix.rows > 1);
        let (limits, yardstick) = if matrix { (ROWS, "row") } else { (ENTRIES, "entry") };
        let (among, layers, others) = compare_layer(item, *size, scanned);
        let norm = item.kind == Kind::Norm && size.median > ABSURD_NORM;
        let name = item.largest_part();
        let whole = || format!("`{name}` is as a whole {among:.0e} times the median {others}");
        let reaches =
            || format!("`{name}` reaches {:.1e}, {within:.0e} times the median {yardstick}", size.largest);
        if within >= limits.problem {
            absurd.push(reaches());
        } else if norm {
            absurd.push(format!("`{name}` is a norm of {:.1e} throughout", size.median));
        } else if among >= layers.problem {
            absurd.push(whole());
        } else if within >= limits.note {
            large.push(reaches());
        } else if among >= layers.note {
            large.push(whole());
        }
    }
    let subject = "magnitudes";
    let mut findings = Vec::new();
    if !absurd.is_empty() {
        let message = format!("absurd values in {}: {}", count(absurd.len(), "tensor"), list(&absurd));
        let hint = "the model is damaged: take it from its source again, or quantize again";
        findings.push(Finding::problem(subject, message).hint(hint));
    }
    if !large.is_empty() {
        let message = format!("very large values in {}: {}", count(large.len(), "tensor"), list(&large));
        findings.push(
            Finding::note(subject, message).hint("setting `reference` tells whether they are as they were"),
        );
    }
    if findings.is_empty() {
        let of = count(scanned.len(), "tensor");
        findings.push(Finding::ok(subject, format!("nothing in {of} is far larger than its like")));
    }
    findings
}

/// Compares a linear layer as a whole with the layers of its role in other blocks, or with all layers where there are
/// none. Returns the ratio of the medians, its limits, and the name of the layers compared with.
fn compare_layer(
    item: &Item<'_>,
    size: Magnitudes,
    all: &[(&Item<'_>, Magnitudes)],
) -> (f32, Limits, &'static str) {
    let linear = || all.iter().filter(|(other, _)| other.kind == Kind::Linear);
    let ratio = |typical: f32| if typical > 0.0 { size.median / typical } else { 1.0 };
    if item.kind != Kind::Linear {
        return (1.0, ANY_LAYER, "layer");
    }
    if let Some((role, block)) = item.place {
        let same = |place: Option<(_, usize)>| place.is_some_and(|(r, b)| r == role && b != block);
        let others: Vec<f32> =
            linear().filter(|(other, _)| same(other.place)).map(|(_, s)| s.median).collect();
        if !others.is_empty() {
            return (ratio(median(others)), SAME_ROLE, "of the same in other blocks");
        }
    }
    (ratio(median(linear().map(|(_, s)| s.median).collect())), ANY_LAYER, "layer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_values_do_not_move_the_yardstick() {
        let mut rows = vec![0.25; 100];
        rows[7] = 1e30;
        rows[8..40].fill(0.0);
        assert_eq!(Magnitudes::of(rows), Magnitudes { largest: 1e30, median: 0.25 });
        assert!((Magnitudes::of(vec![0.0; 4]).ratio() - 1.0).abs() < f32::EPSILON);
        let values = [1.0, -3.0, f32::NAN, 0.5];
        assert_eq!(magnitudes(&values, 2, false), [3.0, 0.5]);
        assert_eq!(magnitudes(&values, 4, true), [1.0, 3.0, 0.5]);
    }
}
