//! Every value of the weights: not a number, rows that say nothing, groups whose range one value decides.

use rayon::prelude::*;

use super::check::{Finding, Progress};
use super::folder::Folder;
use super::item::{Item, Kind, kind, place};
use super::magnitudes;
use super::magnitudes::{Magnitudes, magnitudes};
use super::matrix::{DEFAULT_GROUP_SIZE, Matrix};
use crate::error::Result;
use crate::words::{count, list};

/// The share of weights in outlier groups above which it is worth a note.
const MANY_OUTLIERS: f64 = 0.01;

/// Counts of the unusual values, rows and groups of one tensor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stats {
    rows: u64,
    non_finite: u64,
    zero_rows: u64,
    /// Rows of a single value other than zero.
    constant_rows: u64,
    /// Weights in groups that [`is_outlier_group`] picks.
    outliers: u64,
}

impl Stats {
    fn of(values: &[f32], columns: usize, group: usize) -> Self {
        let rows = values.chunks(columns).map(|row| Self::of_row(row, group));
        rows.fold(Self::default(), Self::merge)
    }

    fn of_row(row: &[f32], group: usize) -> Self {
        let non_finite = row.iter().filter(|x| !x.is_finite()).count() as u64;
        let constant = row.len() > 1 && row.iter().all(|x| x.to_bits() == row[0].to_bits());
        let zero = row.iter().all(|&x| x == 0.0);
        let groups = row.chunks(group).filter(|group| is_outlier_group(group));
        Self {
            rows: 1,
            non_finite,
            zero_rows: u64::from(zero),
            constant_rows: u64::from(constant && !zero && non_finite == 0),
            outliers: groups.map(|group| group.len() as u64).sum(),
        }
    }

    fn merge(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            non_finite: self.non_finite + other.non_finite,
            zero_rows: self.zero_rows + other.zero_rows,
            constant_rows: self.constant_rows + other.constant_rows,
            outliers: self.outliers + other.outliers,
        }
    }
}

/// True if leaving out the value of largest magnitude at least halves the group's range: the others then lose a bit or
/// more of resolution to that one. False for groups of fewer than three values, or with a value that is not finite.
fn is_outlier_group(group: &[f32]) -> bool {
    if group.len() < 3 {
        return false;
    }
    let (mut least, mut second_least) = (f32::INFINITY, f32::INFINITY);
    let (mut most, mut second_most) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &x in group {
        if !x.is_finite() {
            return false;
        }
        second_least = second_least.min(x.max(least));
        least = least.min(x);
        second_most = second_most.max(x.min(most));
        most = most.max(x);
    }
    let without = if most.abs() >= least.abs() { second_most - least } else { most - second_least };
    most > least && 2.0 * without <= most - least
}

/// Returns the tensors to read, and the number of tensors that cannot be decoded.
fn items(folder: &Folder) -> (Vec<Item<'_>>, usize) {
    let mut items = Vec::new();
    let mut skipped = 0;
    if let Some(source) = &folder.source {
        for spec in source.manifest().iter() {
            let name = spec.name.clone();
            match Matrix::of(source, spec) {
                Some(matrix) => {
                    let kind = kind(spec, spec.shape.len());
                    items.push(Item { name, kind, place: place(spec), matrix });
                }
                None => skipped += 1,
            }
        }
        return (items, skipped);
    }
    for (name, tensor) in folder.tensors() {
        let spec = folder.manifest.as_ref().and_then(|manifest| manifest.get(name));
        let kind = match spec {
            Some(spec) => kind(spec, tensor.shape.len()),
            None if tensor.shape.len() == 2 && name.ends_with(".weight") => Kind::Linear,
            None => Kind::Other,
        };
        let place = spec.and_then(place);
        items.extend(Matrix::float(tensor).map(|matrix| Item { name: name.to_owned(), kind, place, matrix }));
    }
    (items, skipped)
}

/// Reads every tensor of `folder` once and reports unusual values.
pub(crate) fn check(folder: &Folder, progress: Progress<'_>) -> Result<Vec<Finding>> {
    let (items, skipped) = items(folder);
    if items.is_empty() && skipped == 0 {
        return Ok(Vec::new());
    }
    let total = items.iter().map(|item| item.matrix.bytes()).sum();
    let mut done = 0;
    let (mut scanned, mut sizes) = (Vec::new(), Vec::new());
    for item in &items {
        crate::interrupt::check()?;
        let (stats, rows) = scan(&item.matrix);
        done += item.matrix.bytes();
        progress(done, total);
        scanned.push((item, stats));
        sizes.push((item, Magnitudes::of(rows)));
    }
    let mut findings = vec![numbers(&scanned)];
    findings.extend(magnitudes::check(&sizes));
    findings.extend(rows(&scanned));
    findings.extend(outliers(&scanned, LinearLayers::Float));
    findings.extend(outliers(&scanned, LinearLayers::Quantized));
    if skipped > 0 {
        let message = format!("{} in a mode that cannot be decoded here: not read", count(skipped, "layer"));
        findings.push(Finding::note("values", message));
    }
    Ok(findings)
}

/// Reads `matrix` and returns its counts, and the magnitudes of its rows or entries.
fn scan(matrix: &Matrix<'_>) -> (Stats, Vec<f32>) {
    let chunks = (0..matrix.chunks()).into_par_iter().map_init(Vec::new, |values, chunk| {
        matrix.read(chunk, values);
        let stats = Stats::of(values, matrix.columns, matrix.group());
        (stats, magnitudes(values, matrix.columns, matrix.rows == 1))
    });
    chunks.reduce(Default::default, |(stats, mut rows), (more, others)| {
        rows.extend(others);
        (stats.merge(more), rows)
    })
}

type Scanned<'a> = [(&'a Item<'a>, Stats)];

/// Reports values that are NaN or infinite.
fn numbers(scanned: &Scanned<'_>) -> Finding {
    let bad = scanned.iter().filter(|(_, stats)| stats.non_finite > 0);
    let bad: Vec<String> = bad.flat_map(|(item, stats)| item.non_finite(stats.non_finite)).collect();
    if !bad.is_empty() {
        let message =
            format!("{} with values that are NaN or infinite: {}", count(bad.len(), "tensor"), list(&bad));
        return Finding::problem("values", message)
            .hint("the model is damaged: nothing can be generated with it");
    }
    let values: usize = scanned.iter().map(|(item, _)| item.matrix.rows * item.matrix.columns).sum();
    Finding::ok(
        "values",
        format!("{} in {}, all finite", count(values, "value"), count(scanned.len(), "tensor")),
    )
}

/// Reports matrices and norms that hold a single value, zero or another, and single rows of that kind.
fn rows(scanned: &Scanned<'_>) -> Vec<Finding> {
    let subject = "rows";
    let (mut dead, mut flat, mut zero, mut constant) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (item, stats) in scanned.iter().filter(|(item, _)| item.kind != Kind::Other) {
        let name = format!("`{}`", item.name);
        let some = |rows: u64| format!("{name} ({rows} of {})", stats.rows);
        match stats {
            _ if stats.zero_rows == stats.rows => dead.push(name),
            _ if item.kind == Kind::Norm => flat.extend((stats.constant_rows > 0).then_some(name)),
            _ if stats.zero_rows + stats.constant_rows == stats.rows => dead.push(name),
            _ => {
                zero.extend((stats.zero_rows > 0).then(|| some(stats.zero_rows)));
                constant.extend((stats.constant_rows > 0).then(|| some(stats.constant_rows)));
            }
        }
    }
    let mut findings = Vec::new();
    if !dead.is_empty() {
        let message =
            format!("nothing but zeros or constant rows in {}: {}", count(dead.len(), "tensor"), list(&dead));
        findings.push(Finding::problem(subject, message).hint("they were never trained, or lost on the way"));
    }
    for (what, names) in
        [("all-zero rows in", zero), ("constant rows in", constant), ("one value throughout in", flat)]
    {
        if !names.is_empty() {
            let message = format!("{what} {}: {}", count(names.len(), "tensor"), list(&names));
            findings.push(Finding::note(subject, message));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(subject, "none is all zero or constant"));
    }
    findings
}

/// Linear layers of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinearLayers {
    Float,
    Quantized,
}

/// Reports the share of outlier groups in the float linear layers, or in the quantized ones, as decoded: there an
/// outlier has left codes that lie in one half of the range. A quantized layer has its own group size.
fn outliers(scanned: &Scanned<'_>, layers: LinearLayers) -> Option<Finding> {
    let quantized = layers == LinearLayers::Quantized;
    let share = |outliers: u64, matrix: &Matrix<'_>| outliers as f64 / (matrix.rows * matrix.columns) as f64;
    let linear = scanned
        .iter()
        .filter(|(item, _)| item.kind == Kind::Linear && item.matrix.quant().is_some() == quantized);
    let (mut weights, mut outliers, mut worst) = (0, 0, None);
    for (item, stats) in linear {
        weights += item.matrix.rows * item.matrix.columns;
        outliers += stats.outliers;
        let share = share(stats.outliers, &item.matrix);
        if worst.is_none_or(|(most, _)| share > most) {
            worst = Some((share, item.name.as_str()));
        }
    }
    let (worst, name) = worst?;
    let overall = outliers as f64 / weights as f64;
    let most = if worst > 0.0 { format!(" (most: {} of `{name}`)", percent(worst)) } else { String::new() };
    let (which, groups) = if quantized {
        ("quantized linear layers'", "groups, as decoded, whose".to_owned())
    } else {
        ("linear layers'", format!("groups of {DEFAULT_GROUP_SIZE} whose"))
    };
    let message = format!(
        "{} of the {which} weights lie in {groups} range one value at least doubles{most}",
        percent(overall)
    );
    if overall > MANY_OUTLIERS {
        let hint = if quantized {
            "smaller groups or more bits for these layers pay most when the float model is quantized again"
        } else {
            "these layers gain most from smaller groups or more bits"
        };
        return Some(Finding::note("outliers", message).hint(hint));
    }
    Some(Finding::ok("outliers", message))
}

fn percent(share: f64) -> String {
    format!("{:.3}%", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// True if the group is an outlier group by the definition, word by word.
    fn naive(group: &[f32]) -> bool {
        let range = |values: &[f32]| {
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            most - values.iter().copied().fold(f32::INFINITY, f32::min)
        };
        let Some(largest) = (0..group.len()).max_by(|&a, &b| group[a].abs().total_cmp(&group[b].abs()))
        else {
            return false;
        };
        let mut rest = group.to_vec();
        rest.remove(largest);
        group.len() > 2 && range(group) > 0.0 && range(&rest) * 2.0 <= range(group)
    }

    #[test]
    fn outlier_groups_are_those_of_the_definition() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut outliers = 0;
        for _ in 0..20_000 {
            let length = random.usize(1..70);
            let mut group: Vec<f32> = (0..length).map(|_| random.f32() - 0.5).collect();
            if random.bool() {
                let at = random.usize(..length);
                group[at] = (random.f32() - 0.5) * 4.0;
            }
            assert_eq!(is_outlier_group(&group), naive(&group), "{group:?}");
            outliers += usize::from(is_outlier_group(&group));
        }
        assert!((1000..19_000).contains(&outliers), "{outliers}");
        assert!(!is_outlier_group(&[1.0; 64]) && !is_outlier_group(&[0.0, f32::NAN, 9.0]));
        assert!(is_outlier_group(&[0.0, 0.0, -1.0]) && is_outlier_group(&[1.0, 0.0, 0.5, 0.25, -4.0]));
    }

    #[test]
    fn rows_are_counted() {
        let values =
            [[0.0; 4], [2.0; 4], [1.0, 2.0, 3.0, 2.5], [f32::NAN; 4], [-0.0, 0.0, 0.0, 0.0]].concat();
        let expected = Stats { rows: 5, non_finite: 4, zero_rows: 2, constant_rows: 1, outliers: 0 };
        assert_eq!(Stats::of(&values, 4, DEFAULT_GROUP_SIZE), expected);
    }
}
