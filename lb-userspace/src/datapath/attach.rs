//! Attaching the program to interfaces by pinned BPF links.
//!
//! A link never displaces another program, ends with nothing but its pin, and swaps its program
//! atomically.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use aya::programs::{
    links::{FdLink, Link as _},
    loaded_programs,
    xdp::{self, XdpLink},
};
use tracing::{info, warn};

use super::{
    error::{Error, Result, io_error},
    generation::{self, Link},
    interfaces::{self, Mode, Nic},
    live::Live,
    pins,
};
use crate::config::model::XdpMode;

/// An interface that runs the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name; empty if it is not of this network namespace.
    pub interface: String,
    /// 0 = the interface has vanished and its link waits to be removed.
    pub ifindex: u32,
    /// `None` if the interface is not of this network namespace.
    pub mode: Option<Mode>,
    /// Kernel id of the program that the link runs.
    pub program: u32,
}

/// What [`Live::attach`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new link was made.
    Attached(Mode),
    /// The program on an existing link was replaced.
    Replaced(Mode),
    /// The link already ran this program.
    Kept(Mode),
}

/// The links that are pinned in `pin_dir`, whoever made them.
///
/// # Errors
///
/// What the kernel says when they are opened.
pub fn attached(pin_dir: &Path) -> Result<Vec<Attached>> {
    let nics = interfaces::list()?;
    Ok(generation::links(pin_dir)?
        .into_iter()
        .map(|link| {
            let nic = nics.iter().find(|nic| link.ifindex != 0 && nic.ifindex == link.ifindex);
            Attached {
                interface: nic.map(|nic| nic.name.clone()).unwrap_or_default(),
                ifindex: link.ifindex,
                mode: nic.and_then(|nic| mode_of(nic, link.program)),
                program: link.program,
            }
        })
        .collect())
}

impl Live {
    /// Makes `interface` run the program, in the wanted mode. May be called at any time and again.
    ///
    /// # Errors
    ///
    /// [`Error::NoInterface`], [`Error::ForeignProgram`] (which is left alone), or what the driver
    /// says. With `auto`, a driver that refuses native mode is only warned about.
    pub fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<Change> {
        let nic = interfaces::find(interface)?;
        self.remove_vanished()?;
        let ours = generation::links(self.pins.path())?
            .into_iter()
            .find(|link| link.ifindex == nic.ifindex);
        if let Some(link) = ours {
            let now = mode_of(&nic, link.program).unwrap_or(Mode::Native);
            if suits(now, mode) {
                return self.take_over(&nic, link, now);
            }
            info!(interface, from = now.label(), "attaching anew in another mode");
            take_off(link, &nic)?;
        } else if let Some(&(_, program)) = nic.programs.first() {
            return Err(foreign(&nic.name, program));
        }

        let mode = match mode {
            XdpMode::Native => self.attach_new(&nic, Mode::Native)?,
            XdpMode::Generic => self.attach_new(&nic, Mode::Generic)?,
            XdpMode::Auto => match self.attach_new(&nic, Mode::Native) {
                Err(native @ Error::Attach { .. }) => {
                    let mode = self.attach_new(&nic, Mode::Generic)?;
                    warn!(interface, "{native}; using generic mode, which is slower");
                    mode
                }
                other => other?,
            },
        };
        info!(interface, mode = mode.label(), program = self.program, "attached");
        Ok(Change::Attached(mode))
    }

    /// Takes the program off every interface but those of `keep`, by index. Returns the others'.
    ///
    /// # Errors
    ///
    /// If a pin cannot be removed.
    pub fn detach_others(&mut self, keep: &[u32]) -> Result<Vec<u32>> {
        let mut removed = Vec::new();
        for link in generation::links(self.pins.path())? {
            if !keep.contains(&link.ifindex) {
                pins::remove_file(&link.path)?;
                info!(ifindex = link.ifindex, "detached");
                removed.push(link.ifindex);
            }
        }
        Ok(removed)
    }

    /// Removes the links of interfaces that have vanished. Returns how many there were.
    ///
    /// # Errors
    ///
    /// If a pin cannot be removed.
    pub fn remove_vanished(&mut self) -> Result<usize> {
        let mut removed = 0;
        for link in generation::links(self.pins.path())? {
            if link.ifindex == 0 {
                pins::remove_file(&link.path)?;
                info!(link = %link.path.display(), "removed the link of a vanished interface");
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Makes a link that this or an earlier controller pinned run the program.
    pub(super) fn take_over(&mut self, nic: &Nic, link: Link, mode: Mode) -> Result<Change> {
        if link.program == self.program {
            return Ok(Change::Kept(mode));
        }
        let what = || format!("replace the program on {}", nic.name);
        let before = link.program;
        let link = XdpLink::try_from(link.link).map_err(|cause| Error::aya(what(), cause))?;
        let id = self.balancer.attach_to_link(link).map_err(|cause| Error::aya(what(), cause))?;
        // Dropping the descriptor leaves the pin, and with it the link.
        self.balancer
            .take_link(id)
            .and_then(XdpLink::detach)
            .map_err(|cause| Error::aya(what(), cause))?;
        info!(interface = nic.name, before, program = self.program, "program replaced");
        Ok(Change::Replaced(mode))
    }

    fn attach_new(&mut self, nic: &Nic, mode: Mode) -> Result<Mode> {
        let flags = match mode {
            Mode::Native => xdp::XdpMode::Driver,
            Mode::Generic => xdp::XdpMode::Skb,
            Mode::Offloaded => xdp::XdpMode::Hardware,
        };
        let id = match self.balancer.attach_to_if_index(nic.ifindex, flags) {
            Ok(id) => id,
            Err(cause) => return Err(refusal(nic, mode, io_error(&cause))),
        };
        let what = || format!("pin the link of {}", nic.name);
        let link = self.balancer.take_link(id).map_err(|cause| Error::aya(what(), cause))?;
        // Without a descriptor of its own the link came about by netlink, which cannot be pinned.
        let Ok(link) = FdLink::try_from(link) else {
            return Err(Error::NoLink { interface: nic.name.clone() });
        };
        let path = self.pins.links().join(nic.ifindex.to_string());
        link.pin(&path).map_err(|cause| Error::aya(what(), cause))?;
        Ok(mode)
    }
}

/// Why a new link was refused: another program that came first, or the driver.
fn refusal(nic: &Nic, mode: Mode, cause: std::io::Error) -> Error {
    match cause.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            let now = interfaces::find(&nic.name).ok();
            match now.as_ref().and_then(|now| now.programs.first()) {
                Some(&(_, program)) => foreign(&nic.name, program),
                None => Error::Attach { interface: nic.name.clone(), mode: mode.label(), cause },
            }
        }
        Some(libc::EPERM) => Error::kernel(format!("attach to {}", nic.name), cause),
        _ => Error::Attach { interface: nic.name.clone(), mode: mode.label(), cause },
    }
}

fn foreign(interface: &str, program: u32) -> Error {
    let program_name = loaded_programs()
        .flatten()
        .find(|info| info.id() == program)
        .and_then(|info| info.name_as_str().map(str::to_owned));
    Error::ForeignProgram { interface: interface.to_owned(), program, program_name }
}

pub(super) fn mode_of(nic: &Nic, program: u32) -> Option<Mode> {
    nic.programs.iter().find(|(_, id)| *id == program).map(|(mode, _)| *mode)
}

/// True if a link in mode `now` is what the configuration asks for.
const fn suits(now: Mode, wanted: XdpMode) -> bool {
    match wanted {
        XdpMode::Auto => true,
        XdpMode::Native => matches!(now, Mode::Native),
        XdpMode::Generic => matches!(now, Mode::Generic),
    }
}

/// Removes a link and waits until its interface is free.
fn take_off(link: Link, nic: &Nic) -> Result<()> {
    pins::remove_file(&link.path)?;
    let program = link.program;
    drop(link);
    await_detached(&[(nic.ifindex, program)])
}

/// The kernel ends a link some milliseconds after its last pin: waits until none of the programs is
/// on its interface any more.
pub(super) fn await_detached(programs: &[(u32, u32)]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let nics = interfaces::list()?;
        let left = programs.iter().find(|(ifindex, program)| {
            nics.iter().any(|nic| {
                nic.ifindex == *ifindex && nic.programs.iter().any(|(_, id)| id == program)
            })
        });
        let Some((ifindex, program)) = left else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(Error::Kernel {
                what: format!("take program {program} off interface {ifindex}"),
                cause: std::io::Error::other("it is still there: something else holds its link"),
            });
        }
        thread::sleep(Duration::from_millis(2));
    }
}
