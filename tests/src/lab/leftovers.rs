//! Removes laboratories whose process is gone.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{DIRECTORY, KEPT, PREFIX, host::NAMESPACES, pin_dir, remove_directory};
use crate::command::{command, output};

/// Removes what killed processes left behind, but for laboratories that were kept on purpose.
pub(super) fn remove_stale() -> Result<()> {
    remove(|lab| !lab.kept()).map(|_count| ())
}

/// Removes the laboratories that were kept, with all that runs in them; their number.
///
/// # Errors
/// Names the command that failed.
pub fn remove_kept() -> Result<usize> {
    remove(Leftover::kept)
}

fn remove(which: impl Fn(&Leftover) -> bool) -> Result<usize> {
    let mut count = 0;
    for lab in leftovers()?.iter().filter(|lab| which(lab)) {
        lab.remove().with_context(|| format!("laboratory {}", lab.id))?;
        count += 1;
    }
    Ok(count)
}

/// A laboratory without the process that made it.
struct Leftover {
    /// Process and number.
    id: String,
    namespaces: Vec<String>,
}

impl Leftover {
    fn kept(&self) -> bool {
        Path::new(DIRECTORY).join(&self.id).join(KEPT).exists()
    }

    fn remove(&self) -> Result<()> {
        for namespace in &self.namespaces {
            // Who made the namespace is gone: what still runs in it was started by it.
            let pids = output(command("ip").args(["netns", "pids", namespace]));
            for pid in pids.unwrap_or_default().lines() {
                // It may have ended by itself meanwhile.
                let _ended = kill(Pid::from_raw(pid.trim().parse()?), Signal::SIGKILL);
            }
            let removed = output(command("ip").args(["netns", "delete", namespace]));
            // Another process may tidy up at the same time.
            if Path::new(NAMESPACES).join(namespace).exists() {
                removed?;
            }
        }
        for path in [Path::new(DIRECTORY).join(&self.id), pin_dir(&format!("{PREFIX}-{}", self.id))]
        {
            remove_directory(&path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

fn leftovers() -> Result<Vec<Leftover>> {
    let mut found: Vec<Leftover> = Vec::new();
    let mut add = |id: &str, namespace: Option<String>| {
        let gone = owner(id).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if !gone {
            return;
        }
        match found.iter_mut().find(|lab| lab.id == id) {
            Some(lab) => lab.namespaces.extend(namespace),
            None => found
                .push(Leftover { id: id.to_owned(), namespaces: namespace.into_iter().collect() }),
        }
    };
    for name in names(NAMESPACES)? {
        if let Some(id) = lab_of(&name) {
            let id = id.to_owned();
            add(&id, Some(name));
        }
    }
    for id in names(DIRECTORY)? {
        add(&id, None);
    }
    Ok(found)
}

/// `12-0` of `siplab-12-0-edge`.
fn lab_of(namespace: &str) -> Option<&str> {
    let rest = namespace.strip_prefix(PREFIX)?.strip_prefix('-')?;
    let (number, _host) = rest.match_indices('-').nth(1)?;
    Some(&rest[..number])
}

/// The process of a laboratory.
fn owner(id: &str) -> Option<u32> {
    id.split_once('-')?.0.parse().ok()
}

/// Names in a directory; none if there is no such directory.
fn names(directory: &str) -> Result<Vec<String>> {
    if !Path::new(directory).exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(directory).with_context(|| directory.to_owned())?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_tells_its_laboratory_and_process() {
        assert_eq!(lab_of("siplab-12-0-edge"), Some("12-0"));
        assert_eq!(lab_of("siplab-12-0"), None);
        assert_eq!(lab_of("other-12-0-edge"), None);
        assert_eq!(owner("12-0"), Some(12));
        assert_eq!(owner("x"), None);
    }
}
