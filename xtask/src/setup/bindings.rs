//! `bindings.rs` for mlx-sys: bindgen over mlx-c's headers, each declaration turned into a function that looks its
//! symbol up in the engine's library at first use. A mixbit without that library still starts.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use quote::quote;

use super::{engine, wheels};
use crate::process;

/// Header that is force-included while bindgen reads mlx-c's.
pub const HEADER: &str = include_str!("../../../native/bindgen.h");
/// Rust source that finds and opens the library.
pub const LOADER: &str = include_str!("../../../native/loader.rs");

/// Returns the text of `bindings.rs`. `lib` is the folder that the program will look for the library in last.
pub fn generate(mlx_c: &Path, lib: &Path, cache: &Path, scratch: &Path) -> Result<String> {
    eprintln!("setup: writing bindings");
    let header = scratch.join("bindgen.h");
    fs::write(&header, HEADER)?;
    let ours = scratch.join("mixbit.h");
    fs::write(&ours, engine::OURS)?;
    // As mlx-sys's own bindgen_config.rs has it, and the half types.
    let mut builder = bindgen::Builder::default()
        .rust_target("1.73.0".parse().context("bindgen does not know Rust 1.73")?)
        .clang_arg(format!("-I{}", mlx_c.display()))
        .clang_args(["-include".to_owned(), header.display().to_string()])
        .blocklist_function("malloc")
        .blocklist_function("realloc")
        .blocklist_type("float16_t")
        .blocklist_type("bfloat16_t")
        .clang_args(find_libclang(cache, scratch)?);
    for header in engine::files(&mlx_c.join("mlx/c"), "h")? {
        builder = builder.header(header.display().to_string());
    }
    builder = builder.header(ours.display().to_string());
    let generated = builder.generate().context("bindgen cannot read mlx-c's headers")?;
    let loader = LOADER.replace("@SET_UP_FOLDER@", &lib.as_os_str().as_bytes().escape_ascii().to_string());
    Ok(loader + "\n" + &load_lazily(&generated.to_string())?)
}

/// Loads libclang, from the system or from its wheel; returns the extra arguments that it needs.
fn find_libclang(cache: &Path, scratch: &Path) -> Result<Vec<String>> {
    if clang_sys::load().is_ok() {
        return Ok(Vec::new());
    }
    let wheel = wheels::LIBCLANG.fetch(cache)?;
    wheels::unpack(&wheel, scratch, |name| name.ends_with("/libclang.so").then(|| "libclang.so".to_owned()))?;
    // SAFETY: xtask has one thread here; bindgen and cc start theirs later or have ended them.
    unsafe { std::env::set_var("LIBCLANG_PATH", scratch) };
    clang_sys::load()
        .map_err(|why| anyhow::anyhow!("cannot load the libclang of {}: {why}", wheel.display()))?;
    // The wheel has no compiler headers (stddef.h and the like): take the C++ compiler's.
    let mut command = Command::new(engine::compiler()?.path());
    let include = process::output(command.arg("-print-file-name=include"))?;
    Ok(vec![format!("-I{}", include.trim())])
}

/// Replaces every `extern "C" { fn f(..); }` by a function that resolves `f` and calls it. Drops variables, and functions
/// with a variable number of arguments: they cannot be wrapped, and mlx-rs does not use them.
fn load_lazily(bindings: &str) -> Result<String> {
    let mut file = syn::parse_file(bindings).context("cannot parse what bindgen wrote")?;
    let items = std::mem::take(&mut file.items);
    for item in items {
        let syn::Item::ForeignMod(block) = item else {
            file.items.push(item);
            continue;
        };
        for foreign in block.items {
            if let syn::ForeignItem::Fn(function) = foreign
                && function.sig.variadic.is_none()
            {
                file.items.push(wrapper(&function)?);
            }
        }
    }
    Ok(prettyplease::unparse(&file))
}

fn wrapper(function: &syn::ForeignItemFn) -> Result<syn::Item> {
    let syn::ForeignItemFn { attrs, vis, sig, .. } = function;
    let (name, inputs, returned) = (&sig.ident, &sig.inputs, &sig.output);
    let text = syn::LitCStr::new(&std::ffi::CString::new(name.to_string())?, name.span());
    let (mut types, mut names) = (Vec::new(), Vec::new());
    for input in inputs {
        if let syn::FnArg::Typed(argument) = input {
            types.push(&argument.ty);
            names.push(&argument.pat);
        }
    }
    let tokens = quote! {
        #(#attrs)*
        #[inline]
        #vis unsafe extern "C" fn #name(#inputs) #returned {
            static SLOT: ::std::sync::atomic::AtomicPtr<::std::ffi::c_void> =
                ::std::sync::atomic::AtomicPtr::new(::std::ptr::null_mut());
            let symbol = mixbit_engine::symbol(&SLOT, #text);
            let function: unsafe extern "C" fn(#(#types),*) #returned = ::std::mem::transmute(symbol);
            function(#(#names),*)
        }
    };
    syn::parse2(tokens).with_context(|| format!("cannot wrap {name}"))
}
