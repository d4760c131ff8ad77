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

    /// Brings the package lists up to date, once.
    pub(crate) fn update(&self) {
        static UPDATED: OnceLock<()> = OnceLock::new();
        if UPDATED.set(()).is_ok() {
            // An unreachable third-party source is no reason to stop: the install says what it lacks.
            if let Err(why) = exec::run(Command::new("apt-get").args(["update", "-q"])) {
                println!("{why}; going on with the package lists as they are");
            }
        }
    }

    /// Installs the packages; services that come with them are neither started nor enabled.
    pub(crate) fn install(&self, packages: &[&str]) -> Result<()> {
        println!("installing Debian packages: {}", packages.join(" "));
        self.update();
        let before = enabled();
        let _policy = NoDaemons::set()?;
        exec::run(
            Command::new("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["install", "-y", "-q", "--no-remove", "--no-install-recommends"])
                .args(["-o", "Dpkg::Use-Pty=0"])
                .args(packages),
        )?;
        let after = enabled();
        let units: Vec<_> = after.units.difference(&before.units).collect();
        if !units.is_empty() && exec::have("systemctl") {
            exec::run(Command::new("systemctl").args(["disable", "--quiet"]).args(&units))?;
        }
        // Most services come with both; `systemctl` has turned off the scripts of its units.
        for script in enabled().scripts.difference(&before.scripts) {
            exec::run(Command::new("update-rc.d").args([script, "disable"]))?;
        }
        Ok(())
    }
}

/// What starts at boot.
struct Enabled {
    /// Services and timers of systemd.
    units: BTreeSet<String>,
    /// Init scripts, in systems without systemd.
    scripts: BTreeSet<String>,
}

fn enabled() -> Enabled {
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let systemd = Path::new("/etc/systemd/system");
    let wanted = names(systemd).into_iter().filter(|name| name.ends_with(".wants"));
    let units = wanted.flat_map(|wants| names(&systemd.join(wants)));
    // `S01kamailio`: S is for start, then comes the order.
    let scripts = ["/etc/rc2.d", "/etc/rc3.d", "/etc/rc5.d"].map(Path::new).into_iter();
    let scripts = scripts.flat_map(names).filter(|name| name.starts_with('S'));
    Enabled {
        units: units
            .filter(|unit| unit.ends_with(".service") || unit.ends_with(".timer"))
            .collect(),
        scripts: scripts.filter_map(|name| name.get(3..).map(str::to_owned)).collect(),
    }
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
