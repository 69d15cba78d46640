//! `cargo bench --bench rounding`: the ways to round one matrix, at the size of the largest of a 950 M decoder.
#![allow(clippy::print_stdout, clippy::expect_used, missing_docs)]

use std::time::Instant;

use mixbit::numerics::affine::{FloatType, Rows, quantize};
use mixbit::numerics::quant::Quant;
use mixbit::numerics::rounding::{Hessian, gptq, search};

const ROWS: usize = 1536;
const COLUMNS: usize = 6144;

/// Returns the least of several times, in seconds.
fn seconds<T>(times: usize, mut work: impl FnMut() -> T) -> f64 {
    let time = |_| {
        let start = Instant::now();
        std::hint::black_box(work());
        start.elapsed().as_secs_f64()
    };
    (0..times).map(time).fold(f64::INFINITY, f64::min)
}

/// Returns nearly normal values of unit variance.
fn normals(count: usize) -> Vec<f32> {
    let mut rng = fastrand::Rng::with_seed(1);
    (0..count).map(|_| (0..6).map(|_| rng.f32() - 0.5).sum::<f32>() * 2_f32.sqrt()).collect()
}

/// Returns moments with a diagonal of unequal sizes and correlated neighbours.
fn moments() -> Vec<f32> {
    let mut rng = fastrand::Rng::with_seed(2);
    let size: Vec<f32> = (0..COLUMNS).map(|_| 0.2 + rng.f32() * 3.0).collect();
    let value = |i: usize, j: usize| size[i] * size[j] * 0.9_f32.powi(i.abs_diff(j).min(200) as i32);
    (0..COLUMNS * COLUMNS).map(|at| value(at / COLUMNS, at % COLUMNS)).collect()
}

fn main() {
    let dtype = FloatType::F16;
    let weights = normals(ROWS * COLUMNS);
    for (bits, group_size) in [(2, 32), (4, 32), (4, 64), (4, 128), (8, 64)] {
        let quant = Quant::affine(bits, group_size);
        let rows = || Rows::from_f32(&weights, COLUMNS).expect("whole rows");
        let rtn = seconds(9, || quantize(rows(), quant, dtype).expect("finite weights"));
        let found = seconds(5, || search(&weights, COLUMNS, quant, dtype, None).expect("finite weights"));
        println!("{ROWS} x {COLUMNS} {quant}: rtn {rtn:.4} s, search {found:.4} s, {:.1} times", found / rtn);
    }
    let moments = moments();
    let factors = || Hessian::new(&moments, COLUMNS, 0.01).expect("positive moments");
    println!("Cholesky of {COLUMNS}: {:.2} s", seconds(2, factors));
    let hessian = factors();
    for (bits, group_size) in [(4, 32), (4, 64), (4, 128), (2, 64)] {
        let quant = Quant::affine(bits, group_size);
        let fed_back = seconds(2, || gptq(&weights, quant, dtype, &hessian).expect("finite weights"));
        println!("{ROWS} x {COLUMNS} {quant}: gptq without Cholesky {fed_back:.2} s");
    }
}
