//! Waits for a process to open its UDP socket, without sending it anything.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Result;

use crate::process::Process;

/// Waits until there is a UDP socket bound to `address` in the network namespace of the process.
///
/// # Errors
/// If there is none within `limit`, or the process ends.
pub fn wait_for_udp(process: &mut Process, address: SocketAddr, limit: Duration) -> Result<()> {
    let pid = process.id();
    let local = as_in_proc(address);
    let table = if address.is_ipv4() { "udp" } else { "udp6" };
    process.wait_until(&format!("socket {address}"), limit, |_process| {
        // Gone when the process has ended, which the caller looks at.
        let sockets = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        Ok(sockets.lines().any(|line| line.split_whitespace().nth(1) == Some(&local)))
    })
}

/// `address:port` as /proc/net/udp shows it: words of the address in host order, in hexadecimal.
fn as_in_proc(address: SocketAddr) -> String {
    let bytes = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut text = String::new();
    for word in bytes.as_chunks().0 {
        text.push_str(&format!("{:08X}", u32::from_ne_bytes(*word)));
    }
    format!("{text}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn sockets_of_both_families_are_found_where_the_kernel_lists_them() {
        for (local, table) in [("127.0.0.1:0", "udp"), ("[::1]:0", "udp6")] {
            let socket = UdpSocket::bind(local).unwrap();
            let address = as_in_proc(socket.local_addr().unwrap());
            let sockets = fs::read_to_string(format!("/proc/self/net/{table}")).unwrap();
            assert!(sockets.contains(&address), "{address} in {sockets}");
            drop(socket);
            let sockets = fs::read_to_string(format!("/proc/self/net/{table}")).unwrap();
            assert!(!sockets.contains(&address));
        }
    }
}
