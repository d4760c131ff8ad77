//! The pin directory: where it may lie, who holds it, what lies in it.
//!
//! ```text
//! pin_dir/links/<ifindex>          one BPF link for each interface
//! pin_dir/v<layout>/<MAP>          the maps that the running program uses
//! pin_dir/v<layout>/sip_lb_<build> the program, and heartbeat_<build> beside it
//! pin_dir/v<layout>/sip_lb_watch_<build> what takes its place while somebody watches
//! pin_dir/v<layout>-new            maps in the making; never used by a link
//! pin_dir/v<layout>-old            maps of before, until every link runs the new program
//! ```
//!
//! The lock is flock(2) on the directory itself: it ends with the process that holds it, however
//! that ends, and leaves no file behind.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::{Error, Result};

/// The directory of the links below the pin directory.
pub const LINKS: &str = "links";

/// A pin directory that this process holds.
#[derive(Debug)]
pub struct PinDir {
    path: PathBuf,
    lock: File,
}

impl PinDir {
    /// Makes the directory if it is missing, and locks it.
    ///
    /// # Errors
    ///
    /// [`Error::NoBpffs`] if it would not lie on a BPF file system; [`Error::Locked`] with the pid
    /// of another instance that holds it.
    pub fn take(path: &Path) -> Result<Self> {
        loop {
            create(path)?;
            if let Some(lock) = try_lock(path)? {
                let pins = Self { path: path.to_owned(), lock };
                pins.make(&pins.links())?;
                return Ok(pins);
            }
        }
    }

    /// As [`PinDir::take`], but `None` if there is no such directory.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if an instance holds it.
    pub fn take_existing(path: &Path) -> Result<Option<Self>> {
        while path.exists() {
            if let Some(lock) = try_lock(path)? {
                return Ok(Some(Self { path: path.to_owned(), lock }));
            }
        }
        Ok(None)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.path.join(LINKS)
    }

    /// Makes a directory below the pin directory; it may exist already.
    pub(crate) fn make(&self, path: &Path) -> Result<()> {
        make_private(path)
    }

    /// Gives up the lock.
    ///
    /// # Errors
    ///
    /// What flock(2) says.
    pub fn release(self) -> Result<()> {
        self.lock.unlock().map_err(|cause| Error::kernel("unlock the pin directory", cause))
    }
}

/// The pid that holds `pin_dir`, if any does and it is visible from here.
///
/// # Errors
///
/// If `pin_dir` cannot be opened; a missing one is held by nobody.
pub fn holder(pin_dir: &Path) -> Result<Option<u32>> {
    match PinDir::take_existing(pin_dir) {
        Ok(_) => Ok(None),
        Err(Error::Locked { pid, .. }) => Ok(pid),
        Err(other) => Err(other),
    }
}

/// The lock on the directory that `path` names, or `None` if that was replaced meanwhile.
fn try_lock(path: &Path) -> Result<Option<File>> {
    let failed = |what: &str, cause| Error::kernel(format!("{what} {}", path.display()), cause);
    let directory = match File::open(path) {
        Ok(directory) => directory,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(failed("open", cause)),
    };
    match directory.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Locked { path: path.to_owned(), pid: lock_holder(&directory) });
        }
        Err(TryLockError::Error(cause)) => return Err(failed("lock", cause)),
    }
    // `detach` removes the directory under its lock: what was locked here may be gone.
    let held = directory.metadata().map_err(|cause| failed("query", cause))?;
    let still_there = fs::metadata(path).is_ok_and(|now| now.ino() == held.ino());
    Ok(still_there.then_some(directory))
}

/// Who holds the flock on `directory`, from `/proc/locks`.
fn lock_holder(directory: &File) -> Option<u32> {
    let inode = directory.metadata().ok()?;
    let device = inode.dev();
    let id = format!("{:02x}:{:02x}:{}", libc::major(device), libc::minor(device), inode.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    holder_in(&locks, &id)
}

/// The pid in a line like `1: FLOCK  ADVISORY  WRITE 19405 00:28:88962 0 EOF`.
fn holder_in(locks: &str, id: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        match fields.as_slice() {
            [_, "FLOCK", _, _, pid, lock, ..] if *lock == id => pid.parse().ok(),
            _ => None,
        }
    })
}

/// Makes `path`, readable by its owner alone, if it lies on a BPF file system.
fn create(path: &Path) -> Result<()> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    let existing = existing.unwrap_or_else(|| Path::new("/"));
    let mount = statfs(existing).map_err(|cause| {
        Error::kernel(format!("query the file system of {}", existing.display()), cause.into())
    })?;
    if mount.filesystem_type() != BPF_FS_MAGIC {
        return Err(Error::NoBpffs { path: path.to_owned() });
    }
    let missing = path.strip_prefix(existing).unwrap_or(path);
    if missing.components().any(|name| name.as_os_str().to_string_lossy().contains('.')) {
        return Err(Error::DotInPinDir { path: path.to_owned() });
    }
    make_private(path)
}

pub(crate) fn make_private(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|cause| Error::kernel(format!("make directory {}", path.display()), cause))
}

/// The names in a directory; none if it is missing.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>> {
    let failed = |cause| Error::kernel(format!("read directory {}", directory.display()), cause);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(failed(cause)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes a pin; one that is gone already is as good.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    removed(fs::remove_file(path), path)
}

/// Removes a directory of pins.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    removed(fs::remove_dir_all(path), path)
}

fn removed(result: io::Result<()>, path: &Path) -> Result<()> {
    match result {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(Error::kernel(format!("remove {}", path.display()), cause))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_on_another_file_system_is_refused_with_the_remedy() {
        let error = PinDir::take(Path::new("/proc/sip-lb")).unwrap_err().to_string();
        assert!(error.contains("mount -t bpf bpf /sys/fs/bpf"), "{error}");
        assert!(error.contains("/proc/sip-lb"), "{error}");
    }

    #[test]
    fn the_holder_of_a_lock_is_read_from_the_kernels_list() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:28:88962 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 00:28:8896 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 13 00:28:88962 0 EOF\n";
        assert_eq!(holder_in(locks, "00:28:88962"), Some(13));
        assert_eq!(holder_in(locks, "00:28:1"), None);
    }

    #[test]
    fn a_directory_that_was_never_made_is_held_by_nobody() {
        assert_eq!(holder(Path::new("/sys/fs/bpf/nll-never")).unwrap(), None);
    }
}
