//! Installs Debian packages without starting, or leaving enabled, any daemon that they bring.

use std::{
    collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, bail};

use crate::exec;

/// What Debian's packages ask before they start a service; 101 forbids it.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// Where an administrator's own policy waits meanwhile.
const SAVED: &str = "/usr/sbin/policy-rc.d.before-sip-lb";
const OURS: &str =
    "#!/bin/sh\n# Put here by sip-lb's `cargo xtask` while it installs packages.\nexit 101\n";

/// The right to install packages.
pub(crate) struct Apt(());

impl Apt {
    /// An error that names the command to run, unless this is Debian (or like it) and root.
    pub(crate) fn open(packages: &[&str]) -> Result<Self> {
        let packages = packages.join(" ");
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let debian = release.lines().any(|line| {
            (line.starts_with("ID=") || line.starts_with("ID_LIKE=")) && line.contains("debian")
        });
        if !debian || !exec::have("apt-get") {
            bail!("not a Debian system: install what Debian calls {packages}, then run this again");
        }
        if !exec::is_root() {
            bail!("not root: run `sudo apt-get install {packages}`, then run this again");
        }
        Ok(Self(()))
    }

    /// Installs the packages; services that come with them are neither started nor enabled.
    pub(crate) fn install(&self, packages: &[&str]) -> Result<()> {
        static UPDATED: OnceLock<()> = OnceLock::new();
        println!("installing Debian packages: {}", packages.join(" "));
        if UPDATED.set(()).is_ok() {
            // An unreachable third-party source is no reason to stop: the install says what it lacks.
            if let Err(why) = exec::run(Command::new("apt-get").args(["update", "-q"])) {
                println!("{why}; going on with the package lists as they are");
            }
        }
        let before = units();
        let _policy = NoDaemons::set()?;
        exec::run(
            Command::new("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["install", "-y", "-q", "--no-install-recommends"])
                .args(["-o", "Dpkg::Use-Pty=0"])
                .args(packages),
        )?;
        let added: Vec<_> = units().difference(&before).cloned().collect();
        if !added.is_empty() && exec::have("systemctl") {
            println!("services stay off: {}", added.join(" "));
            exec::run(Command::new("systemctl").args(["disable", "--quiet"]).args(&added))?;
        }
        Ok(())
    }
}

/// Names of the services and timers that are wanted at boot.
fn units() -> BTreeSet<String> {
    let Ok(wants) = fs::read_dir("/etc/systemd/system") else { return BTreeSet::new() };
    wants
        .flatten()
        .filter(|dir| dir.file_name().to_string_lossy().ends_with(".wants"))
        .filter_map(|dir| fs::read_dir(dir.path()).ok())
        .flatten()
        .flatten()
        .map(|unit| unit.file_name().to_string_lossy().into_owned())
        .filter(|unit| unit.ends_with(".service") || unit.ends_with(".timer"))
        .collect()
}

/// While it lives, installed packages start nothing. An existing policy comes back afterwards.
struct NoDaemons;

impl NoDaemons {
    fn set() -> Result<Self> {
        let (policy, saved) = (Path::new(POLICY), Path::new(SAVED));
        // Ours from an interrupted run: what was saved then is still the administrator's.
        let ours = fs::read_to_string(policy).is_ok_and(|text| text == OURS);
        if policy.exists() && !ours {
            fs::rename(policy, saved).with_context(|| format!("{POLICY} cannot be set aside"))?;
        }
        fs::write(policy, OURS).with_context(|| format!("{POLICY} cannot be written"))?;
        fs::set_permissions(policy, fs::Permissions::from_mode(0o755))?;
        Ok(Self)
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        let back = if Path::new(SAVED).exists() {
            fs::rename(SAVED, POLICY)
        } else {
            fs::remove_file(POLICY)
        };
        if let Err(why) = back {
            println!("{POLICY} is still sip-lb's, remove it by hand: {why}");
        }
    }
}
