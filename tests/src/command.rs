//! Runs short commands; an error names the command and what it said.

use std::{
    ffi::OsStr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Directories of the administrator's commands, which a plain user's `PATH` leaves out.
const SBIN: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// A command that is found in the administrator's directories too.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:{SBIN}"));
    command
}

/// Runs a command that must succeed; its standard output.
///
/// # Errors
/// If it does not start or fails.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("`{shown}` does not start"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("`{shown}` failed ({}): {}", done.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The command as one would type it.
pub(crate) fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_named_with_what_it_said() {
        let text = output(command("sh").args(["-c", "echo out; echo err >&2"])).unwrap();
        assert_eq!(text, "out\n");
        let why = output(command("sh").args(["-c", "echo no such thing >&2; exit 3"])).unwrap_err();
        let why = format!("{why:#}");
        assert!(
            why.contains("sh -c") && why.contains("no such thing") && why.contains('3'),
            "{why}"
        );
        let why = output(&mut command("sip-lb-is-no-such-command")).unwrap_err();
        assert!(format!("{why:#}").contains("does not start"));
    }
}
