//! `cargo xtask dist`: a tarball that runs from any folder.
//!
//! `mixbit/` holds the executable, the licences, and on Linux `lib/`, where the executable looks for its engine first.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};

use crate::{process, workspace};

/// Builds the release and packs it.
pub fn run() -> Result<()> {
    let root = workspace::root();
    let mixbit = root.join(workspace::release()?);
    let folder = root.join(workspace::target()?).join("dist");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("mixbit-{}-{}.tar.gz", version()?, triple()?));
    let part = path.with_extension("part");

    let mut archive = tar::Builder::new(GzEncoder::new(File::create(&part)?, Compression::default()));
    archive.mode(tar::HeaderMode::Deterministic);
    for (source, name) in contents(&root, mixbit)? {
        archive
            .append_path_with_name(&source, Path::new("mixbit").join(name))
            .with_context(|| format!("cannot pack {}", source.display()))?;
    }
    archive.into_inner()?.finish()?.sync_all()?;
    fs::rename(&part, &path)?;
    let size = fs::metadata(&path)?.len();
    eprintln!("dist: {} ({:.1} MB)", path.display(), size as f64 / 1e6);
    Ok(())
}

/// What goes in: the file, and its name under `mixbit/`; sorted.
fn contents(root: &Path, mixbit: PathBuf) -> Result<Vec<(PathBuf, String)>> {
    let mut files = vec![(mixbit, "mixbit".to_owned())];
    for path in list(root)? {
        let name = name_of(&path);
        if name == "README.md" || name.starts_with("LICENSE") {
            files.push((path, name));
        }
    }
    if cfg!(target_os = "linux") {
        for path in list(&root.join(".engine/lib"))? {
            let name = format!("lib/{}", name_of(&path));
            files.push((path, name));
        }
    }
    Ok(files)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn version() -> Result<String> {
    workspace::metadata()?["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "mixbit")
        .and_then(|package| Some(package["version"].as_str()?.to_owned()))
        .context("cargo metadata does not list mixbit")
}

fn triple() -> Result<String> {
    let text = process::output(std::process::Command::new("rustc").args(["--print", "host-tuple"]))?;
    Ok(text.trim().to_owned())
}
