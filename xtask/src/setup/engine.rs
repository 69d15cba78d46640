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
pub const NATIVE: [(&str, &str); 39] = [
    ("blas.cpp", include_str!("../../../native/blas.cpp")),
    ("sgemm.cpp", include_str!("../../../native/sgemm.cpp")),
    ("exponentials.cpp", include_str!("../../../native/exponentials.cpp")),
    ("attention.cpp", include_str!("../../../native/attention.cpp")),
    ("attention.hpp", include_str!("../../../native/attention.hpp")),
    ("cached_attention.cpp", include_str!("../../../native/cached_attention.cpp")),
    ("interleaved.cpp", include_str!("../../../native/interleaved.cpp")),
    ("interleaved.hpp", include_str!("../../../native/interleaved.hpp")),
    ("integers.inc", include_str!("../../../native/integers.inc")),
    ("interleaved.inc", include_str!("../../../native/interleaved.inc")),
    ("matrix.cpp", include_str!("../../../native/matrix.cpp")),
    ("matrix.hpp", include_str!("../../../native/matrix.hpp")),
    ("matrix_avx2.cpp", include_str!("../../../native/matrix_avx2.cpp")),
    ("matrix_avx512.cpp", include_str!("../../../native/matrix_avx512.cpp")),
    ("matrix_kernels.inc", include_str!("../../../native/matrix_kernels.inc")),
    ("matrix_plain.cpp", include_str!("../../../native/matrix_plain.cpp")),
    ("matrix_values.inc", include_str!("../../../native/matrix_values.inc")),
    ("matrix_vnni.cpp", include_str!("../../../native/matrix_vnni.cpp")),
    ("norm.cpp", include_str!("../../../native/norm.cpp")),
    ("probe.cpp", include_str!("../../../native/probe.cpp")),
    ("unfilled.cpp", include_str!("../../../native/unfilled.cpp")),
    ("products.hpp", include_str!("../../../native/products.hpp")),
    ("quantized.cpp", include_str!("../../../native/quantized.cpp")),
    ("rope.cpp", include_str!("../../../native/rope.cpp")),
    ("rope.hpp", include_str!("../../../native/rope.hpp")),
    ("rows.hpp", include_str!("../../../native/rows.hpp")),
    ("nodes.cpp", include_str!("../../../native/nodes.cpp")),
    ("nodes.hpp", include_str!("../../../native/nodes.hpp")),
    ("activations.hpp", include_str!("../../../native/activations.hpp")),
    ("attention_kernels.inc", include_str!("../../../native/attention_kernels.inc")),
    ("mlp.cpp", include_str!("../../../native/mlp.cpp")),
    ("normed.hpp", include_str!("../../../native/normed.hpp")),
    ("one_query.cpp", include_str!("../../../native/one_query.cpp")),
    ("one_query.hpp", include_str!("../../../native/one_query.hpp")),
    ("stored.cpp", include_str!("../../../native/stored.cpp")),
    ("stored.hpp", include_str!("../../../native/stored.hpp")),
    ("mixbit.h", OURS),
    ("prefetch.hpp", include_str!("../../../native/prefetch.hpp")),
    ("threads.hpp", include_str!("../../../native/threads.hpp")),
];

/// Sources that are compiled for processors with more than x86-64 has, and the flags that say so. They share no inline
/// functions with others.
const FOR_PROCESSORS: [(&str, &[&str]); 3] = [
    ("matrix_avx2.cpp", &["-mavx2", "-mfma", "-mf16c"]),
    (
        "matrix_avx512.cpp",
        &["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vbmi"],
    ),
    (
        "matrix_vnni.cpp",
        &[
            "-mavx2",
            "-mfma",
            "-mf16c",
            "-mavx512f",
            "-mavx512bw",
            "-mavx512dq",
            "-mavx512vl",
            "-mavx512vbmi",
            "-mavx512vnni",
        ],
    ),
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
        // Vectors are handed over between inlined functions alone.
        .flag("-Wno-psabi")
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
    let is_plain = |path: &PathBuf| !FOR_PROCESSORS.iter().any(|(name, _)| path.ends_with(name));
    let plain: Vec<PathBuf> = files(&native, "cpp")?.into_iter().filter(is_plain).collect();
    let mut objects = base()
        .out_dir(folders.scratch.join("objects"))
        .include(folders.mlx_c)
        .include(folders.include)
        .flag("-include")
        .flag(&compat)
        .flag(prefix)
        .files(sources)
        .files(plain)
        .try_compile_intermediates()
        .context("cannot compile mlx-c\nhint: it needs a compiler that knows C++20, g++ 11 or later")?;
    objects.extend(for_processors(&native, folders.scratch)?);
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

/// Compiles the sources that have flags of their own; returns the objects.
fn for_processors(native: &Path, scratch: &Path) -> Result<Vec<PathBuf>> {
    let mut objects = Vec::new();
    for (name, flags) in FOR_PROCESSORS {
        let mut build = base();
        // Other processors have nothing of them: the files are empty there.
        if cfg!(target_arch = "x86_64") {
            build.flags(flags.iter().copied());
        }
        build.out_dir(scratch.join("objects")).file(native.join(name));
        objects.extend(build.try_compile_intermediates().with_context(|| format!("cannot compile {name}"))?);
    }
    Ok(objects)
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
