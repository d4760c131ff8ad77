//! `cargo xtask bench`: what a packet costs.

use std::path::PathBuf;

use anyhow::Result;

use crate::{deps, exec};

/// Options of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Interleaved rounds, of which median and minimum are shown
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(9..))]
    rounds: u32,
    /// Only the rows whose names contain this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Makes sure of the tools, builds optimised and measures.
pub(crate) fn run(args: &Args) -> Result<()> {
    deps::ensure_build()?;
    exec::headline("bench");
    let mut cargo = exec::cargo();
    cargo.args(["run", "--package", "lb-tests", "--example", "bench", "--"]);
    cargo.arg("--rounds").arg(args.rounds.to_string());
    if let Some(file) = &args.json {
        cargo.arg("--json").arg(std::path::absolute(file)?);
    }
    if let Some(only) = &args.only {
        cargo.args(["--only", only]);
    }
    exec::run(&mut cargo)
}
