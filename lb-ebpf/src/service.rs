//! Whose packet is it? Listeners, endpoints and this host's addresses by socket.

use lb_common::{
    addr::{Addr, Socket},
    backend::{Endpoint, IngressPath, spoof},
    index::{self, Slot},
    maps::ports,
    service::{INTERFACE_PROBES, INTERFACES, Interface},
    verdict::Verdict,
};

use crate::{maps, packet::Packet, parse::Datagram};

/// Tries the slots of an index; 0 = not in it.
#[inline(always)]
pub fn find(socket: &Socket, mask: u32, slot: impl Fn(u32) -> Option<&'static Slot>) -> u16 {
    let first = index::first(socket, mask);
    for probe in 0..index::PROBES {
        let Some(slot) = slot(first.wrapping_add(probe) & mask) else { break };
        if index::holds(slot, socket) {
            return slot.id;
        }
        if index::is_unused(slot) {
            break;
        }
    }
    0
}

/// The listener at the packet's destination, 0 = none.
#[inline(always)]
pub fn listener_of(packet: Packet, datagram: &Datagram) -> Result<u16, Verdict> {
    if !maps::has_port(ports::LISTENERS, datagram.destination_port) {
        return Ok(0);
    }
    Ok(find(&datagram.destination(packet)?, maps::listener_mask(), maps::listener_slot))
}

/// The endpoint at the packet's source, 0 = none.
#[inline(always)]
pub fn sender_of(packet: Packet, datagram: &Datagram) -> Result<u16, Verdict> {
    if !maps::has_port(ports::ENDPOINTS, datagram.source_port) {
        return Ok(0);
    }
    Ok(find(&datagram.source(packet)?, maps::endpoint_mask(), maps::endpoint_slot))
}

/// The endpoint at the packet's destination, 0 = none.
#[inline(always)]
pub fn receiver_of(packet: Packet, datagram: &Datagram) -> Result<u16, Verdict> {
    if !maps::has_port(ports::ENDPOINTS, datagram.destination_port) {
        return Ok(0);
    }
    Ok(find(&datagram.destination(packet)?, maps::endpoint_mask(), maps::endpoint_slot))
}

/// True if `addr` is an address of this host.
#[inline(always)]
pub fn is_host(addr: Addr) -> bool {
    find(&Socket::host(addr), maps::host_mask(), maps::host_slot) != 0
}

/// Bits of [`lb_common::maps::address`] for an address as [`Addr::words`] has it; 0 = none of ours.
#[inline(always)]
pub fn address_bits(words: [u64; 2]) -> u16 {
    let first = index::place(words, 0, maps::address_mask());
    for probe in 0..index::PROBES {
        let slot = maps::address_slot(first.wrapping_add(probe) & maps::address_mask());
        let Some(slot) = slot else { break };
        if slot.socket.addr.words() == words && slot.socket.tail() == 0 {
            return slot.id;
        }
        if index::is_unused(slot) {
            break;
        }
    }
    0
}

/// The record of an attached interface.
#[inline(always)]
pub fn interface(ifindex: u32) -> Option<&'static Interface> {
    for probe in 0..INTERFACE_PROBES {
        let record = maps::interface((ifindex + probe) & (INTERFACES - 1))?;
        if record.ifindex == ifindex {
            return Some(record);
        }
    }
    None
}

/// Leaves alone what a switch flooded here: frames to the MAC of another host.
#[inline(always)]
pub fn check_mac(packet: Packet) -> Result<(), Verdict> {
    let interface = interface(packet.ingress()).ok_or(Verdict::OtherInterface)?;
    let destination: [u8; 6] = packet.read(0).ok_or(Verdict::OutOfBounds)?;
    for (i, mac) in interface.macs.iter().enumerate() {
        if (i as u32) < interface.count && *mac == destination {
            return Ok(());
        }
    }
    Err(Verdict::OtherHost)
}

/// A backend's packets come by a way that this host would use towards it, and on-link from its MAC.
///
/// # Errors
///
/// `SpoofedBackend` if not.
#[inline(always)]
pub fn check_origin(
    packet: Packet,
    datagram: &Datagram,
    endpoint: &Endpoint,
) -> Result<(), Verdict> {
    if endpoint.spoof == spoof::OFF {
        return Ok(());
    }
    let came = IngressPath { ifindex: packet.ingress(), vids: datagram.vids };
    let mut known = false;
    for (i, path) in endpoint.ingress.iter().enumerate() {
        known |= (i as u32) < u32::from(endpoint.paths)
            && path.ifindex == came.ifindex
            && path.vids == came.vids;
    }
    if !known {
        return Err(Verdict::SpoofedBackend);
    }
    let next_hop = &endpoint.next_hop;
    if endpoint.spoof == spoof::STRICT
        && next_hop.on_link != 0
        && next_hop.state == lb_common::backend::next_hop::VALID
        && next_hop.ifindex == came.ifindex
    {
        let source: [u8; 6] = packet.read(6).ok_or(Verdict::OutOfBounds)?;
        if source != next_hop.dst_mac {
            return Err(Verdict::SpoofedBackend);
        }
    }
    Ok(())
}
