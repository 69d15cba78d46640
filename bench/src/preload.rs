//! The BLAS that mixbit uses, preloaded into mlx-lm, so that a comparison is not one of linear algebra libraries.

use std::process::Command;

use anyhow::Result;

/// Makes `command` preload the BLAS. Linux only: on macOS both programs use Accelerate and Metal.
#[cfg(target_os = "linux")]
pub fn blas(command: &mut Command) -> Result<()> {
    use xtask::{process, workspace};

    let root = workspace::root();
    let library = root.join("bench-data/libblas-preload.so");
    let native = root.join("native");
    let sources = ["blas.cpp", "sgemm.cpp", "threads.hpp"].map(|name| native.join(name));
    if !newer(&library, &sources) {
        let lib = root.join(".engine/lib");
        std::fs::create_dir_all(root.join("bench-data"))?;
        let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
        compiler.args(["-std=c++20", "-O2", "-fPIC", "-shared", "-o"]).arg(&library);
        compiler.args(&sources[..2]).arg("-L").arg(&lib);
        compiler.arg("-l:libscipy_openblas.so").arg(format!("-Wl,-rpath,{}", lib.display()));
        process::output(&mut compiler)?;
    }
    command.env("LD_PRELOAD", &library);
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if cpu.contains("AuthenticAMD")
        && ["avx512f", "avx512bw", "avx512dq", "avx512vl"].iter().all(|has| cpu.contains(has))
    {
        // As native/loader.rs does it for mixbit.
        command.env("OPENBLAS_CORETYPE", "SkylakeX");
    }
    Ok(())
}

/// True if `file` is there and was written after all `sources`.
#[cfg(target_os = "linux")]
fn newer(file: &std::path::Path, sources: &[std::path::PathBuf]) -> bool {
    let time = |path: &std::path::Path| std::fs::metadata(path).and_then(|data| data.modified()).ok();
    time(file).is_some_and(|written| sources.iter().all(|source| time(source).is_some_and(|at| at < written)))
}

/// Leaves `command` as it is.
#[cfg(not(target_os = "linux"))]
pub fn blas(_command: &mut Command) -> Result<()> {
    Ok(())
}
