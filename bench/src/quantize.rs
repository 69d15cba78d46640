//! `cargo xtask bench quantize`: float32 to 4 bits in groups of 64, beside `mlx_lm.convert -q`.
//!
//! mlx-lm quantizes the embedding too, which mixbit keeps float. So beside the times, a rate compares the bytes of input that
//! were quantized.

use anyhow::Result;
use serde_json::json;

use crate::report::Report;
use crate::turns::{self, Job};
use crate::{Options, checkpoint};

/// Runs the bench.
pub fn run(options: Options) -> Result<Report> {
    let checkpoint = checkpoint::mobilellm_r1_950m()?;
    let (all, linear) = (checkpoint.matrix_bytes(), checkpoint.linear_bytes());
    let mlx_lm = [
        "convert",
        "-q",
        "--q-bits",
        "4",
        "--q-group-size",
        "64",
        "--q-mode",
        "affine",
        "--dtype",
        "float16",
    ];
    let mixbit = ["quantize", "--bits", "4", "--group-size", "64", "--dtype", "float16"];
    let job = Job {
        name: "quantize",
        input: checkpoint.ensure()?,
        arguments: [mlx_lm.into(), mixbit.into()],
        work: Some(("MB/s quantized", [all as f64 / 1e6, linear as f64 / 1e6])),
    };
    let title = format!(
        "quantize {:.0} M parameters, float32 to 4 bits in groups of 64 ({:.1} GB of matrices by mlx-lm, {:.1} GB by mixbit)",
        checkpoint.parameters() as f64 / 1e6,
        all as f64 / 1e9,
        linear as f64 / 1e9
    );
    let facts = json!({
        "parameters": checkpoint.parameters(),
        "quantized_bytes_mlx_lm": all,
        "quantized_bytes_mixbit": linear
    });
    turns::run(&job, options, &title, &facts)
}
