//! Programs that are compared, and their names in tables.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use xtask::build::{Profile, build_mixbit};
use xtask::{python, workspace};

use crate::preload;

/// A program that is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// mlx-lm as PyPI has it.
    MlxLm,
    /// mlx-lm with mixbit's BLAS in place of the reference one that its wheel brings.
    MlxLmBlas,
    /// mixbit.
    Mixbit,
}

impl Who {
    /// All programs, in the order they run.
    pub const ALL: [Self; 3] = [Self::MlxLm, Self::MlxLmBlas, Self::Mixbit];

    /// Returns the name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::MlxLm => "mlx-lm",
            Self::MlxLmBlas => "mlx-lm, same BLAS",
            Self::Mixbit => "mixbit",
        }
    }
}

/// Paths of the programs.
pub struct Programs {
    python: PathBuf,
    mixbit: PathBuf,
}

impl Programs {
    /// Builds mixbit and installs mlx-lm where they are missing.
    pub fn ready() -> Result<Self> {
        Ok(Self {
            python: python::reference()?,
            mixbit: workspace::root().join(build_mixbit(Profile::Release)?),
        })
    }

    /// Returns a command of `who` without arguments, Python or mixbit, that asks nothing of the Hub.
    pub fn command(&self, who: Who) -> Result<Command> {
        let mut command = Command::new(if who == Who::Mixbit { &self.mixbit } else { &self.python });
        if who == Who::MlxLmBlas {
            preload::blas(&mut command)?;
        }
        command.env("HF_HUB_OFFLINE", "1");
        Ok(command)
    }

    /// Returns a command of `who` that runs a Python script of `bench/peers`.
    pub fn script(&self, who: Who, name: &str) -> Result<Command> {
        let mut command = self.command(who)?;
        command.arg(workspace::root().join("bench/peers").join(name));
        Ok(command)
    }
}
