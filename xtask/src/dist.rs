//! `cargo xtask dist`: a tarball that runs from any folder.
//!
//! `mixbit/` holds the executable, the licences, README.md, docs/ and the pages and pictures that these link to, and on
//! Linux `lib/`, in which the executable looks for its engine first.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};

use xtask::build::{Profile, build_mixbit};
use xtask::{process, workspace};

/// Builds the release and packs it.
pub fn run() -> Result<()> {
    let root = workspace::root();
    let mixbit = root.join(build_mixbit(Profile::Release)?);
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

/// Returns the files to pack, each with its name under `mixbit/`.
fn contents(root: &Path, mixbit: PathBuf) -> Result<Vec<(PathBuf, String)>> {
    let mut files = vec![(mixbit, "mixbit".to_owned())];
    files.extend(pages(root)?);
    if cfg!(target_os = "linux") {
        for path in list(&root.join(".engine/lib"))? {
            let name = format!("lib/{}", name_of(&path));
            files.push((path, name));
        }
    }
    Ok(files)
}

/// Returns licences, pages and the pictures on them, each with its name under `mixbit/`.
fn pages(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for path in list(root)? {
        let name = name_of(&path);
        if is_read(&name) || name.starts_with("LICENSE") {
            files.push((path, name));
        }
    }
    for folder in ["benches", "docs", "docs/images", "quant-recipes"] {
        for path in list(&root.join(folder))? {
            let name = format!("{folder}/{}", name_of(&path));
            if is_read(&name) {
                files.push((path, name));
            }
        }
    }
    Ok(files)
}

/// True if a file is read by people: a page, or a picture on one.
fn is_read(name: &str) -> bool {
    [".md", ".svg"].iter().any(|end| name.ends_with(end))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn links_of_packed_pages_lead_to_what_is_packed() -> Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let files = pages(&root)?;
        let packed: BTreeSet<&str> = files.iter().map(|(_, name)| name.as_str()).collect();
        assert!(packed.contains("docs/images/curve.svg") && packed.contains("README.md"));
        // CONTRIBUTING.md is for those who have the sources.
        for (path, name) in files.iter().filter(|(_, name)| name != "CONTRIBUTING.md") {
            let text = fs::read_to_string(path)?;
            let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
            for link in
                links.filter(|link| name.ends_with(".md") && !link.is_empty() && !link.contains("://"))
            {
                let mut parts: Vec<&str> = name.split('/').collect();
                parts.pop();
                for part in link.split('/') {
                    if part == ".." {
                        parts.pop();
                    } else {
                        parts.push(part);
                    }
                }
                let target = parts.join("/");
                let target = target.trim_end_matches('/');
                let is_packed =
                    packed.iter().any(|name| *name == target || name.starts_with(&format!("{target}/")));
                assert!(is_packed, "{name} links to {link}, which is not packed");
            }
        }
        Ok(())
    }
}
