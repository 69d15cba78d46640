//! Finding Python, and the virtual environment with the reference implementation (mlx-lm).

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// `PYTHON` if set, else `python3`; an error that says how to get it when it does not run.
pub fn find() -> Result<OsString> {
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    if process::output(Command::new(&python).arg("--version")).is_err() {
        bail!(
            "{} is missing\nhint: install it (apt install python3 python3-pip, dnf install python3 python3-pip, \
             pacman -S python python-pip), or set PYTHON to one",
            python.display()
        );
    }
    Ok(python)
}

/// The same, with pip.
#[cfg(target_os = "linux")]
pub fn with_pip() -> Result<OsString> {
    let python = find()?;
    if process::output(Command::new(&python).args(["-m", "pip", "--version"])).is_err() {
        bail!(
            "pip is missing\nhint: install it (apt install python3-pip, dnf install python3-pip, pacman -S \
             python-pip); without root: `python3 -m ensurepip --user`, or set PYTHON to the python of a virtual \
             environment"
        );
    }
    Ok(python)
}

/// The python of `.venv/`, which has what `xtask/requirements.txt` pins. Made anew when the pins change.
pub fn venv() -> Result<PathBuf> {
    let root = workspace::root();
    let folder = root.join(".venv");
    let requirements = root.join("xtask/requirements.txt");
    let python = folder.join("bin/python");
    let stamp = folder.join("requirements.txt");
    let wanted = fs::read_to_string(&requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    eprintln!("venv: installing {}", wanted.lines().skip(1).collect::<Vec<_>>().join(", "));
    process::output(Command::new(find()?).args(["-m", "venv", "--clear"]).arg(&folder)).context(
        "cannot make a virtual environment\nhint: apt install python3-venv; without root: `python3 -m pip install \
         --user virtualenv && python3 -m virtualenv .venv`, then set PYTHON to .venv/bin/python",
    )?;
    process::output(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
            .arg(&requirements),
    )?;
    fs::write(&stamp, wanted)?;
    Ok(python)
}
