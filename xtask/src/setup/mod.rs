//! `cargo xtask setup` on Linux: all that mlx-rs needs there, in `.engine/`.
//!
//! mlx-sys's build script knows Apple systems only, but it declares `links = "mlx"`, so cargo lets a table in its
//! configuration stand in for that script. Set-up builds the library and the bindings, and writes that table:
//!
//! - `lib/`: MLX and `OpenBLAS` from their wheels, and `libmixbit_engine.so`, which mixbit opens at first use
//! - `bindings-<hash>/bindings.rs`: the source that mlx-sys includes; the hash makes cargo compile it anew when it changes
//! - `cargo.toml`: the table, included by `.cargo/config.toml`
//! - `wheels/`: downloads of pip
//! - `stamp`: versions and digests of all inputs; written last, absent when set-up failed

mod bindings;
mod engine;
mod wheels;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::{process, workspace};

#[cfg(target_arch = "x86_64")]
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
#[cfg(target_arch = "aarch64")]
const TRIPLE: &str = "aarch64-unknown-linux-gnu";

/// Builds `.engine/`; does nothing when it is current.
pub fn run() -> Result<()> {
    let folder = workspace::root().join(".engine");
    fs::create_dir_all(&folder)?;
    // Two set-ups at a time (an editor and a shell, say) wait for each other.
    let lock = File::create(folder.join("lock"))?;
    lock.lock().with_context(|| format!("cannot lock {}", folder.display()))?;

    let stamp = stamp()?;
    if fs::read_to_string(folder.join("stamp")).is_ok_and(|installed| installed == stamp) {
        return Ok(());
    }
    let cache = folder.join("wheels");
    let scratch = folder.join("scratch");
    fs::create_dir_all(&cache)?;
    remove(&scratch)?;
    fs::create_dir(&scratch)?;
    build(&folder, &cache, &scratch)?;
    fs::write(scratch.join("stamp"), stamp)?;
    fs::rename(scratch.join("stamp"), folder.join("stamp"))?;
    remove(&scratch)?;
    eprintln!("setup: done, {} is ready", folder.display());
    Ok(())
}

/// Returns all inputs of set-up, one per line.
fn stamp() -> Result<String> {
    let mut inputs = Sha256::new();
    inputs.update(include_str!("mod.rs"));
    inputs.update(include_str!("engine.rs"));
    inputs.update(include_str!("bindings.rs"));
    for source in [engine::COMPAT, bindings::HEADER, bindings::LOADER] {
        inputs.update(source);
    }
    for (_, source) in engine::NATIVE {
        inputs.update(source);
    }
    let compiler = process::output(engine::compiler()?.to_command().arg("--version"))?;
    let mut lines = vec![
        format!("folder {}", workspace::root().display()),
        format!("mlx-sys {}", locked_version("mlx-sys")?),
        format!("compiler {}", compiler.lines().next().unwrap_or_default()),
        format!("sources {}", wheels::hex(&inputs.finalize())),
    ];
    for wheel in [wheels::MLX, wheels::OPENBLAS, wheels::LIBCLANG] {
        lines.push(format!("wheel {} {}", wheel.requirement(), wheel.sha256()?));
    }
    Ok(lines.join("\n") + "\n")
}

/// Returns the version of a package in Cargo.lock.
fn locked_version(package: &str) -> Result<String> {
    let path = workspace::root().join("Cargo.lock");
    let lock = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let name = format!("name = \"{package}\"");
    lock.lines()
        .skip_while(|line| *line != name)
        .nth(1)
        .and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
        .map(str::to_owned)
        .with_context(|| format!("{}: does not have {package}", path.display()))
}

fn build(folder: &Path, cache: &Path, scratch: &Path) -> Result<()> {
    let mlx_c = package_folder("mlx-sys")?.join("src/mlx-c");
    let lib = scratch.join("lib");
    let include = scratch.join("include");
    unpack_wheels(cache, &lib, &include)?;
    engine::build(&engine::Folders { mlx_c: &mlx_c, include: &include, lib: &lib, scratch })?;
    fs::copy(mlx_c.join("LICENSE"), lib.join("LICENSE-mlx-c"))?;
    let text = bindings::generate(&mlx_c, &folder.join("lib"), cache, scratch)?;
    install(folder, &lib, scratch, &text)
}

/// Unpacks MLX's headers, and into one flat folder all shared libraries and their licences.
fn unpack_wheels(cache: &Path, lib: &Path, include: &Path) -> Result<()> {
    let mlx = wheels::MLX.fetch(cache)?;
    let openblas = wheels::OPENBLAS.fetch(cache)?;
    wheels::unpack(&mlx, include, |name| name.strip_prefix("mlx/include/").map(str::to_owned))?;
    for (wheel, licence) in [(&mlx, "LICENSE-mlx"), (&openblas, "LICENSE-openblas")] {
        wheels::unpack(wheel, lib, |name| {
            let file = name.rsplit('/').next()?;
            if name.contains("/licenses/LICENSE") {
                return Some(licence.to_owned());
            }
            file.split('.').any(|part| part == "so").then(|| file.to_owned())
        })?;
    }
    Ok(())
}

/// Returns the folder of a package's sources, as cargo knows it.
fn package_folder(package: &str) -> Result<PathBuf> {
    let arguments = ["metadata", "--format-version=1", "--filter-platform", TRIPLE];
    let text = process::output(process::cargo().args(arguments).current_dir(workspace::root()))?;
    let metadata: serde_json::Value = serde_json::from_str(&text)?;
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|candidate| candidate["name"] == package)
        .and_then(|metadata| Path::new(metadata["manifest_path"].as_str()?).parent())
        .map(Path::to_path_buf)
        .with_context(|| format!("cargo metadata does not list {package}"))
}

/// Moves the built files into place; the stamp is absent until all of them are.
fn install(folder: &Path, lib: &Path, scratch: &Path, text: &str) -> Result<()> {
    let hash = wheels::hex(&Sha256::digest(text)[..8]);
    let out_dir = format!("bindings-{hash}");
    fs::create_dir(scratch.join(&out_dir))?;
    fs::write(scratch.join(&out_dir).join("bindings.rs"), text)?;
    let out_dir_path = folder.join(&out_dir);
    let table = format!(
        "# Written by `cargo xtask setup`: stands in for mlx-sys's build script, which knows Apple systems only.\n\
         [target.{TRIPLE}.mlx]\nrustc-env = {{ OUT_DIR = {:?} }}\n",
        out_dir_path.to_str().with_context(|| format!("{}: not in UTF-8", out_dir_path.display()))?
    );
    fs::write(scratch.join("cargo.toml"), table)?;

    remove(&folder.join("stamp"))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name == "lib" || name.starts_with("bindings-") && *name != *out_dir {
            remove(&path)?;
        }
    }
    fs::rename(lib, folder.join("lib"))?;
    // Bindings that have not changed stay: with a new time cargo would compile anew all that includes them.
    if !out_dir_path.exists() {
        fs::rename(scratch.join(&out_dir), &out_dir_path)?;
    }
    fs::rename(scratch.join("cargo.toml"), folder.join("cargo.toml"))?;
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
