//! Link layers of captures → EtherType and network packet.

/// Link types that are read (numbers as registered by tcpdump.org).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    #[default]
    Ethernet,
    /// BSD loopback: four bytes of address family.
    Loopback,
    /// The IP packet itself.
    RawIp,
    /// `tcpdump -i any`, 16 bytes.
    LinuxCooked,
    /// The same, 20 bytes.
    LinuxCooked2,
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// IEEE 802.1Q, 802.1ad, and what stood for the latter before it was standardised.
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

impl Link {
    pub const SUPPORTED: &str =
        "Ethernet (1), Linux cooked (113, 276), raw IP (101, 12, 14, 228, 229), loopback (0, 108)";

    /// The link type of that number.
    #[must_use]
    pub const fn of(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::Ethernet),
            0 | 108 => Some(Self::Loopback),
            12 | 14 | 101 | 228 | 229 => Some(Self::RawIp),
            113 => Some(Self::LinuxCooked),
            276 => Some(Self::LinuxCooked2),
            _ => None,
        }
    }

    /// EtherType and payload of a packet, VLAN tags taken off; `None` if it is too short to tell.
    #[must_use]
    pub fn open(self, data: &[u8]) -> Option<(u16, &[u8])> {
        let (ethertype, rest) = match self {
            Self::Ethernet => (word(data, 12)?, data.get(14..)?),
            Self::LinuxCooked => (word(data, 14)?, data.get(16..)?),
            Self::LinuxCooked2 => (word(data, 0)?, data.get(20..)?),
            Self::Loopback => return ip(data.get(4..)?),
            Self::RawIp => return ip(data),
        };
        untagged(ethertype, rest)
    }
}

/// The big-endian word at `at`.
fn word(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

fn ip(packet: &[u8]) -> Option<(u16, &[u8])> {
    // What is neither is left to the program, which will find no header of that version.
    let ethertype = if packet.first()? >> 4 == 6 { IPV6 } else { IPV4 };
    Some((ethertype, packet))
}

fn untagged(mut ethertype: u16, mut rest: &[u8]) -> Option<(u16, &[u8])> {
    while TAGS.contains(&ethertype) {
        ethertype = word(rest, 2)?;
        rest = rest.get(4..)?;
    }
    Some((ethertype, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ethernet(after_macs: &[u8]) -> Vec<u8> {
        [&[2; 12], after_macs].concat()
    }

    #[test]
    fn any_number_of_tags_is_taken_off() {
        let plain = ethernet(b"\x08\x00ip");
        let tagged = ethernet(b"\x81\x00\x00\x07\x08\x00ip");
        let double = ethernet(b"\x88\xa8\x00\x07\x81\x00\x00\x08\x08\x00ip");
        for frame in [plain, tagged, double] {
            assert_eq!(Link::Ethernet.open(&frame), Some((0x0800, &b"ip"[..])));
        }
    }

    #[test]
    fn a_header_that_is_cut_is_too_short() {
        assert_eq!(Link::Ethernet.open(&[0; 13]), None);
        assert_eq!(Link::Ethernet.open(&ethernet(b"\x81\x00\x00")), None);
        assert_eq!(Link::LinuxCooked.open(&[0; 15]), None);
        assert_eq!(Link::LinuxCooked2.open(&[0; 19]), None);
        assert_eq!(Link::RawIp.open(&[]), None);
        assert_eq!(Link::Loopback.open(&[2, 0, 0, 0]), None);
    }

    #[test]
    fn other_link_types_say_which_protocol_they_carry() {
        let cooked = [&[0; 14], &b"\x86\xdd\x60"[..]].concat();
        assert_eq!(Link::LinuxCooked.open(&cooked), Some((0x86dd, &b"\x60"[..])));
        let cooked = [&b"\x08\x00"[..], &[0; 18], b"\x45"].concat();
        assert_eq!(Link::LinuxCooked2.open(&cooked), Some((0x0800, &b"\x45"[..])));
        assert_eq!(Link::RawIp.open(b"\x60"), Some((0x86dd, &b"\x60"[..])));
        assert_eq!(Link::RawIp.open(b"\x45"), Some((0x0800, &b"\x45"[..])));
        assert_eq!(Link::Loopback.open(b"\x02\0\0\0\x45"), Some((0x0800, &b"\x45"[..])));
    }

    #[test]
    fn numbers_are_those_of_the_registry() {
        for (number, link) in [
            (1, Some(Link::Ethernet)),
            (101, Some(Link::RawIp)),
            (12, Some(Link::RawIp)),
            (14, Some(Link::RawIp)),
            (228, Some(Link::RawIp)),
            (229, Some(Link::RawIp)),
            (113, Some(Link::LinuxCooked)),
            (276, Some(Link::LinuxCooked2)),
            (0, Some(Link::Loopback)),
            (105, None),
        ] {
            assert_eq!(Link::of(number), link, "{number}");
        }
    }
}
