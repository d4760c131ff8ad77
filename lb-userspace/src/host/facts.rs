//! Facts about this host that netlink does not tell, read once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::netlink::{LinkKind, Network, Offloads, offloads};

use super::{Wanted, paths};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// As `uname -r` prints it.
    pub kernel_release: String,
    /// Bit mask by capability number (`capabilities(7)`).
    pub capabilities: u64,
    /// net.core.bpf_jit_enable; `None` where the kernel does not show it (such as in a network
    /// namespace).
    pub bpf_jit: Option<u32>,
    pub pin_dir: PinDir,
    pub ip_forward: Option<u32>,
    /// Settings that apply to all devices together with the device's own.
    pub all: DeviceSettings,
    /// By name, of the devices that packets of the services pass.
    pub devices: BTreeMap<String, DeviceSettings>,
    /// By name, of the configured interfaces and, for veths, their peers; absent where the
    /// driver does not tell.
    pub offloads: BTreeMap<String, Offloads>,
}

/// Where the pin directory would be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PinDir {
    #[default]
    OnBpffs,
    /// The nearest directory that exists, which is on another file system.
    Elsewhere(PathBuf),
}

/// Below /proc/sys/net/{ipv4,ipv6}/conf/DEVICE; `None` where the family is not on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceSettings {
    pub ipv4_forwarding: Option<u32>,
    pub accept_local: Option<u32>,
    pub rp_filter: Option<u32>,
    pub send_redirects: Option<u32>,
    pub ipv6_forwarding: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}")]
pub struct FactsError {
    path: PathBuf,
    #[source]
    cause: io::Error,
}

impl HostFacts {
    /// Reads what [`super::check`] wants to know; /proc shows the network namespace of the
    /// calling thread.
    ///
    /// # Errors
    /// /proc is not mounted, or does not look like Linux's.
    pub async fn read(wanted: &Wanted, network: &Network) -> Result<Self, FactsError> {
        let mut facts = Self::read_files(Path::new("/proc"), wanted, network)?;
        for interface in &wanted.interfaces {
            let Some(link) = network.link_by_name(interface) else { continue };
            let peer = match &link.kind {
                LinkKind::Veth { peer } => peer.and_then(|peer| network.links.get(&peer)),
                LinkKind::Ethernet
                | LinkKind::Loopback
                | LinkKind::Vlan { .. }
                | LinkKind::Macvlan { .. }
                | LinkKind::Bridge
                | LinkKind::Bond
                | LinkKind::Dummy
                | LinkKind::Vrf
                | LinkKind::Other(_) => None,
            };
            for name in [Some(link), peer].into_iter().flatten().map(|link| &link.name) {
                match offloads(name).await {
                    Ok(found) => drop(facts.offloads.insert(name.clone(), found)),
                    // Not every driver has them; then there is nothing to check.
                    Err(error) => tracing::debug!(%error, "offloads are unknown"),
                }
            }
        }
        Ok(facts)
    }

    fn read_files(proc: &Path, wanted: &Wanted, network: &Network) -> Result<Self, FactsError> {
        let sys = proc.join("sys");
        let devices: BTreeSet<u32> = [true, false]
            .into_iter()
            .flat_map(|ipv4| paths::all_devices(wanted, network, ipv4))
            .collect();
        let devices = paths::links(network, &devices).into_iter().map(|link| link.name.clone());
        let status = read(&proc.join("self/status"))?;
        Ok(Self {
            kernel_release: read(&sys.join("kernel/osrelease"))?.trim().to_owned(),
            capabilities: effective_capabilities(&status).ok_or_else(|| FactsError {
                path: proc.join("self/status"),
                cause: io::Error::new(io::ErrorKind::InvalidData, "no CapEff line"),
            })?,
            bpf_jit: number(&sys.join("net/core/bpf_jit_enable")),
            pin_dir: pin_dir(&wanted.pin_dir),
            ip_forward: number(&sys.join("net/ipv4/ip_forward")),
            all: DeviceSettings::read(&sys, "all"),
            devices: devices
                .map(|name| (name.clone(), DeviceSettings::read(&sys, &name)))
                .collect(),
            offloads: BTreeMap::new(),
        })
    }
}

impl DeviceSettings {
    fn read(sys: &Path, device: &str) -> Self {
        let value = |family: &str, key: &str| {
            number(&sys.join("net").join(family).join("conf").join(device).join(key))
        };
        Self {
            ipv4_forwarding: value("ipv4", "forwarding"),
            accept_local: value("ipv4", "accept_local"),
            rp_filter: value("ipv4", "rp_filter"),
            send_redirects: value("ipv4", "send_redirects"),
            ipv6_forwarding: value("ipv6", "forwarding"),
        }
    }
}

fn read(path: &Path) -> Result<String, FactsError> {
    fs::read_to_string(path).map_err(|cause| FactsError { path: path.to_owned(), cause })
}

/// A setting that may not exist.
fn number(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn pin_dir(wanted: &Path) -> PinDir {
    let existing = wanted.ancestors().find_map(|path| Some((path, statfs(path).ok()?)));
    match existing {
        Some((_, found)) if found.filesystem_type() == BPF_FS_MAGIC => PinDir::OnBpffs,
        Some((path, _)) => PinDir::Elsewhere(path.to_owned()),
        None => PinDir::Elsewhere(wanted.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Wanted, WantedService},
        *,
    };
    use crate::netlink::sample::{Sample, ip};

    /// A directory that looks like /proc as far as it is read; removed at the end.
    struct Proc(PathBuf);

    impl Proc {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("sip-lb-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Proc {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn wanted() -> Wanted {
        let service = WantedService {
            name: "s".into(),
            vips: vec![ip("203.0.113.10")],
            backends: vec![("gw1".into(), ip("10.0.1.9"))],
        };
        let interfaces = vec!["eth0".into()];
        Wanted { interfaces, pin_dir: "/proc/nowhere/sip-lb".into(), services: vec![service] }
    }

    #[test]
    fn values_come_from_the_files_of_the_devices_in_use() {
        let network = Sample::default()
            .link(2, "eth0", LinkKind::Ethernet)
            .link(3, "eth1.5", LinkKind::Ethernet)
            .link(4, "unused", LinkKind::Ethernet)
            .address(3, "10.0.1.1/24")
            .build();
        let conf = "sys/net/ipv4/conf";
        let proc = Proc::new(
            "facts",
            &[
                ("self/status", "Name:\tx\nCapInh:\t0\nCapEff:\t000001ffffffffff\n"),
                ("sys/kernel/osrelease", "6.1.0-1-amd64\n"),
                ("sys/net/ipv4/ip_forward", "1\n"),
                (&format!("{conf}/all/rp_filter"), "2\n"),
                (&format!("{conf}/eth0/forwarding"), "1\n"),
                (&format!("{conf}/eth1.5/accept_local"), "1\n"),
                ("sys/net/ipv6/conf/eth1.5/forwarding", "0\n"),
                (&format!("{conf}/unused/forwarding"), "1\n"),
            ],
        );
        let facts = HostFacts::read_files(&proc.0, &wanted(), &network).unwrap();
        let settings = DeviceSettings::default();
        let expected = HostFacts {
            kernel_release: "6.1.0-1-amd64".into(),
            capabilities: 0x1ff_ffff_ffff,
            bpf_jit: None,
            pin_dir: PinDir::Elsewhere("/proc".into()),
            ip_forward: Some(1),
            all: DeviceSettings { rp_filter: Some(2), ..settings },
            devices: [
                ("eth0".into(), DeviceSettings { ipv4_forwarding: Some(1), ..settings }),
                (
                    "eth1.5".into(),
                    DeviceSettings { accept_local: Some(1), ipv6_forwarding: Some(0), ..settings },
                ),
            ]
            .into(),
            offloads: BTreeMap::new(),
        };
        assert_eq!(facts, expected);
    }

    #[test]
    fn a_proc_that_tells_nothing_is_an_error_that_names_the_file() {
        let proc =
            Proc::new("empty", &[("self/status", "Name:\tx\n"), ("sys/kernel/osrelease", "6")]);
        let error = HostFacts::read_files(&proc.0, &wanted(), &Network::default()).unwrap_err();
        assert!(error.to_string().ends_with("self/status"), "{error}");
        let missing = HostFacts::read_files(Path::new("/none"), &wanted(), &Network::default());
        assert_eq!(missing.unwrap_err().to_string(), "cannot read /none/self/status");
    }
}
