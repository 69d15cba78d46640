//! Giving mlx-lm the BLAS that mixbit uses, so that a comparison is not one of linear algebra libraries.

use std::process::Command;

use anyhow::Result;

/// Makes `command` load it. Linux only: on macOS both use Accelerate and Metal.
#[cfg(target_os = "linux")]
pub fn blas(command: &mut Command) -> Result<()> {
    use crate::{process, workspace};

    let root = workspace::root();
    let lib = root.join(".engine/lib");
    let library = root.join("bench-data/libblas-preload.so");
    std::fs::create_dir_all(root.join("bench-data"))?;
    let native = root.join("xtask/native");
    let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
    compiler.args(["-std=c++20", "-O2", "-fPIC", "-shared", "-o"]).arg(&library);
    compiler.args([native.join("blas.cpp"), native.join("sgemm.cpp")]).arg("-L").arg(&lib);
    compiler.arg("-l:libscipy_openblas.so").arg(format!("-Wl,-rpath,{}", lib.display()));
    process::output(&mut compiler)?;
    command.env("LD_PRELOAD", &library);
    Ok(())
}

/// Nothing to do.
#[cfg(not(target_os = "linux"))]
pub fn blas(_command: &mut Command) -> Result<()> {
    Ok(())
}
