//! llama.cpp through its PyPI package, which is compiled when it is first wanted (some minutes).

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{process, python, workspace};

/// The python of `.venv-llama-cpp/`, which has what `xtask/requirements-llama-cpp.txt` pins; nothing if the package cannot
/// be built here, which is tried once.
pub fn python() -> Result<Option<PathBuf>> {
    let root = workspace::root();
    let folder = root.join(".venv-llama-cpp");
    let python = folder.join("bin/python");
    let stamp = folder.join("requirements.txt");
    let requirements = root.join("xtask/requirements-llama-cpp.txt");
    let wanted = fs::read_to_string(&requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(python.exists().then_some(python));
    }
    eprintln!("venv: building llama.cpp, some minutes");
    process::output(Command::new(python::find()?).args(["-m", "venv", "--clear"]).arg(&folder))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    pip.arg(&requirements).env("CMAKE_ARGS", "-DGGML_NATIVE=ON");
    if let Err(error) = process::output(&mut pip) {
        eprintln!("venv: {error:#}");
        fs::remove_file(&python)?;
    }
    fs::write(&stamp, wanted)?;
    Ok(python.exists().then_some(python))
}
