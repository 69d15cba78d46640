//! The programs that are compared, and their columns.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use xtask::build::{Profile, build_mixbit};
use xtask::{python, workspace};

use crate::preload;

/// Who runs.
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
    /// In the order they run.
    pub const ALL: [Self; 3] = [Self::MlxLm, Self::MlxLmBlas, Self::Mixbit];

    /// As tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MlxLm => "mlx-lm",
            Self::MlxLmBlas => "mlx-lm, same BLAS",
            Self::Mixbit => "mixbit",
        }
    }
}

/// Where the programs are.
pub struct Programs {
    python: PathBuf,
    mixbit: PathBuf,
}

impl Programs {
    /// Builds and installs what is missing.
    pub fn ready() -> Result<Self> {
        Ok(Self {
            python: python::reference()?,
            mixbit: workspace::root().join(build_mixbit(Profile::Release)?),
        })
    }

    /// A command of `who`, without arguments: Python or mixbit. Nothing is to be looked up elsewhere.
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
