//! `cargo xtask build`: compiler and linker for the BPF target, then the workspace.

use anyhow::Result;

use crate::{deps, exec};

/// Options of `build`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimise the controller (the XDP program always is)
    #[arg(long)]
    release: bool,
}

/// Makes sure of the tools and builds everything.
pub(crate) fn run(args: &Args) -> Result<()> {
    deps::ensure_build()?;
    exec::headline("build");
    let mut cargo = exec::cargo();
    cargo.arg("build");
    if args.release {
        cargo.arg("--release");
    }
    exec::run(&mut cargo)?;
    let profile = if args.release { "release" } else { "debug" };
    println!("built target/{profile}/sip-lb with the XDP program inside");
    Ok(())
}
