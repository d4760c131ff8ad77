//! Packets as a pcapng file: which way each went, by which interface, and why.

use std::{
    borrow::Cow,
    io::{self, Write},
    time::Duration,
};

use pcap_file::{
    DataLink, PcapError,
    pcapng::{
        PcapNgBlock as _, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};

use crate::watch::{
    Sight,
    sight::{Frame, From},
};

/// Bits of `epb_flags` (draft-ietf-opsawg-pcapng, "Enhanced Packet Block Flags Word").
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Powers of ten of a second: the writer's time stamps are nanoseconds.
const NANOSECONDS: u8 = 9;

/// The interface of packets that the kernel sends on, or that the controller has made.
const HOST: &str = "host";

/// A file in the making. Every packet is written out at once: it can be read at any time.
pub(super) struct Writer<W: Write> {
    out: PcapNgWriter<W>,
    interfaces: Vec<String>,
}

impl<W: Write> Writer<W> {
    /// Begins the file.
    pub(super) fn new(out: W) -> io::Result<Self> {
        Ok(Self { out: PcapNgWriter::new(out).map_err(io_error)?, interfaces: Vec::new() })
    }

    /// Adds a packet as it came in, and as it left.
    pub(super) fn write(&mut self, sight: &Sight) -> io::Result<()> {
        let comment = comment(sight);
        if let Some(frame) = &sight.came {
            let name = sight.ingress.as_deref().unwrap_or(HOST);
            self.frame(frame, sight.time, name, INBOUND, &comment)?;
        }
        if let Some(frame) = &sight.left {
            let name = sight.egress.as_deref().unwrap_or(HOST);
            self.frame(frame, sight.decided, name, OUTBOUND, &comment)?;
        }
        self.out.get_mut().flush()
    }

    fn frame(
        &mut self,
        frame: &Frame,
        time: u64,
        interface: &str,
        direction: u32,
        comment: &str,
    ) -> io::Result<()> {
        let block = EnhancedPacketBlock {
            interface_id: self.interface(interface)?,
            timestamp: Duration::from_nanos(time),
            original_len: frame.len,
            data: Cow::Borrowed(&frame.bytes),
            options: vec![
                EnhancedPacketOption::Comment(Cow::Borrowed(comment)),
                EnhancedPacketOption::Flags(direction),
            ],
        };
        self.out.write_block(&block.into_block()).map(drop).map_err(io_error)
    }

    /// The number of an interface, which is described when it is first needed.
    fn interface(&mut self, name: &str) -> io::Result<u32> {
        let known = self.interfaces.iter().position(|known| known == name);
        let index = match known {
            Some(index) => index,
            None => {
                let block = InterfaceDescriptionBlock {
                    linktype: DataLink::ETHERNET,
                    snaplen: 0,
                    options: vec![
                        InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                        InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                    ],
                };
                self.out.write_block(&block.into_block()).map_err(io_error)?;
                self.interfaces.push(name.to_owned());
                self.interfaces.len() - 1
            }
        };
        u32::try_from(index).map_err(io::Error::other)
    }
}

fn io_error(cause: PcapError) -> io::Error {
    if let PcapError::IoError(cause) = cause { cause } else { io::Error::other(cause) }
}

/// Why the packet went where it did.
fn comment(sight: &Sight) -> String {
    let mut text = format!("{} {}", sight.verdict, sight.reason);
    let mut say = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            text.push_str(&format!(", {name} {value}"));
        }
    };
    say("key", sight.key.as_deref());
    say("service", sight.service.as_deref());
    say("backend", sight.backend.as_deref());
    say("at", sight.address.as_deref());
    say("out", Some(&sight.out));
    if sight.from == From::SipLb {
        text.push_str(", made by sip-lb; its Ethernet header is the request's, turned round");
    }
    text
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;
    use crate::watch::sight::tests::sight;

    #[test]
    fn a_packet_is_written_as_it_came_in_and_as_it_left_each_at_its_interface() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).unwrap();
        let dropped = Sight {
            verdict: "drop".to_owned(),
            reason: "malformed".to_owned(),
            egress: None,
            left: None,
            ..sight()
        };
        writer.write(&sight()).unwrap();
        writer.write(&dropped).unwrap();
        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            let block = block.unwrap();
            if let Block::InterfaceDescription(block) = block {
                interfaces.push(block.into_owned());
            } else if let Block::EnhancedPacket(block) = block {
                packets.push(block.into_owned());
            } else {
                panic!("{block:?}");
            }
        }
        let name = |name: &'static str| InterfaceDescriptionOption::IfName(name.into());
        let options: Vec<_> = interfaces.iter().map(|block| block.options[0].clone()).collect();
        assert_eq!(options, [name("eth0"), name("eth1")], "each described once");
        let [came, left, last] = &packets[..] else { panic!("{packets:?}") };
        let which = |packet: &EnhancedPacketBlock<'static>| {
            (packet.interface_id, packet.timestamp, packet.data.to_vec(), packet.options[1].clone())
        };
        let [time, decided] = [sight().time, sight().decided].map(Duration::from_nanos);
        let flags = EnhancedPacketOption::Flags;
        assert_eq!(which(came), (0, time, b"as it came in".to_vec(), flags(INBOUND)));
        assert_eq!(which(left), (1, decided, b"as it left\0\xff".to_vec(), flags(OUTBOUND)));
        assert_eq!(which(last).0, 0);
        let comment = "forward new-dialog, key call-id, service trunk, backend gw1, \
                       at 10.0.1.201:5060, out redirect";
        assert_eq!(came.options[0], EnhancedPacketOption::Comment(comment.into()));
    }
}
