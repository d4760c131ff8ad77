//! Kernel, capabilities, JIT, BPF file system.

use super::{Finding, HostFacts, Wanted, facts::PinDir};

/// Oldest kernel that has all that the program and its loader use: (major, minor).
const OLDEST_KERNEL: (u32, u32) = (5, 15);

// Numbers of linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

pub(super) fn check(wanted: &Wanted, facts: &HostFacts, findings: &mut Vec<Finding>) {
    let release = &facts.kernel_release;
    match kernel_version(release) {
        Some(version) if version < OLDEST_KERNEL => findings.push(Finding::error(
            format!("kernel {release} is older than 5.15, which the XDP program needs"),
            "boot a newer kernel (Debian 12 has 6.1, Ubuntu 22.04 has 5.15)",
        )),
        Some(_) => {}
        None => findings.push(Finding::warning(
            format!("kernel release `{release}` does not tell whether it is at least 5.15"),
            "see whether the XDP program loads",
        )),
    }

    let has = |capability: u32| facts.capabilities & (1 << capability) != 0;
    let mut missing = Vec::new();
    if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        missing.push("CAP_BPF (load programs and maps)");
    }
    if !has(CAP_NET_ADMIN) {
        missing.push("CAP_NET_ADMIN (attach XDP, resolve neighbours)");
    }
    if !has(CAP_NET_RAW) {
        missing.push("CAP_NET_RAW (answer in the name of VIPs)");
    }
    if !has(CAP_PERFMON) && !has(CAP_SYS_ADMIN) {
        missing.push("CAP_PERFMON (packet access, packets for the controller)");
    }
    if !missing.is_empty() {
        findings.push(Finding::error(
            format!("this process lacks {}", missing.join(" and ")),
            "run it as root, or under systemd with \
             AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_NET_RAW CAP_PERFMON",
        ));
    }

    if facts.bpf_jit == Some(0) {
        findings.push(Finding::warning(
            "net.core.bpf_jit_enable is 0: the XDP program is interpreted, many times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ));
    }

    if let PinDir::Elsewhere(existing) = &facts.pin_dir {
        let pin_dir = wanted.pin_dir.display();
        let remedy = if wanted.pin_dir.starts_with("/sys/fs/bpf") {
            "mount -t bpf bpf /sys/fs/bpf (`ip netns exec` hides that of the host: mount it inside)"
        } else {
            "mount -t bpf bpf on a directory above it, or set pin_dir: /sys/fs/bpf/sip-lb"
        };
        findings.push(Finding::error(
            format!(
                "pin_dir {pin_dir} is not on a BPF file system ({} is not)",
                existing.display()
            ),
            remedy,
        ));
    }
}

/// Major and minor number of a release such as `6.1.0-18-cloud-amd64`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
