//! `sip-lb detach`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{DEFAULT_PIN_DIR, exit};
use crate::{
    config,
    datapath::{self, detach::Force},
};

#[derive(Debug, Args)]
pub(super) struct DetachArgs {
    /// Where the program is pinned.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pin_dir: Option<PathBuf>,
    /// The configuration, which names the pin directory.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Also while a controller runs.
    #[arg(long)]
    force: bool,
}

/// Takes the program off every interface and removes every pin.
pub(super) fn run(args: &DetachArgs) -> Result<u8> {
    let pin_dir = pin_dir(args.pin_dir.as_ref(), args.config.as_ref())?;
    let force = if args.force { Force::Yes } else { Force::No };
    let detached = datapath::detach::detach(&pin_dir, force)?;
    if detached.is_empty() {
        println!("nothing was attached from {}", pin_dir.display());
    }
    for link in detached {
        let name = if link.interface.is_empty() { "(vanished)" } else { link.interface.as_str() };
        println!("detached from {name} (index {})", link.ifindex);
    }
    Ok(exit::DONE)
}

/// The pin directory that the arguments mean.
pub(super) fn pin_dir(given: Option<&PathBuf>, file: Option<&PathBuf>) -> Result<PathBuf> {
    match (given, file) {
        (Some(directory), _) => Ok(directory.clone()),
        (None, Some(file)) => Ok(config::load(file)?.config.pin_dir),
        (None, None) => Ok(PathBuf::from(DEFAULT_PIN_DIR)),
    }
}
