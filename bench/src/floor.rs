//! Rates of the machine that floors are computed from: matrix products and reading memory.

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;
use xtask::process;

use crate::peers::{Programs, Who};

/// Python that prints the operations per second of a float32 product of 2048 x 2048 matrices, the best of 20, by the BLAS that
/// mixbit uses.
const MATMUL: &str = "
import time, mlx.core as mx
a, b = mx.random.normal((2048, 2048)), mx.random.normal((2048, 2048))
mx.eval(a, b)
best = 1e9
for _ in range(20):
    start = time.perf_counter()
    mx.eval(a @ b)
    best = min(best, time.perf_counter() - start)
print(2 * 2048**3 / best)
";

/// Rates of this machine.
pub struct Floor {
    /// Float32 operations per second of a large matrix product.
    pub flops: f64,
    /// Bytes per second of reading memory with all threads.
    pub bandwidth: f64,
}

impl Floor {
    /// Measures both, which takes some seconds.
    pub fn measure(programs: &Programs) -> Result<Self> {
        let printed = process::output(programs.command(Who::MlxLmBlas)?.args(["-c", MATMUL]))?;
        let flops = printed.trim().parse().context("the matrix product printed no rate")?;
        // In a process of its own: a child's peak of memory begins with what its parent held.
        let printed = process::output(Command::new(std::env::current_exe()?).arg("bandwidth"))?;
        let bandwidth = printed.trim().parse().context("no rate of reading memory was printed")?;
        Ok(Self { flops, bandwidth })
    }
}

/// Measures the bytes per second of reading memory with all threads: the best of several reads of 512 MB.
pub fn bandwidth() -> f64 {
    let words = vec![1u64; 64 << 20];
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let read = || {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for part in words.chunks(words.len().div_ceil(threads)) {
                scope.spawn(move || black_box(xor_of_four_streams(part)));
            }
        });
        (words.len() * 8) as f64 / started.elapsed().as_secs_f64()
    };
    (0..5).map(|_| read()).fold(0.0, f64::max)
}

/// Returns the XOR of all words but a few at the ends of quarters, which are read side by side: that is faster than one
/// stream.
fn xor_of_four_streams(words: &[u64]) -> u64 {
    let (left, right) = words.split_at(words.len() / 2);
    let (first, second) = left.split_at(left.len() / 2);
    let (third, fourth) = right.split_at(right.len() / 2);
    let [first, second, third, fourth] =
        [first, second, third, fourth].map(|quarter| quarter.chunks_exact(8));
    let mut sums = [0u64; 8];
    for (((a, b), c), d) in first.zip(second).zip(third).zip(fourth) {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum ^= (a[i] ^ b[i]) ^ (c[i] ^ d[i]);
        }
    }
    sums.into_iter().fold(0, |sum, part| sum ^ part)
}

/// Returns the number of parameters in a model folder.
pub fn parameters(programs: &Programs, model: &Path) -> Result<f64> {
    let mut command = programs.command(Who::Mixbit)?;
    let inventory: Value =
        serde_json::from_str(&process::output(command.args(["inspect", "--json"]).arg(model))?)?;
    inventory["parameters"].as_f64().context("inspect gave no parameters")
}
