//! `cargo xtask build`: compiler and linker for the BPF target, then the workspace.

use std::path::PathBuf;

use anyhow::Result;

use crate::{deps, exec};

/// Options of `build`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimise the controller (the XDP program always is)
    #[arg(long)]
    pub(crate) release: bool,
}

/// Makes sure of the tools and builds everything.
pub(crate) fn run(args: &Args) -> Result<()> {
    deps::ensure_build()?;
    exec::headline("build");
    let binary = controller(args.release)?;
    println!("built {} with the XDP program inside", binary.display());
    Ok(())
}

/// Builds the controller, given the tools; the path of `sip-lb`.
pub(crate) fn controller(release: bool) -> Result<PathBuf> {
    let mut cargo = exec::cargo();
    cargo.arg("build");
    if release {
        cargo.arg("--release");
    }
    exec::run(&mut cargo)?;
    Ok(exec::target_dir().join(if release { "release" } else { "debug" }).join("sip-lb"))
}
