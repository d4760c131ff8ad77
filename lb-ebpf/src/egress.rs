//! The way out: the Ethernet header and the interface.

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup},
    helpers::generated::{bpf_fib_lookup, bpf_redirect, bpf_xdp_adjust_head},
};
use lb_common::{
    addr::{Mac, UDP},
    backend::{NextHop, next_hop},
    stats::Event,
    verdict::{Exit, Verdict},
};

use crate::{count, maps, packet::Packet, parse::Datagram, rewrite::nat, service};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Sends an already rewritten packet on by `next_hop` if that is known, else by the kernel's routing table, else hands it to the kernel, which resolves the neighbour.
#[inline(always)]
pub fn send(packet: Packet, datagram: &Datagram, next_hop: &NextHop) -> Result<Exit, Verdict> {
    if is_known(datagram, next_hop) {
        nat::decrement_hop_limit(packet, datagram)?;
        return transmit(packet, datagram, next_hop);
    }
    // Fragments go all one way, see `send_fragment`.
    let found = if next_hop.state == next_hop::VALID || datagram.is_fragment() {
        None
    } else {
        ask_fib(packet, datagram)
    };
    match found {
        Some(next_hop) => {
            nat::decrement_hop_limit(packet, datagram)?;
            transmit(packet, datagram, &next_hop)
        }
        None => {
            count::event(Event::KernelForward);
            Ok(Exit::Pass)
        }
    }
}

/// The same for a later fragment. What has no known next hop is left to the kernel without asking:
/// if that puts datagrams together before it forwards them, it needs all of their fragments.
#[inline(always)]
pub fn send_fragment(
    packet: Packet,
    datagram: &Datagram,
    next_hop: &NextHop,
) -> Result<Exit, Verdict> {
    if !is_known(datagram, next_hop) {
        count::event(Event::KernelForward);
        return Ok(Exit::Pass);
    }
    nat::decrement_hop_limit(packet, datagram)?;
    transmit(packet, datagram, next_hop)
}

#[inline(always)]
fn is_known(datagram: &Datagram, next_hop: &NextHop) -> bool {
    next_hop.state == next_hop::VALID
        && (next_hop.mtu == 0 || datagram.ip_len <= u32::from(next_hop.mtu))
}

/// The first route whose prefix covers the client, as the controller mirrored it.
#[inline(always)]
pub fn route_to(packet: Packet, datagram: &Datagram) -> Result<Option<&'static NextHop>, Verdict> {
    let client = datagram.destination(packet)?.addr;
    let routes = maps::settings()?.routes;
    for row in 0..lb_common::backend::ROUTES {
        if row >= routes {
            break;
        }
        let Some(route) = maps::route(row) else { break };
        if route.covers(&client) {
            return Ok(Some(&route.next_hop));
        }
    }
    Ok(None)
}

#[inline(always)]
fn ask_fib(packet: Packet, datagram: &Datagram) -> Option<NextHop> {
    count::event(Event::FibLookup);
    // SAFETY: a C struct of integers, for which zero is valid.
    let mut query: FibLookup = unsafe { core::mem::zeroed() };
    query.l4_protocol = UDP;
    query.ifindex = packet.ingress();
    query.__bindgen_anon_1.tot_len = datagram.ip_len as u16;
    if datagram.is_v4.is_set() {
        query.family = AF_INET;
        query.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(packet.read(datagram.l3 + 12)?);
        query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(packet.read(datagram.l3 + 16)?);
    } else {
        query.family = AF_INET6;
        query.__bindgen_anon_3.ipv6_src = words(packet, datagram.l3 + 8)?;
        query.__bindgen_anon_4.ipv6_dst = words(packet, datagram.l3 + 24)?;
    }
    // SAFETY: the context is valid, the struct is on the stack and as long as is said. Needs
    // forwarding to be on; any answer but success (no neighbour, too big, not forwarded) means
    // that the kernel's stack has to deal with the packet.
    let answer = unsafe {
        bpf_fib_lookup(packet.context().cast(), &raw mut query, size_of::<FibLookup>() as i32, 0)
    };
    if answer != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        return None;
    }
    // A VLAN device takes no redirected frames, and the answer does not say that it is one; an
    // interface that the program is attached to is none.
    service::interface(query.ifindex)?;
    Some(NextHop {
        ifindex: query.ifindex,
        state: next_hop::VALID,
        dst_mac: query.dmac,
        src_mac: query.smac,
        ..EMPTY
    })
}

pub const EMPTY: NextHop = NextHop {
    ifindex: 0,
    state: next_hop::ASK_FIB,
    vlans: 0,
    mtu: 0,
    dst_mac: [0; 6],
    src_mac: [0; 6],
    tags: [[0; 4]; 2],
    on_link: 0,
    pad: [0; 3],
};

#[inline(always)]
fn words(packet: Packet, at: u32) -> Option<[u32; 4]> {
    let word = |i| packet.read(at + i).map(u32::from_ne_bytes);
    Some([word(0)?, word(4)?, word(8)?, word(12)?])
}

/// Writes the Ethernet header and names the way out.
#[inline(always)]
fn transmit(packet: Packet, datagram: &Datagram, hop: &NextHop) -> Result<Exit, Verdict> {
    let vlans = u32::from(hop.vlans);
    let ingress = packet.ingress();
    if vlans == datagram.vlans {
        write_macs(packet, hop)?;
        if vlans > 0 {
            write_tags(packet, hop, vlans)?;
        }
    } else {
        let ethertype: [u8; 2] =
            packet.read(datagram.l3.wrapping_sub(2)).ok_or(Verdict::OutOfBounds)?;
        let grow = vlans as i32 * 4 - datagram.vlans as i32 * 4;
        // SAFETY: the context is valid; pointers into the packet are read anew afterwards.
        if unsafe { bpf_xdp_adjust_head(packet.context(), -grow) } != 0 {
            return Err(Verdict::NoHeadroom);
        }
        write_macs(packet, hop)?;
        write_tags(packet, hop, vlans)?;
        packet.write(12 + 4 * (vlans & 3), ethertype).ok_or(Verdict::OutOfBounds)?;
    }
    if hop.ifindex == ingress {
        return Ok(Exit::Tx);
    }
    maps::record_egress(hop.ifindex);
    // SAFETY: only notes the interface for the action that is returned.
    unsafe { bpf_redirect(hop.ifindex, 0) };
    Ok(Exit::Redirect)
}

#[inline(always)]
fn write_macs(packet: Packet, hop: &NextHop) -> Result<(), Verdict> {
    let (d, s): (Mac, Mac) = (hop.dst_mac, hop.src_mac);
    let macs = [d[0], d[1], d[2], d[3], d[4], d[5], s[0], s[1], s[2], s[3], s[4], s[5]];
    packet.write(0, macs).ok_or(Verdict::OutOfBounds)
}

#[inline(always)]
fn write_tags(packet: Packet, hop: &NextHop, vlans: u32) -> Result<(), Verdict> {
    if vlans > 0 {
        packet.write(12, hop.tags[0]).ok_or(Verdict::OutOfBounds)?;
    }
    if vlans > 1 {
        packet.write(16, hop.tags[1]).ok_or(Verdict::OutOfBounds)?;
    }
    Ok(())
}
