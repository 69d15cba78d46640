//! `cargo xtask bench convert`: time and peak memory of float32 to float16, beside copying and reading the same bytes.

use anyhow::Result;
use serde_json::json;

use crate::report::Report;
use crate::turns::{self, Job};
use crate::{Options, checkpoint};

/// Runs the bench.
pub fn run(options: Options) -> Result<Report> {
    let checkpoint = checkpoint::mobilellm_r1_950m()?;
    let arguments = vec!["convert", "--dtype", "float16"];
    let job = Job {
        name: "convert",
        input: checkpoint.ensure()?,
        arguments: [arguments.clone(), arguments],
        work: None,
    };
    let parameters = checkpoint.parameters();
    let title = format!("convert {:.0} M parameters, float32 to float16", parameters as f64 / 1e6);
    turns::run(&job, options, &title, &json!({ "parameters": parameters }))
}
