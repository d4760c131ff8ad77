//! Taking everything off this host again, with or without a running controller.

use std::{fs, io, path::Path};

use super::{
    attach::{self, Attached},
    error::{Error, Result},
    generation,
    pins::{self, PinDir},
};

/// What [`detach`] does when a controller holds the pin directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Refuses, and names its pid.
    No,
    /// Goes on. For that controller itself, or after it was told to stop.
    Yes,
}

/// Takes the program off every interface and removes every pin below `pin_dir`, those of older
/// versions included, then the directory itself unless something else lies in it. Nothing to do is
/// no error. Returns the interfaces that were attached.
///
/// # Errors
///
/// [`Error::Locked`] if a controller runs and `force` does not allow that; else what the kernel
/// says.
pub fn detach(pin_dir: &Path, force: Force) -> Result<Vec<Attached>> {
    let lock = match force {
        Force::No => match PinDir::take_existing(pin_dir)? {
            Some(lock) => Some(lock),
            None => return Ok(Vec::new()),
        },
        Force::Yes => None,
    };
    let attached = attach::attached(pin_dir)?;
    for name in pins::names(&pin_dir.join(pins::LINKS))? {
        pins::remove_file(&pin_dir.join(pins::LINKS).join(name))?;
    }
    let links: Vec<_> = attached.iter().map(|link| (link.ifindex, link.program)).collect();
    attach::await_detached(&links)?;

    pins::remove_tree(&pin_dir.join(pins::LINKS))?;
    for name in pins::names(pin_dir)? {
        if generation::is_generation(&name) {
            pins::remove_tree(&pin_dir.join(name))?;
        }
    }
    match fs::remove_dir(pin_dir) {
        Ok(()) => {}
        // Not ours alone, or the mount point itself.
        Err(cause)
            if matches!(
                cause.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::ResourceBusy
            ) => {}
        Err(cause) => {
            return Err(Error::kernel(format!("remove {}", pin_dir.display()), cause));
        }
    }
    drop(lock);
    Ok(attached)
}
