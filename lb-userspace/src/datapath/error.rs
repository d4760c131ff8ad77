//! What can go wrong between this program and the kernel, each with its remedy.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

/// Oldest kernel that the program is written for.
pub const OLDEST_KERNEL: (u8, u8) = (5, 15);

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "not permitted to {what}: run as root, or give the service CAP_BPF, CAP_PERFMON and \
         CAP_NET_ADMIN (a kernel in lockdown mode `confidentiality` refuses BPF altogether)"
    )]
    NotPermitted { what: String },

    #[error(
        "kernel {found} is older than {}.{}, the oldest that is supported: boot a newer one",
        OLDEST_KERNEL.0,
        OLDEST_KERNEL.1
    )]
    OldKernel { found: String },

    #[error(
        "{} is not on a BPF file system: run `mount -t bpf bpf /sys/fs/bpf`, and set pin_dir to a \
         directory below it",
        path.display()
    )]
    NoBpffs { path: PathBuf },

    #[error(
        "pin_dir {} has a dot in one of its names below the mount point, which the BPF file \
         system refuses: choose another name",
        path.display()
    )]
    DotInPinDir { path: PathBuf },

    #[error(
        "pin_dir {} is used by a running instance ({}): stop that one, or give this one another \
         pin_dir",
        path.display(),
        match pid {
            Some(pid) => format!("pid {pid}"),
            None => "its pid is not visible from here".to_owned(),
        }
    )]
    Locked { path: PathBuf, pid: Option<u32> },

    #[error(
        "interface {name} does not exist; there are {}",
        if existing.is_empty() { "none".to_owned() } else { existing.join(", ") }
    )]
    NoInterface { name: String, existing: Vec<String> },

    #[error(
        "interface {interface} already runs XDP program {program}{}, which is not ours and was \
         left alone: stop what loaded it, or remove it with `ip link set dev {interface} xdp off`",
        match program_name {
            Some(name) => format!(" (`{name}`)"),
            None => String::new(),
        }
    )]
    ForeignProgram { interface: String, program: u32, program_name: Option<String> },

    #[error("interface {interface} refused the program in {mode} mode: {cause}{}", hint(.mode, .cause))]
    Attach { interface: String, mode: &'static str, cause: io::Error },

    #[error(
        "interface {interface} was attached without a BPF link, so it cannot be pinned: remove it \
         with `ip link set dev {interface} xdp off`"
    )]
    NoLink { interface: String },

    #[error(
        "the maps in {} have another layout than this binary's v{layout:016x}: use the version \
         that made them, or start this one, which carries their dialogs over",
        path.display()
    )]
    OtherLayout { path: PathBuf, layout: u64 },

    #[error(
        "there is no {kind} named {name} where there must be one: this binary was built wrongly, or a pin was removed"
    )]
    Incomplete { kind: &'static str, name: &'static str },

    #[error("the embedded program cannot be read: {0}")]
    Object(String),

    #[error("the kernel refused program {program}: {cause}; its verifier says: {log}")]
    Refused { program: &'static str, cause: io::Error, log: String },

    #[error(transparent)]
    Map(#[from] crate::maps::MapError),

    #[error("cannot {what}: {cause}")]
    Kernel { what: String, cause: io::Error },

    #[error(
        "a packet of {len} bytes cannot be run: the kernel takes {} to {} bytes of Ethernet frame",
        super::testrun::SHORTEST,
        super::testrun::LONGEST
    )]
    FrameLength { len: usize },
}

/// What an error number of a driver usually means.
fn hint(mode: &str, cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::EOPNOTSUPP) if mode == "native" => {
            " (the driver has no native XDP: use xdp_mode: generic)"
        }
        Some(libc::ERANGE | libc::EINVAL) if mode == "native" => {
            " (often an MTU too large for XDP: try 1500, on a veth pair at both ends)"
        }
        Some(libc::EEXIST) => " (another XDP program runs there in the other mode)",
        Some(libc::ENODEV) => " (it has just vanished)",
        _ => "",
    }
}

impl Error {
    /// A refusal of the kernel while doing `what` ("pin map X").
    pub(crate) fn kernel(what: impl Into<String>, cause: io::Error) -> Self {
        match cause.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { what: what.into() },
            _ => Self::Kernel { what: what.into(), cause },
        }
    }

    /// As [`Error::kernel`], for an error of a library that has the kernel's below it.
    pub(crate) fn aya(
        what: impl Into<String>,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::kernel(what, io_error(&cause))
    }

    /// `cause` is what aya said to the load of program `program`.
    pub(crate) fn load(program: &'static str, cause: ProgramError) -> Self {
        if let ProgramError::LoadError { io_error, verifier_log } = &cause
            && io_error.raw_os_error() != Some(libc::EPERM)
        {
            let log = last_lines(&verifier_log.to_string(), 12);
            return Self::Refused { program, cause: self::io_error(&cause), log };
        }
        Self::aya(format!("load program {program}"), cause)
    }

    /// `cause` is what aya said to the object as a whole.
    pub(crate) fn object(cause: EbpfError) -> Self {
        if let EbpfError::MapError(cause) = cause {
            let what = if let MapError::CreateError { name, .. }
            | MapError::PinError { name: Some(name), .. } = &cause
            {
                format!("make map {name}")
            } else {
                "make the maps".to_owned()
            };
            return Self::aya(what, cause);
        }
        Self::Object(chain(&cause))
    }
}

/// The system call's error below an error of a library; without one, its whole text.
pub(crate) fn io_error(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let mut link = Some(error);
    while let Some(error) = link {
        if let Some(number) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(number);
        }
        link = error.source();
    }
    io::Error::other(chain(error))
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The last `count` lines that say something, in one line.
fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_for_lack_of_rights_names_the_capabilities() {
        let error = Error::kernel("make map DIALOGS", io::Error::from_raw_os_error(libc::EPERM));
        let text = error.to_string();
        assert!(text.contains("make map DIALOGS") && text.contains("CAP_NET_ADMIN"), "{text}");
    }

    #[test]
    fn the_error_number_below_an_error_of_aya_is_found() {
        let cause = ProgramError::MapError(MapError::CreateError {
            name: "DIALOGS".into(),
            io_error: io::Error::from_raw_os_error(libc::ENOMEM),
        });
        assert_eq!(io_error(&cause).raw_os_error(), Some(libc::ENOMEM));
        let text = io_error(&ProgramError::NotLoaded).to_string();
        assert!(text.contains("not loaded"), "{text}");
    }

    #[test]
    fn only_the_end_of_a_verifier_log_is_shown() {
        assert_eq!(last_lines("1\n\n 2 \n3\n", 2), "2 | 3");
        assert_eq!(last_lines("", 2), "");
    }

    #[test]
    fn a_large_mtu_is_named_as_the_usual_reason() {
        let error = Error::Attach {
            interface: "veth0".into(),
            mode: "native",
            cause: io::Error::from_raw_os_error(libc::ERANGE),
        };
        assert!(error.to_string().contains("MTU"), "{error}");
    }
}
