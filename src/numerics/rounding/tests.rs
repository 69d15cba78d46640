use proptest::prelude::*;

use super::fit::{MARGIN, REFITS, Rule};
use super::gptq::gptq_with;
use super::rounded::{Layout, column_weights};
use crate::numerics::affine::{
    FloatType, Grid, QuantizeError, Quantized, Rows, decode, dequantize, encode, pack, quantize,
    quantize_dequantize, round_to_nearest_grid, unpack,
};
use crate::numerics::quant::{AFFINE_BITS, AFFINE_GROUP_SIZES, Quant};
use crate::numerics::rounding::*;

const DTYPES: [FloatType; 3] = [FloatType::F32, FloatType::F16, FloatType::Bf16];

/// About normal, with an outlier now and then.
fn normals(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut normal = || {
        let sum: f32 = (0..6).map(|_| rng.f32() - 0.5).sum();
        if rng.u8(..) == 0 { 8.0 * sum } else { sum }
    };
    (0..count).map(|_| 0.05 * normal()).collect()
}

/// Second moments of `tokens` random inputs, whose columns differ in size and go together.
fn moments(columns: usize, tokens: usize, seed: u64) -> Vec<f32> {
    let mut sum = vec![0_f64; columns * columns];
    for token in 0..tokens {
        let mut x = normals(columns, seed * 1000 + token as u64);
        for j in 1..columns {
            x[j] = x[j] * (1.0 + (j % 7) as f32) + 0.8 * x[j - 1];
        }
        for i in 0..columns {
            for j in 0..columns {
                sum[i * columns + j] += f64::from(x[i]) * f64::from(x[j]) / tokens as f64;
            }
        }
    }
    sum.into_iter().map(|h| h as f32).collect()
}

/// The search for one group in plain loops: codes and the grid as stored.
fn naive_search(group: &[f32], weights: &[f32], rule: Rule) -> (Vec<u8>, Grid) {
    let stored = |g: Grid| Grid { scale: rule.dtype.round(g.scale), bias: rule.dtype.round(g.bias) };
    let highest = rule.highest();
    let code = |w: f32, g: Grid| ((w - g.bias) * (1.0 / g.scale)).max(0.0).min(highest).round_ties_even();
    let error = |g: Grid| {
        let each = |(&w, &h): (&f32, &f32)| (w - (g.scale * code(w, g) + g.bias), h);
        group.iter().zip(weights).map(each).fold(0.0, |sum, (e, h)| sum + h * (e * e))
    };
    let (low, high) =
        group.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &w| (l.min(w), h.max(w)));
    let step = (high - low) / highest;
    let (mut best, mut least) = (Grid { scale: 0.0, bias: 0.0 }, f32::INFINITY);
    for &(a, b) in rule.starts() {
        let grid = stored(Grid { scale: step * ((highest - a - b) / highest), bias: low + a * step });
        if error(grid) < least {
            (best, least) = (grid, error(grid));
        }
    }
    let total: f32 = weights.iter().sum();
    let mut grid = best;
    for _ in 0..REFITS {
        let (mut qq, mut q1, mut qe, mut e1) = (0.0, 0.0, 0.0, 0.0);
        for (&w, &h) in group.iter().zip(weights) {
            let q = code(w, grid);
            let e = w - (grid.scale * q + grid.bias);
            (qq, q1, qe, e1) = (qq + h * (q * q), q1 + h * q, qe + h * (e * q), e1 + h * e);
        }
        let scale = rule.dtype.round(grid.scale + (qe * total - e1 * q1) / (qq * total - q1 * q1));
        let bias = rule.dtype.round(grid.bias + (e1 - (scale - grid.scale) * q1) / total);
        grid = Grid { scale, bias };
        if error(grid) < least {
            (best, least) = (grid, error(grid));
        }
    }
    let rtn = round_to_nearest_grid(group, rule.bits).unwrap();
    let mut codes = vec![0; group.len()];
    encode(group, rtn, rule.bits, &mut codes);
    let mut values = vec![0.0; group.len()];
    decode(&codes, stored(rtn), &mut values);
    let errors = group.iter().zip(&values).zip(weights);
    let limit = errors.fold(0.0, |sum, ((w, v), h)| sum + h * ((w - v) * (w - v))) * MARGIN;
    if least < limit {
        encode(group, best, rule.bits, &mut codes);
        (codes, best)
    } else {
        (codes, stored(rtn))
    }
}

fn naive(
    weights: &[f32],
    columns: usize,
    quant: Quant,
    dtype: FloatType,
    importance: Option<&[f32]>,
) -> Quantized {
    let layout = Layout::new(weights, columns, quant, dtype).unwrap();
    let importance = column_weights(importance, columns).unwrap();
    let mut out = Quantized { packed: vec![], scales: vec![], biases: vec![] };
    for row in weights.chunks(columns) {
        for (group, h) in row.chunks(layout.group_size).zip(importance.chunks(layout.group_size)) {
            let mut group = group.to_vec();
            dtype.round_all(&mut group);
            let (codes, grid) = naive_search(&group, h, layout.rule);
            let mut packed = vec![0; codes.len() * quant.bits as usize / 8];
            pack(&codes, quant.bits, &mut packed);
            out.packed.extend(packed);
            for (value, to) in [(grid.scale, &mut out.scales), (grid.bias, &mut out.biases)] {
                let mut bytes = vec![0; dtype.bytes()];
                dtype.narrow(&[value], &mut bytes);
                to.extend(bytes);
            }
        }
    }
    out
}

fn values(quantized: &Quantized, weights: &[f32], quant: Quant, dtype: FloatType) -> Vec<f32> {
    let mut out = vec![0.0; weights.len()];
    dequantize(quantized.as_slices(), quant, dtype, &mut out).unwrap();
    out
}

/// Weighted squared error in float64, per group.
fn errors(rounded: &[f32], weights: &[f32], importance: &[f32], group_size: usize) -> Vec<f64> {
    let each = |(i, (&q, &w)): (usize, (&f32, &f32))| {
        f64::from(importance[i % importance.len()]) * (f64::from(w) - f64::from(q)).powi(2)
    };
    let all: Vec<f64> = rounded.iter().zip(weights).enumerate().map(each).collect();
    all.chunks(group_size).map(|group| group.iter().sum()).collect()
}

fn settings() -> impl Strategy<Value = (Quant, FloatType)> {
    let (bits, sizes) =
        (prop::sample::select(&AFFINE_BITS[..]), prop::sample::select(&AFFINE_GROUP_SIZES[..]));
    (bits, sizes, prop::sample::select(&DTYPES[..])).prop_map(|(b, g, dtype)| (Quant::affine(b, g), dtype))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn search_is_the_naive_search_and_never_worse_than_rtn(
        (quant, dtype) in settings(), rows in 1_usize..40, groups in 1_usize..3, seed: u64, unit: bool,
    ) {
        let columns = groups * quant.group_size as usize;
        let mut weights = normals(rows * columns, seed);
        let importance: Vec<f32> = normals(columns, seed ^ 1).iter().map(|x| (30.0 * x).powi(2)).collect();
        let importance = (!unit).then_some(&importance[..]);
        let found = search(&weights, columns, quant, dtype, importance).unwrap();
        prop_assert_eq!(&found, &naive(&weights, columns, quant, dtype, importance));

        let rounded = values(&found, &weights, quant, dtype);
        let mut error = vec![0.0; weights.len()];
        search_error_into(&weights, columns, quant, dtype, importance, &mut error).unwrap();
        for ((e, q), w) in error.iter().zip(&rounded).zip(&weights) {
            prop_assert_eq!(e.to_bits(), (q - w).to_bits());
        }

        let mut rtn = vec![0.0; weights.len()];
        quantize_dequantize(&weights, columns, quant, dtype, &mut rtn).unwrap();
        dtype.round_all(&mut weights);
        let h = column_weights(importance, columns).unwrap();
        let size = quant.group_size as usize;
        let (ours, theirs) = (errors(&rounded, &weights, &h, size), errors(&rtn, &weights, &h, size));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            prop_assert!(ours <= theirs, "{ours} > {theirs}");
        }
        if rows * groups > 20 {
            prop_assert!(ours.iter().sum::<f64>() < 0.97 * theirs.iter().sum::<f64>());
        }
    }
}

/// Rows of 128 that trip a search: constant, zero, an outlier, denormals, negative zero, the ends of float16.
fn adversarial() -> Vec<f32> {
    let rows: [fn(usize) -> f32; 13] = [
        |_| 0.0,
        |_| -0.0,
        |_| 0.3,
        |_| -0.3,
        |i| if i == 5 { 1000.0 } else { 0.001 * i as f32 },
        |i| if i == 5 { -1000.0 } else { 0.0 },
        |i| 1e-42 * i as f32,
        |i| 1e-8 * (i as f32 - 60.0),
        |i| if i % 2 == 0 { 65504.0 } else { -65504.0 },
        |i| 65504.0 - 32.0 * (i % 3) as f32,
        |i| -65504.0 + 1000.0 * (i as f32 / 100.0),
        |i| (i % 2) as f32,
        |i| if i % 2 == 0 { 6e-8 } else { -0.0 },
    ];
    rows.iter().flat_map(|row| (0..128).map(row)).collect()
}

#[test]
fn adversarial_groups_survive() {
    let weights = adversarial();
    let importance: Vec<f32> = (0..128).map(|i| if i % 3 == 0 { 0.0 } else { i as f32 * 1e3 }).collect();
    let h = moments(128, 40, 9);
    let hessian = Hessian::new(&h, 128, 0.01).unwrap();
    for dtype in DTYPES {
        for quant in [2, 4, 8].into_iter().flat_map(|b| AFFINE_GROUP_SIZES.map(|g| Quant::affine(b, g))) {
            let mut rtn = vec![0.0; weights.len()];
            quantize_dequantize(&weights, 128, quant, dtype, &mut rtn).unwrap();
            let mut rounded = weights.clone();
            dtype.round_all(&mut rounded);
            for importance in [None, Some(&importance[..])] {
                let found = search(&weights, 128, quant, dtype, importance).unwrap();
                assert_eq!(found, naive(&weights, 128, quant, dtype, importance));
                let values = values(&found, &weights, quant, dtype);
                assert!(values.iter().all(|v| v.is_finite()));
                let h = column_weights(importance, 128).unwrap();
                let ours = errors(&values, &rounded, &h, quant.group_size as usize);
                let theirs = errors(&rtn, &rounded, &h, quant.group_size as usize);
                assert!(ours.iter().zip(&theirs).all(|(ours, theirs)| ours <= theirs));
            }
            let found = gptq(&weights, quant, dtype, &hessian).unwrap();
            assert!(values(&found.quantized, &weights, quant, dtype).iter().all(|v| v.is_finite()));
        }
    }
}

#[test]
fn what_mx_quantize_does_well_stays_as_it_is() {
    // Zeros and evenly spaced numbers leave nothing to gain.
    let weights: Vec<f32> = (0..256).map(|i| if i < 128 { 0.0 } else { (i % 16) as f32 - 8.0 }).collect();
    let quant = Quant::affine(4, 64);
    let found = search(&weights, 128, quant, FloatType::F16, None).unwrap();
    assert_eq!(found, quantize(Rows::from_f32(&weights, 128).unwrap(), quant, FloatType::F16).unwrap());
}

#[test]
fn unusable_input_is_refused() {
    let (quant, dtype) = (Quant::affine(4, 32), FloatType::F16);
    let mut weights = normals(200 * 64, 1);
    let h = moments(64, 100, 1);
    let hessian = Hessian::new(&h, 64, 0.01).unwrap();
    // 70000 is infinite in float16.
    for value in [f32::NAN, f32::INFINITY, 70000.0] {
        weights[190 * 64 + 40] = value;
        let error = QuantizeError::NotFinite { row: 190, column: 32, group_size: 32, dtype };
        assert_eq!(search(&weights, 64, quant, dtype, None), Err(error.clone().into()));
        assert_eq!(gptq(&weights, quant, dtype, &hessian), Err(error.into()));
    }
    weights[190 * 64 + 40] = 0.0;
    for value in [f32::NAN, -1.0, f32::INFINITY] {
        let mut importance = vec![1.0; 64];
        importance[7] = value;
        let error = search(&weights, 64, quant, dtype, Some(&importance)).unwrap_err();
        assert!(matches!(error, RoundingError::Importance { column: 7, .. }));
    }
    let lengths = |error| matches!(error, RoundingError::Affine(QuantizeError::Length { .. }));
    assert!(lengths(search(&weights, 64, quant, dtype, Some(&[1.0; 63])).unwrap_err()));
    assert!(lengths(search(&weights[1..], 64, quant, dtype, None).unwrap_err()));
    assert!(search(&weights, 80, quant, dtype, None).is_err());
    assert!(search(&weights, 64, Quant::affine(7, 32), dtype, None).is_err());
    assert!(gptq(&weights[1..], quant, dtype, &hessian).is_err());
    assert!(search(&[], 64, quant, dtype, None).unwrap().packed.is_empty());
}

/// `d H d^T` in float64, mean over rows.
fn naive_loss(rounded: &[f32], weights: &[f32], h: &[f32], columns: usize) -> f64 {
    let rows = weights.len() / columns;
    let mut sum = 0.0;
    for (q, w) in rounded.chunks(columns).zip(weights.chunks(columns)) {
        let d: Vec<f64> = q.iter().zip(w).map(|(q, w)| f64::from(*w) - f64::from(*q)).collect();
        for (i, h) in h.chunks(columns).enumerate() {
            sum += d[i] * h.iter().zip(&d).map(|(h, d)| f64::from(*h) * d).sum::<f64>();
        }
    }
    sum / rows as f64
}

/// GPTQ as published, in float64 with an explicit inverse, for one row and given grids: the last column first.
fn published_gptq(row: &[f32], h: &[f32], damping: f64, grids: &[Grid], rule: Rule) -> Vec<u8> {
    let n = row.len();
    let mean = (0..n).map(|i| f64::from(h[i * n + i])).sum::<f64>() / n as f64;
    let damped = |i: usize, j: usize| f64::from(h[i * n + j]) + if i == j { damping * mean } else { 0.0 };
    let mut row: Vec<f64> = row.iter().map(|&w| f64::from(w)).collect();
    let mut codes = vec![0; n];
    for j in (0..n).rev() {
        let grid = &grids[j / (n / grids.len())];
        let (scale, bias) = (f64::from(grid.scale), f64::from(grid.bias));
        let q = ((row[j] - bias) / scale).clamp(0.0, f64::from(rule.highest())).round_ties_even();
        codes[j] = q as u8;
        let error = row[j] - (scale * q + bias);
        // The columns before `j` move so that the loss is least: solve H_bb x = H_bj error.
        let right: Vec<f64> = (0..j).map(|i| damped(i, j) * error).collect();
        for (w, x) in row.iter_mut().zip(solve(&damped, right)) {
            *w += x;
        }
    }
    codes
}

/// Gauss without pivoting, for a positive definite matrix.
fn solve(matrix: &impl Fn(usize, usize) -> f64, mut right: Vec<f64>) -> Vec<f64> {
    let n = right.len();
    let mut rows: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| matrix(i, j)).collect()).collect();
    for k in 0..n {
        let pivot = rows[k].clone();
        for i in k + 1..n {
            let factor = rows[i][k] / pivot[k];
            rows[i].iter_mut().zip(&pivot).for_each(|(value, pivot)| *value -= factor * pivot);
            right[i] -= factor * right[k];
        }
    }
    for k in (0..n).rev() {
        let known: f64 = (k + 1..n).map(|j| rows[k][j] * right[j]).sum();
        right[k] = (right[k] - known) / rows[k][k];
    }
    right
}

fn grids(quantized: &Quantized) -> Vec<Grid> {
    let floats = |bytes: &[u8]| {
        let mut out = vec![0.0; bytes.len() / 4];
        FloatType::F32.widen(bytes, &mut out);
        out
    };
    floats(&quantized.scales)
        .into_iter()
        .zip(floats(&quantized.biases))
        .map(|(scale, bias)| Grid { scale, bias })
        .collect()
}

#[test]
fn gptq_is_the_published_one_with_better_grids() {
    let (columns, rows, dtype) = (128, 20, FloatType::F32);
    let weights = normals(rows * columns, 3);
    let h = moments(columns, 300, 4);
    let hessian = Hessian::new(&h, columns, 0.01).unwrap();
    for (bits, group_size) in [(2, 32), (3, 128), (4, 64), (5, 32), (8, 64)] {
        let quant = Quant::affine(bits, group_size);
        let found = gptq_with(&weights, quant, dtype, &hessian, 0).unwrap();
        assert!(found.searched_rows <= 2);
        let mut codes = vec![0; weights.len()];
        unpack(&found.quantized.packed, bits, &mut codes);
        let grids = grids(&found.quantized);
        let mut same = 0;
        for (i, row) in weights.chunks(columns).enumerate() {
            let per_row = grids.len() / rows;
            let rule = Rule { bits, dtype };
            let published = published_gptq(row, &h, 0.01, &grids[i * per_row..(i + 1) * per_row], rule);
            same += usize::from(published == codes[i * columns..(i + 1) * columns]);
        }
        // A tie that float32 sees otherwise changes what follows in that row.
        assert!(same + found.searched_rows + 2 >= rows, "{quant}: {same} rows");
        let loss = naive_loss(&values(&found.quantized, &weights, quant, dtype), &weights, &h, columns);
        let [search, rtn] = other_losses(&weights, &h, columns, quant, dtype);
        assert!(loss < 0.7 * search && search < rtn, "{quant}: {loss} {search} {rtn}");
    }
}

/// Losses of scale search and rtn.
fn other_losses(weights: &[f32], h: &[f32], columns: usize, quant: Quant, dtype: FloatType) -> [f64; 2] {
    let diagonal: Vec<f32> = h.iter().step_by(columns + 1).copied().collect();
    let searched = search(weights, columns, quant, dtype, Some(&diagonal)).unwrap();
    let mut rtn = vec![0.0; weights.len()];
    quantize_dequantize(weights, columns, quant, dtype, &mut rtn).unwrap();
    [values(&searched, weights, quant, dtype), rtn].map(|rounded| naive_loss(&rounded, weights, h, columns))
}

/// `H` with the damping of a factorization.
fn damped(h: &[f32], columns: usize, damping: f64) -> Vec<f32> {
    let mean = h.iter().step_by(columns + 1).map(|&h| f64::from(h)).sum::<f64>() / columns as f64;
    let mut h = h.to_vec();
    h.iter_mut().step_by(columns + 1).for_each(|h| *h += (damping * mean) as f32);
    h
}

#[test]
fn descent_loses_less_in_every_row() {
    let (columns, rows) = (192, 40);
    let weights = normals(rows * columns, 13);
    let h = moments(columns, 400, 5);
    let hessian = Hessian::new(&h, columns, 0.01).unwrap();
    let h = damped(&h, columns, 0.01);
    for (bits, group_size, dtype) in
        [(2, 64, FloatType::F16), (3, 32, FloatType::Bf16), (4, 64, FloatType::F32), (8, 32, FloatType::F32)]
    {
        let quant = Quant::affine(bits, group_size);
        let mut stored = weights.clone();
        dtype.round_all(&mut stored);
        let losses = |passes| -> Vec<f64> {
            let found = gptq_with(&weights, quant, dtype, &hessian, passes).unwrap();
            assert_eq!(found.searched_rows, 0);
            let rounded = values(&found.quantized, &weights, quant, dtype);
            let rows = rounded.chunks(columns).zip(stored.chunks(columns));
            rows.map(|(rounded, row)| naive_loss(rounded, row, &h, columns)).collect()
        };
        let (before, some, many) = (losses(0), losses(1), losses(8));
        let no_more = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| *a <= b * 1.0001);
        assert!(no_more(&some, &before) && no_more(&many, &some), "{quant}: {before:?} {some:?} {many:?}");
        let share = many.iter().sum::<f64>() / before.iter().sum::<f64>();
        assert!(share < 0.97, "{quant}: {share}");
    }
}

#[test]
fn after_descent_no_code_is_better_elsewhere() {
    let (columns, rows, dtype) = (128, 6, FloatType::F32);
    let (weights, h) = (normals(rows * columns, 14), moments(columns, 400, 6));
    let hessian = Hessian::new(&h, columns, 0.01).unwrap();
    let h = damped(&h, columns, 0.01);
    let quant = Quant::affine(3, 64);
    let found = gptq_with(&weights, quant, dtype, &hessian, 200).unwrap();
    let (rounded, grids) = (values(&found.quantized, &weights, quant, dtype), grids(&found.quantized));
    let mut codes = vec![0; weights.len()];
    unpack(&found.quantized.packed, 3, &mut codes);
    for (at, &code) in codes.iter().enumerate() {
        let (row, column) = (at / columns * columns, at % columns);
        let errors = (0..columns).map(|j| f64::from(weights[row + j]) - f64::from(rounded[row + j]));
        let h = &h[column * columns..(column + 1) * columns];
        let gradient: f64 = errors.zip(h).map(|(error, &h)| error * f64::from(h)).sum();
        for step in [-1, 1].into_iter().filter(|step| (0..8).contains(&(i32::from(code) + step))) {
            let moved = f64::from(step) * f64::from(grids[at / 64].scale);
            let change = moved * (moved * f64::from(h[column]) - 2.0 * gradient);
            let slack = 0.01 * moved * moved * f64::from(h[column]);
            assert!(change > -slack, "{at}: {step} changes the loss by {change}");
        }
    }
}

#[test]
fn rows_that_feedback_does_no_good_are_searched() {
    // Columns that never go together leave nothing to feed back, and columns that always do leave much.
    let (columns, quant, dtype) = (64, Quant::affine(3, 32), FloatType::F32);
    let weights = normals(50 * columns, 12);
    let identity: Vec<f32> = (0..columns * columns).map(|i| f32::from(i % (columns + 1) == 0)).collect();
    let searched = |h: &[f32]| {
        gptq(&weights, quant, dtype, &Hessian::new(h, columns, 0.01).unwrap()).unwrap().searched_rows
    };
    assert!(searched(&identity) > 0, "{}", searched(&identity));
    assert_eq!(searched(&moments(columns, 20, 6)), 0);
}

#[test]
fn without_correlations_gptq_is_the_search() {
    let (columns, quant, dtype) = (256, Quant::affine(3, 64), FloatType::F16);
    let weights = normals(40 * columns, 7);
    let identity: Vec<f32> = (0..columns * columns).map(|i| f32::from(i % (columns + 1) == 0)).collect();
    let hessian = Hessian::new(&identity, columns, 0.01).unwrap();
    let found = gptq_with(&weights, quant, dtype, &hessian, 0).unwrap();
    let searched = values(&search(&weights, columns, quant, dtype, None).unwrap(), &weights, quant, dtype);
    let rounded = values(&found.quantized, &weights, quant, dtype);
    let same = rounded.iter().zip(&searched).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
    assert!(same * 100 > weights.len() * 95, "{same} of {}", weights.len());
    let loss = naive_loss(&rounded, &weights, &identity, columns);
    let [search, _] = other_losses(&weights, &identity, columns, quant, dtype);
    assert!(loss <= search && loss > 0.998 * search, "{loss} {search}");
}

#[test]
fn singular_moments_do() {
    let (columns, quant, dtype) = (128, Quant::affine(4, 32), FloatType::F16);
    let weights = normals(33 * columns, 8);
    let dead: Vec<f32> = {
        let mut h = moments(columns, 200, 3);
        for i in 0..columns {
            for j in [3, 4, 77] {
                h[i * columns + j] = 0.0;
                h[j * columns + i] = 0.0;
            }
        }
        h
    };
    // No input at all, one token, fewer tokens than columns, columns that are never used.
    for h in [vec![0.0; columns * columns], moments(columns, 1, 1), moments(columns, 20, 2), dead] {
        let hessian = Hessian::new(&h, columns, 0.01).unwrap();
        let found = gptq(&weights, quant, dtype, &hessian).unwrap();
        // Columns that calibration knows little of must not become nonsense.
        let rounded = values(&found.quantized, &weights, quant, dtype);
        let [search, _] = other_losses(&weights, &h, columns, quant, dtype);
        assert!(naive_loss(&rounded, &weights, &h, columns) <= search);
        let worst = rounded.iter().zip(&weights).map(|(q, w)| (q - w).abs()).fold(0.0, f32::max);
        assert!(worst < 0.3, "{worst}");
    }
}

#[test]
fn threads_change_nothing() {
    let (columns, quant, dtype) = (320, Quant::affine(3, 32), FloatType::Bf16);
    let weights = normals(300 * columns, 10);
    let h = moments(columns, 50, 11);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| gptq(&weights, quant, dtype, &Hessian::new(&h, columns, 0.01).unwrap()).unwrap())
    };
    let (one, three) = (run(1), run(3));
    assert_eq!(one.quantized, three.quantized);
    assert_eq!(one.searched_rows, three.searched_rows);
}
