//! `libmixbit_engine.so`: mlx-c's sources and the functions that stand in for MLX's, linked to the wheels' MLX and
//! `OpenBLAS`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process;

/// Header that is force-included into every mlx-c source.
pub const COMPAT: &str = include_str!("../../../native/compat.hpp");
/// Header of the functions that the library has beside mlx-c's.
pub const OURS: &str = include_str!("../../../native/mixbit.h");
/// Sources in `native/` by name: BLAS forwarders, matrix products, functions that stand in for MLX's, and shared headers.
pub const NATIVE: [(&str, &str); 11] = [
    ("blas.cpp", include_str!("../../../native/blas.cpp")),
    ("sgemm.cpp", include_str!("../../../native/sgemm.cpp")),
    ("exponentials.cpp", include_str!("../../../native/exponentials.cpp")),
    ("attention.cpp", include_str!("../../../native/attention.cpp")),
    ("norm.cpp", include_str!("../../../native/norm.cpp")),
    ("probe.cpp", include_str!("../../../native/probe.cpp")),
    ("unfilled.cpp", include_str!("../../../native/unfilled.cpp")),
    ("rope.cpp", include_str!("../../../native/rope.cpp")),
    ("nodes.hpp", include_str!("../../../native/nodes.hpp")),
    ("mixbit.h", OURS),
    ("threads.hpp", include_str!("../../../native/threads.hpp")),
];

/// Folders that the engine is built from and in.
pub struct Folders<'a> {
    /// mlx-c's sources, inside the mlx-sys crate.
    pub mlx_c: &'a Path,
    /// MLX's headers.
    pub include: &'a Path,
    /// The wheels' shared libraries; `libmixbit_engine.so` is written beside them.
    pub lib: &'a Path,
    /// Folder for intermediate files.
    pub scratch: &'a Path,
}

/// Returns the C++ compiler (`CXX` if set, else `c++`), or an error that says how to get one.
pub fn compiler() -> Result<cc::Tool> {
    let missing = "no C++ compiler was found\nhint: install g++ (apt install g++, dnf install gcc-c++, pacman -S gcc), \
                   or set CXX to one that knows C++20";
    let tool = base().try_get_compiler().context(missing)?;
    if process::output(tool.to_command().arg("--version")).is_err() {
        bail!(missing);
    }
    Ok(tool)
}

/// Returns the settings of every compilation. The compiler's errors come out as cargo warnings: cc knows no other way.
fn base() -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        // With the flag, so that loops with comparisons become vectors too.
        .opt_level(3)
        .flag("-fno-trapping-math")
        .debug(false)
        .pic(true)
        .warnings(false)
        .cargo_metadata(false)
        .target(super::TRIPLE)
        .host(super::TRIPLE);
    build
}

/// Compiles and links the library.
pub fn build(folders: &Folders) -> Result<()> {
    let compat = folders.scratch.join("compat.hpp");
    fs::write(&compat, COMPAT)?;
    let native = folders.scratch.join("native");
    fs::create_dir(&native)?;
    for (name, text) in NATIVE {
        fs::write(native.join(name), text)?;
    }
    let sources = files(&folders.mlx_c.join("mlx/c"), "cpp")?;
    eprintln!("setup: compiling {} files of mlx-c", sources.len());
    // MLX's error messages quote the file they come from: without the machine's folder.
    let mut prefix = std::ffi::OsString::from("-ffile-prefix-map=");
    prefix.push(folders.mlx_c);
    prefix.push("=mlx-c");
    let objects = base()
        .out_dir(folders.scratch.join("objects"))
        .include(folders.mlx_c)
        .include(folders.include)
        .flag("-include")
        .flag(&compat)
        .flag(prefix)
        .files(sources)
        .files(files(&native, "cpp")?)
        .try_compile_intermediates()
        .context("cannot compile mlx-c\nhint: it needs a compiler that knows C++20, g++ 11 or later")?;
    let mut rpath_link = std::ffi::OsString::from("-Wl,-rpath-link,");
    rpath_link.push(folders.lib);
    process::output(
        compiler()?
            .to_command()
            .args(["-shared", "-Wl,-soname,libmixbit_engine.so", "-o"])
            .arg(folders.lib.join("libmixbit_engine.so"))
            .args(&objects)
            .arg("-L")
            .arg(folders.lib)
            .args(["-lmlx", "-lscipy_openblas", "-Wl,-z,defs"])
            // The old tag (DT_RPATH) is also used for what libmlx.so needs, which its own RPATH does not find here.
            .arg("-Wl,--disable-new-dtags,-rpath,$ORIGIN")
            .arg(rpath_link),
    )?;
    Ok(())
}

/// Returns the files in `folder` with that extension, sorted.
pub fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
