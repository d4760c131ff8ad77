//! A laboratory on one machine: hosts are network namespaces, and networks are Linux bridges in
//! one more namespace, the switch.
//!
//! Nothing outside of the namespaces is touched. [`Lab`] removes them when it goes; those left by
//! a process that was killed are removed by the next [`Lab::new`].

mod host;
mod leftovers;
mod pass;
mod site;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

pub use self::{
    host::Host,
    leftovers::remove_kept,
    site::{Arms, Plan, Site},
};

/// What namespaces of laboratories begin with; then the process, a number, the host.
const PREFIX: &str = "siplab";
/// Logs and configuration files of all laboratories.
const DIRECTORY: &str = "/run/sip-lb-lab";
/// Where BPF objects are pinned. It is the machine's: namespaces do not separate it.
const BPFFS: &str = "/sys/fs/bpf";
/// Beside the logs of a laboratory that outlives its process.
const KEPT: &str = "kept";
/// A laboratory.
#[derive(Debug)]
pub struct Lab {
    /// Of this laboratory's namespaces.
    prefix: String,
    directory: PathBuf,
    switch: Host,
    hosts: Vec<Host>,
    networks: Vec<String>,
    /// Object file of the XDP program on the switch's ports.
    pass: PathBuf,
    kept: bool,
}

impl Lab {
    /// An empty laboratory with its switch.
    ///
    /// # Errors
    /// If namespaces cannot be made (root is needed); the command that failed is named.
    pub fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        leftovers::remove_stale()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", std::process::id());
        let directory = Path::new(DIRECTORY).join(&id);
        fs::create_dir_all(&directory)
            .with_context(|| format!("{} cannot be made: be root", directory.display()))?;
        let prefix = format!("{PREFIX}-{id}");
        let switch = Host::new(&prefix, "switch")?;
        let pass = directory.join("pass.o");
        fs::write(&pass, pass::object_file()?)
            .with_context(|| format!("{} cannot be written", pass.display()))?;
        let (hosts, networks) = (Vec::new(), Vec::new());
        let lab = Self { prefix, directory, switch, hosts, networks, pass, kept: false };
        lab.switch.create()?;
        Ok(lab)
    }

    /// Adds a host without any NIC; its loopback is up.
    ///
    /// # Errors
    /// If the namespace cannot be made.
    pub fn host(&mut self, name: &str) -> Result<Host> {
        let host = Host::new(&self.prefix, name)?;
        // Known before it is made: whatever happens, it is removed.
        self.hosts.push(host.clone());
        host.create()?;
        Ok(host)
    }

    /// Gives a host a NIC (one end of a veth pair) in a network, which is made if it is new.
    ///
    /// Offloads are off, so that frames look as they would on a wire. The switch's end runs an XDP
    /// program that lets everything pass: only then does a veth receive what its peer sends by
    /// `XDP_TX`.
    ///
    /// # Errors
    /// Names the command that failed.
    pub fn plug(&mut self, host: &Host, nic: &str, network: &str) -> Result<()> {
        let bridge = format!("br-{network}");
        if !self.networks.iter().any(|known| known == network) {
            // Snooping would keep neighbour solicitations from ports that it has not learned.
            self.switch
                .ip(&[&format!("link add name {bridge} up type bridge mcast_snooping 0")])?;
            self.networks.push(network.to_owned());
        }
        let port = port_name(host, nic);
        self.switch.ip(&[
            &format!("link add {port} type veth peer name {nic} netns {}", host.namespace()),
            &format!("link set {port} master {bridge} up"),
            &format!(
                "link set {port} xdpdrv obj {} section {}",
                self.pass.display(),
                pass::SECTION
            ),
        ])?;
        self.switch.shell(&format!("ethtool -K {port} {OFFLOADS}"))?;
        host.shell(&format!("ethtool -K {nic} {OFFLOADS}"))?;
        host.ip(&[&format!("link set {nic} up")])
    }

    /// Pulls the cable of a host: no carrier, nothing arrives.
    ///
    /// # Errors
    /// If there is no such NIC.
    pub fn pull_cable(&self, host: &Host, nic: &str) -> Result<()> {
        self.switch.ip(&[&format!("link set {} down", port_name(host, nic))])
    }

    /// Undoes [`Self::pull_cable`].
    ///
    /// # Errors
    /// If there is no such NIC.
    pub fn push_cable(&self, host: &Host, nic: &str) -> Result<()> {
        self.switch.ip(&[&format!("link set {} up", port_name(host, nic))])
    }

    /// Where logs and configuration files of this laboratory go.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A `pin_dir` for sip-lb that no other laboratory uses. It goes with this one.
    #[must_use]
    pub fn pin_dir(&self) -> PathBuf {
        pin_dir(&self.prefix)
    }

    /// All hosts, in the order in which they were added.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Leaves namespaces and logs in place when this value goes; [`remove_kept`] removes them.
    ///
    /// # Errors
    /// If the mark cannot be written.
    pub fn keep(&mut self) -> Result<()> {
        fs::write(self.directory.join(KEPT), "")?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for host in self.hosts.iter().chain([&self.switch]) {
            if let Err(why) = host.remove() {
                eprintln!("{} is left over: {why:#}", host.namespace());
            }
        }
        if let Err(why) = remove_directory(&self.pin_dir()) {
            eprintln!("{} is left over: {why}", self.pin_dir().display());
        }
        // A failed test leaves its logs.
        if !std::thread::panicking()
            && let Err(why) = remove_directory(&self.directory)
        {
            eprintln!("{} is left over: {why}", self.directory.display());
        }
    }
}

fn pin_dir(prefix: &str) -> PathBuf {
    Path::new(BPFFS).join(prefix)
}

/// Removes a directory with all that is in it, if it is there.
fn remove_directory(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(why),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Checksums filled in and VLAN tags in the frame, as on a wire.
const OFFLOADS: &str = "tx off rx off txvlan off rxvlan off";

/// The switch's end of a host's cable; interface names have at most 15 bytes.
fn port_name(host: &Host, nic: &str) -> String {
    format!("{}.{nic}", host.name())
}
