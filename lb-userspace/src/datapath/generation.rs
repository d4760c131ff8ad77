//! Generations of pinned maps, and which of them the links run on.
//!
//! A generation is a directory with a full set of maps and the program that uses them. Changing
//! capacities or the layout makes a new one beside the old; at any moment a crash leaves enough
//! behind to tell which one carries the traffic.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::programs::{
    ProgramInfo,
    links::{FdLink, PinnedLink},
};
use lb_common::maps::{LAYOUT, program};

use super::{
    error::{Error, Result},
    fdinfo, pins,
};

const NEW: &str = "-new";
const OLD: &str = "-old";

/// Directory name of this layout's generation.
pub(crate) fn current_name() -> String {
    format!("v{LAYOUT:016x}")
}

/// A generation found below the pin directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Generation {
    pub path: PathBuf,
    pub name: String,
    /// Ids of its balancer programs: one, or two while links move from one build to the next.
    pub programs: Vec<u32>,
}

impl Generation {
    /// True if it has the layout of this binary, be it the current or the former one.
    pub(crate) fn has_our_layout(&self) -> bool {
        self.name.strip_suffix(OLD).unwrap_or(&self.name) == current_name()
    }
}

/// True for a directory that [`list`] or [`staging`] may name.
pub(crate) fn is_generation(name: &str) -> bool {
    let bare = name.strip_suffix(NEW).or_else(|| name.strip_suffix(OLD)).unwrap_or(name);
    bare.strip_prefix('v')
        .is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

pub(crate) fn current(pin_dir: &Path) -> PathBuf {
    pin_dir.join(current_name())
}

pub(crate) fn staging(pin_dir: &Path) -> PathBuf {
    pin_dir.join(current_name() + NEW)
}

fn former(pin_dir: &Path) -> PathBuf {
    pin_dir.join(current_name() + OLD)
}

/// All finished generations.
pub(crate) fn list(pin_dir: &Path) -> Result<Vec<Generation>> {
    pins::names(pin_dir)?
        .into_iter()
        .filter(|name| is_generation(name) && !name.ends_with(NEW))
        .map(|name| {
            let path = pin_dir.join(&name);
            let programs = balancers(&path)?;
            Ok(Generation { path, name, programs })
        })
        .collect()
}

/// Ids of the balancers that are pinned in a generation.
fn balancers(directory: &Path) -> Result<Vec<u32>> {
    let prefix = format!("{}_", program::SIP_LB);
    pins::names(directory)?
        .into_iter()
        .filter(|name| name.starts_with(&prefix))
        .map(|name| {
            let path = directory.join(name);
            let info = ProgramInfo::from_pin(&path)
                .map_err(|cause| Error::aya(format!("open {}", path.display()), cause))?;
            Ok(info.id())
        })
        .collect()
}

/// Where a program of the build `build` is pinned.
pub(crate) fn program_pin(directory: &Path, program: &str, build: u64) -> PathBuf {
    directory.join(format!("{program}_{build:016x}"))
}

/// Removes the pins of all programs in `directory` but those of `build`. Links keep what they run.
pub(crate) fn remove_other_programs(directory: &Path, build: u64) -> Result<()> {
    let programs = [program::SIP_LB, program::HEARTBEAT];
    let keep = programs.map(|program| program_pin(directory, program, build));
    for name in pins::names(directory)? {
        let is_program = programs
            .iter()
            .any(|program| name.strip_prefix(program).is_some_and(|rest| rest.starts_with('_')));
        let path = directory.join(name);
        if is_program && !keep.contains(&path) {
            pins::remove_file(&path)?;
        }
    }
    Ok(())
}

/// A pinned link.
#[derive(Debug)]
pub(crate) struct Link {
    pub path: PathBuf,
    pub link: FdLink,
    /// 0 = its interface has vanished.
    pub ifindex: u32,
    /// Id of the program that it runs.
    pub program: u32,
}

/// All pinned links.
pub(crate) fn links(pin_dir: &Path) -> Result<Vec<Link>> {
    let directory = pin_dir.join(pins::LINKS);
    pins::names(&directory)?
        .into_iter()
        .map(|name| {
            let path = directory.join(name);
            let open = |cause| Error::aya(format!("open pinned link {}", path.display()), cause);
            let link = FdLink::from(PinnedLink::from_pin(&path).map_err(open)?);
            let program = link.info().map_err(open)?.program_id();
            let ifindex = fdinfo::ifindex(&link)?;
            Ok(Link { path, link, ifindex, program })
        })
        .collect()
}

/// The generation that carries the traffic: the one whose program a link runs; without links the
/// finished one of this layout, else any other.
pub(crate) fn live(generations: &[Generation], running: &[u32]) -> Option<Generation> {
    generations
        .iter()
        .find(|generation| generation.programs.iter().any(|id| running.contains(id)))
        .or_else(|| generations.iter().find(|generation| generation.name == current_name()))
        .or_else(|| generations.iter().find(|generation| generation.has_our_layout()))
        .or_else(|| generations.first())
        .cloned()
}

/// Makes the staged generation the current one. The live one, if it stands in the way, steps
/// aside under another name until [`remove_former`].
pub(crate) fn promote(pin_dir: &Path, live: Option<&Generation>) -> Result<()> {
    let current = current(pin_dir);
    if current.exists() {
        if live.is_some_and(|live| live.path == current) {
            pins::remove_tree(&former(pin_dir))?;
            rename(&current, &former(pin_dir))?;
        } else {
            pins::remove_tree(&current)?;
        }
    }
    rename(&staging(pin_dir), &current)
}

/// If `live` is a former generation of this layout, gives it back its name, over whatever has that
/// name: no link runs that. Returns where it lies now.
pub(crate) fn restore(pin_dir: &Path, live: Generation) -> Result<Generation> {
    if live.path != former(pin_dir) {
        return Ok(live);
    }
    let current = current(pin_dir);
    pins::remove_tree(&current)?;
    rename(&live.path, &current)?;
    Ok(Generation { path: current, name: current_name(), programs: live.programs })
}

/// Removes every generation but the current one; no link may run them any more.
pub(crate) fn remove_former(pin_dir: &Path) -> Result<()> {
    for name in pins::names(pin_dir)? {
        if is_generation(&name) && name != current_name() {
            pins::remove_tree(&pin_dir.join(name))?;
        }
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|cause| {
        Error::kernel(format!("rename {} to {}", from.display(), to.display()), cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(name: &str, program: u32) -> Generation {
        let path = Path::new("/pins").join(name);
        Generation { path, name: name.to_owned(), programs: vec![program] }
    }

    #[test]
    fn only_directories_of_our_making_are_generations() {
        for (name, is) in [
            ("v0123456789abcdef", true),
            ("v0123456789abcdef-new", true),
            ("v0123456789abcdef-old", true),
            ("v0123456789abcde", false),
            ("v0123456789abcdeg", false),
            ("links", false),
            ("cilium", false),
        ] {
            assert_eq!(is_generation(name), is, "{name}");
        }
    }

    #[test]
    fn the_generation_that_a_link_runs_is_live_whatever_its_name() {
        let current = current_name();
        let old = current.clone() + OLD;
        let all =
            [generation("v0000000000000000", 1), generation(&current, 2), generation(&old, 3)];
        let live_name = |running: &[u32]| live(&all, running).unwrap().name;
        assert_eq!(live_name(&[3]), old);
        assert_eq!(live_name(&[1]), "v0000000000000000");
        assert_eq!(live_name(&[2, 1]), "v0000000000000000", "a link was not yet moved");
        assert_eq!(live_name(&[]), current);
        assert_eq!(live_name(&[99]), current);
        assert_eq!(live(&all[..1], &[]).unwrap().name, "v0000000000000000");
        assert_eq!(live(&[], &[3]), None);
    }
}
