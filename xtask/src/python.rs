//! Finding Python, and virtual environments with pinned packages: mlx-lm and further peers.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// Returns `PYTHON` if set, else `python3`; an error says how to get it when it does not run.
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

/// Returns the Python of [`find`] if it has pip.
#[cfg(target_os = "linux")]
pub fn find_with_pip() -> Result<OsString> {
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

/// A virtual environment in the workspace, and the pins of its packages.
pub struct Environment {
    /// Folder of the environment, from the workspace's root.
    pub folder: &'static str,
    /// File of pins, from the workspace's root: a comment, then one requirement per line.
    pub requirements: &'static str,
}

/// mlx-lm and transformers, which parity and the benches compare with.
const REFERENCE: Environment = Environment { folder: ".venv", requirements: "xtask/requirements.txt" };

/// Returns the Python of `.venv/`, installed first if its pins have changed.
pub fn reference() -> Result<PathBuf> {
    if !REFERENCE.is_current()? {
        REFERENCE.create()?;
        REFERENCE.install(&[])?;
        REFERENCE.mark_current()?;
    }
    Ok(REFERENCE.python())
}

impl Environment {
    /// Returns the path of the environment's Python, whether or not it is there.
    pub fn python(&self) -> PathBuf {
        workspace::root().join(self.folder).join("bin/python")
    }

    /// True if [`Self::mark_current`] was called since the pins changed.
    pub fn is_current(&self) -> Result<bool> {
        let pins = self.pins()?;
        Ok(fs::read_to_string(self.stamp()).is_ok_and(|installed| installed == pins))
    }

    /// Makes the environment anew, without packages.
    pub fn create(&self) -> Result<()> {
        let folder = workspace::root().join(self.folder);
        process::output(Command::new(find()?).args(["-m", "venv", "--clear"]).arg(folder)).context(
            "cannot make a virtual environment\nhint: apt install python3-venv; without root: `python3 -m pip \
             install --user virtualenv && python3 -m virtualenv .venv`, then set PYTHON to .venv/bin/python",
        )?;
        Ok(())
    }

    /// Installs the pinned packages, with `variables` set for pip.
    pub fn install(&self, variables: &[(&str, &str)]) -> Result<()> {
        eprintln!("venv: installing {}", self.pins()?.lines().skip(1).collect::<Vec<_>>().join(", "));
        process::output(
            Command::new(self.python())
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
                .arg(workspace::root().join(self.requirements))
                .envs(variables.iter().copied()),
        )?;
        Ok(())
    }

    /// Notes that the environment has what the pins say, so far as it can be had.
    pub fn mark_current(&self) -> Result<()> {
        Ok(fs::write(self.stamp(), self.pins()?)?)
    }

    /// Returns the version that a package is pinned to.
    pub fn version(&self, package: &str) -> Result<String> {
        let pins = self.pins()?;
        let version = pins.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix("=="));
        version.map(str::to_owned).with_context(|| format!("{} has no pin of {package}", self.requirements))
    }

    fn stamp(&self) -> PathBuf {
        workspace::root().join(self.folder).join("requirements.txt")
    }

    fn pins(&self) -> Result<String> {
        let path = workspace::root().join(self.requirements);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}
