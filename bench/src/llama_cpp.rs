//! llama.cpp through its PyPI package, which is compiled when it is first wanted (some minutes).

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use xtask::python::Environment;

const LLAMA_CPP: Environment =
    Environment { folder: ".venv-llama-cpp", requirements: "bench/peers/requirements-llama-cpp.txt" };

/// Returns the Python of `.venv-llama-cpp/`; `None` if the package cannot be built here, which is tried once.
pub fn python() -> Result<Option<PathBuf>> {
    let python = LLAMA_CPP.python();
    if !LLAMA_CPP.is_current()? {
        eprintln!("venv: building llama.cpp, some minutes");
        LLAMA_CPP.create()?;
        if let Err(error) = LLAMA_CPP.install(&[("CMAKE_ARGS", "-DGGML_NATIVE=ON")]) {
            eprintln!("venv: {error:#}");
            fs::remove_file(&python)?;
        }
        LLAMA_CPP.mark_current()?;
    }
    Ok(python.exists().then_some(python))
}
