//! Values that are numbers and cannot be meant: a row, a vector's entry or a whole layer a thousand times or more larger
//! than its like.
//!
//! The yardstick is the median of the rows' largest magnitudes (of the magnitudes themselves in a vector), which a few
//! wrong values do not move; whole layers are held against the median layer. In trained models the largest row is within
//! a few hundred times of it, while entries of norms and biases are known to reach ten thousand.

use super::values::{Item, Kind};
use super::{Finding, count, list};

/// Rows and layers this many times larger than the median are worth a look.
const LARGE: f32 = 1e3;
/// Nothing is as much larger than its like, whatever it is.
const ABSURD: f32 = 1e6;

/// How large a tensor's values are.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Magnitudes {
    largest: f32,
    /// Of what is not zero.
    median: f32,
}

impl Magnitudes {
    /// Of the largest magnitudes of rows, or of a vector's entries.
    pub(super) fn of(rows: Vec<f32>) -> Self {
        let largest = rows.iter().copied().fold(0.0, f32::max);
        Self { largest, median: median(rows) }
    }

    fn ratio(self) -> f32 {
        if self.median > 0.0 { self.largest / self.median } else { 1.0 }
    }
}

/// The largest magnitude of each row, or all magnitudes where there is one row. What is no number is left out.
pub(super) fn magnitudes(values: &[f32], columns: usize, vector: bool) -> Vec<f32> {
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

/// What is too large, a line for problems and one for notes.
pub(super) fn check(scanned: &[(&Item<'_>, Magnitudes)]) -> Vec<Finding> {
    let layers = scanned.iter().filter(|(item, _)| item.kind == Kind::Linear);
    let typical = median(layers.map(|(_, size)| size.median).collect());
    let (mut absurd, mut large) = (Vec::new(), Vec::new());
    for (item, size) in scanned {
        let within = size.ratio();
        let matrix = item.matrix.rows > 1;
        let among = if item.kind == Kind::Linear && typical > 0.0 { size.median / typical } else { 1.0 };
        let what = match (within, among) {
            (within, _) if within >= LARGE => {
                let yardstick = if matrix { "row" } else { "entry" };
                format!("reaches {:.1e}, {within:.0e} times the median {yardstick}", size.largest)
            }
            (_, among) => format!("is as a whole {among:.0e} times the median layer"),
        };
        let line = format!("`{}` {what}", item.largest_part());
        match within.max(among) {
            ratio if ratio >= ABSURD => absurd.push(line),
            ratio if ratio >= LARGE && matrix => large.push(line),
            _ => {}
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
        findings
            .push(Finding::note(subject, message).hint("--reference tells whether they are as they were"));
    }
    if findings.is_empty() {
        let of = count(scanned.len(), "tensor");
        findings.push(Finding::ok(subject, format!("nothing in {of} is {LARGE} times larger than its like")));
    }
    findings
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
