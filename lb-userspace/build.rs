//! Compiles the XDP program for the BPF target into `OUT_DIR/sip-lb-xdp`, where the binary embeds
//! it from. The object is never committed.

use std::{env, ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, anyhow, bail};
use aya_build::{Package, Toolchain};

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("cargo::error={why:#}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let workspace = here.parent().context("the crate lies in the workspace")?;

    let remedy = "run `cargo xtask build` once: it installs what is missing";
    let compiler = toolchain::find_compiler()
        .map_err(|why| anyhow!("no compiler for the BPF target, {remedy} ({why})"))?;
    let linker = toolchain::find_linker(workspace)
        .map_err(|why| anyhow!("no bpf-linker {}, {remedy} ({why})", toolchain::LINKER_VERSION))?;
    if env::var("CARGO_CFG_TARGET_ENDIAN")? != "little" {
        bail!("only little-endian hosts are supported");
    }

    println!("cargo:rerun-if-env-changed={}", toolchain::CHOICE);
    for path in ["lb-common", "xtask/src/toolchain.rs", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", workspace.join(path).display());
    }
    if linker.is_absolute() {
        println!("cargo:rerun-if-changed={}", linker.display());
    }

    let path = path_with([Some(toolchain::tools_dir(workspace)), compiler.bin.clone()])?;
    // SAFETY: a build script starts with one thread, and none has been started yet: nobody
    // reads the environment meanwhile. aya-build hands it on to the inner cargo.
    unsafe {
        env::set_var("PATH", path);
        // Progress lines of the inner cargo would be shown as warnings of this crate.
        env::set_var("CARGO_TERM_QUIET", "true");
        if compiler.bootstrap {
            env::set_var("RUSTC_BOOTSTRAP", "1");
        }
    }
    let root_dir = workspace.join("lb-ebpf");
    let package = Package {
        name: "lb-ebpf",
        root_dir: root_dir.to_str().context("the workspace's path is not UTF-8")?,
        ..Package::default()
    };
    aya_build::build_ebpf([package], Toolchain::Custom(&compiler.name))
        .with_context(|| format!("lb-ebpf does not compile with {}", compiler.about))
}

fn path_with(first: [Option<PathBuf>; 2]) -> Result<OsString> {
    let rest = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(first.into_iter().flatten().chain(env::split_paths(&rest)))?)
}
