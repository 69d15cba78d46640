//! llama.cpp: its PyPI package, and its own programs from the source release of that package. Each is compiled when it is first
//! wanted, which takes some minutes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use xtask::python::Environment;
use xtask::{process, workspace};

const LLAMA_CPP: Environment =
    Environment { folder: ".venv-llama-cpp", requirements: "bench/peers/requirements-llama-cpp.txt" };
/// Tools that build llama.cpp's own programs, and the package `gguf`.
const TOOLS: Environment =
    Environment { folder: ".venv-llama-tools", requirements: "bench/peers/requirements-llama-tools.txt" };
const PACKAGE: &str = "llama-cpp-python";
const PROGRAMS: [&str; 2] = ["llama-bench", "llama-quantize"];

/// Flags that the programs are built with.
pub const CMAKE_FLAGS: [&str; 8] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_TOOLS=ON",
];

/// Header that is included before llama.cpp's C++ sources.
pub const HEADER: &str = "bench/peers/tile_config.hpp";

/// Returns the flag that includes the header before C++ sources.
fn included_header() -> String {
    format!("-DCMAKE_CXX_FLAGS=-include {}", workspace::root().join(HEADER).display())
}

/// Returns the Python of `.venv-llama-cpp/`; `None` if the package cannot be built here, which is tried once.
pub fn python() -> Result<Option<PathBuf>> {
    let python = LLAMA_CPP.python();
    if !LLAMA_CPP.is_current()? {
        eprintln!("venv: building llama.cpp, some minutes");
        LLAMA_CPP.create()?;
        let flags = format!("-DGGML_NATIVE=ON \"{}\"", included_header());
        if let Err(error) = LLAMA_CPP.install(&[("CMAKE_ARGS", &flags)]) {
            eprintln!("venv: {error:#}");
            fs::remove_file(&python)?;
        }
        LLAMA_CPP.mark_current()?;
    }
    Ok(python.exists().then_some(python))
}

/// llama.cpp's own programs.
pub struct LlamaPrograms {
    /// Python of the environment that has the package `gguf`.
    pub python: PathBuf,
    /// Version of the package whose sources were built.
    pub version: String,
    folder: PathBuf,
}

impl LlamaPrograms {
    /// Builds `llama-bench` and `llama-quantize` where they are missing; `None` if they cannot be built here.
    pub fn ready() -> Result<Option<Self>> {
        if !TOOLS.is_current()? {
            TOOLS.create()?;
            TOOLS.install(&[])?;
            TOOLS.mark_current()?;
        }
        let version = LLAMA_CPP.version(PACKAGE)?;
        let sources = workspace::root().join("bench-data/llama.cpp");
        // Another folder than before the header was included.
        let build = sources.join(format!("build-{version}-tiles"));
        let programs = Self { python: TOOLS.python(), version, folder: build.join("bin") };
        if PROGRAMS.iter().any(|name| !programs.folder.join(name).exists()) {
            eprintln!("llama.cpp: building {}, some 15 minutes", PROGRAMS.join(" and "));
            if let Err(error) = programs.build(&sources, &build) {
                eprintln!("llama.cpp: {error:#}");
                return Ok(None);
            }
        }
        Ok(Some(programs))
    }

    /// Returns a command of `llama-bench` without arguments.
    pub fn bench(&self) -> Command {
        Command::new(self.folder.join(PROGRAMS[0]))
    }

    /// Returns a command of `llama-quantize` without arguments.
    pub fn quantize(&self) -> Command {
        Command::new(self.folder.join(PROGRAMS[1]))
    }

    fn build(&self, sources: &Path, build: &Path) -> Result<()> {
        let source = self.unpack(sources)?.join("vendor/llama.cpp");
        let ninja = self.python.with_file_name("ninja");
        let mut configure = Command::new(self.python.with_file_name("cmake"));
        configure.args(["-G", "Ninja"]).arg(format!("-DCMAKE_MAKE_PROGRAM={}", ninja.display()));
        configure.arg("-S").arg(source).arg("-B").arg(build).args(CMAKE_FLAGS);
        configure.arg(included_header());
        // Results go to standard output, so nothing else does.
        process::run(configure.stdout(io::stderr()))?;
        process::run(Command::new(ninja).arg("-C").arg(build).args(PROGRAMS).stdout(io::stderr()))
    }

    /// Fetches and unpacks the package's source release, and returns its folder.
    fn unpack(&self, sources: &Path) -> Result<PathBuf> {
        fs::create_dir_all(sources)?;
        let release = format!("{}-{}", PACKAGE.replace('-', "_"), self.version);
        let archive = sources.join(format!("{release}.tar.gz"));
        if !archive.exists() {
            let mut download = Command::new(&self.python);
            download.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"]);
            // The environment has what pip needs to read the release's metadata.
            download.args(["--no-deps", "--no-build-isolation", "--no-binary", PACKAGE]);
            download.arg("--dest").arg(sources).arg(format!("{PACKAGE}=={}", self.version));
            process::output(&mut download)?;
        }
        process::output(Command::new(&self.python).args(["-m", "tarfile", "-e"]).arg(archive).arg(sources))?;
        Ok(sources.join(release))
    }
}
