//! A pin directory of a test's own, gone with the test.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use lb_userspace::datapath::detach::{Force, detach};

/// Where the BPF file system is mounted.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// A directory below [`BPFFS`]; dropping it takes its program off every interface of the thread's
/// network namespace and removes it.
#[derive(Debug)]
pub(crate) struct Pins(PathBuf);

impl Pins {
    /// A name that is not in use; the directory itself is not made.
    #[must_use]
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(Path::new(BPFFS).join(format!("siplab-{}-{number}", std::process::id())))
    }

    /// The directory.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for Pins {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(why) = detach(&self.0, Force::Yes) {
            eprintln!("{} was not taken off: {why}", self.0.display());
        }
        if self.0.exists()
            && let Err(why) = fs::remove_dir_all(&self.0)
        {
            eprintln!("{} is left over: {why}", self.0.display());
        }
    }
}
