use super::*;
use crate::{
    frame::Frame,
    net::{FAMILIES, Family, client, vip},
};

fn datagram(family: Family) -> Packet {
    Packet::udp(client(family, 0), vip(family, 0), *b"OPTIONS sip:a SIP/2.0\r\n\r\n")
}

#[test]
fn a_built_datagram_reads_back_and_its_checksums_hold() {
    for family in FAMILIES {
        let bytes = datagram(family).vlan(10).vlan(20).ttl(7).build();
        let frame = Frame::parse(&bytes).unwrap();
        frame.verify().unwrap();
        assert_eq!(frame.vlans(), [10, 20]);
        assert_eq!(frame.source(), client(family, 0));
        assert_eq!(frame.destination(), vip(family, 0));
        assert_eq!(frame.source_mac(), client_mac(0));
        assert_eq!(frame.destination_mac(), edge_mac(0));
        assert_eq!(frame.ttl(), 7);
        assert_eq!(frame.payload(), b"OPTIONS sip:a SIP/2.0\r\n\r\n");
    }
}

#[test]
fn verification_sees_every_single_flipped_bit_after_the_macs() {
    for family in FAMILIES {
        let bytes = datagram(family).build();
        for bit in 14 * 8..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            // IPv6 leaves traffic class, flow label and hop limit to no checksum, and another
            // next header makes it another protocol.
            let uncovered = family == Family::V6 && matches!(bit / 8, 14..=17 | 20 | 21);
            let seen = Frame::parse(&broken).and_then(|f| f.verify()).is_err();
            assert!(seen || uncovered, "bit {bit} of {family:?} went unnoticed");
        }
    }
}

#[test]
fn options_and_extension_headers_are_stepped_over() {
    let bytes = datagram(Family::V4).options(&[1; 8]).build();
    let frame = Frame::parse(&bytes).unwrap();
    frame.verify().unwrap();
    assert_eq!(frame.destination(), vip(Family::V4, 0));

    let packet = datagram(Family::V6).extension(0, 0).extension(60, 40);
    let bytes = packet.extension(51, 4).build();
    let frame = Frame::parse(&bytes).unwrap();
    frame.verify().unwrap();
    assert_eq!(frame.destination(), vip(Family::V6, 0));
    assert!(frame.payload().starts_with(b"OPTIONS"));
}

#[test]
fn fragments_put_together_are_the_datagram() {
    for family in FAMILIES {
        let packet = Packet { payload: vec![b'x'; 1_000], ..datagram(family) };
        let frames = packet.fragments(400);
        assert_eq!(frames.len(), 3);
        let pieces: Vec<_> = frames.iter().map(|f| Frame::parse(f).unwrap()).collect();
        let places: Vec<_> = pieces.iter().map(|f| f.fragment().unwrap()).collect();
        let place = |offset, more| Fragment { offset, more };
        assert_eq!(places, [place(0, true), place(50, true), place(100, false)]);
        let whole: Vec<u8> = pieces.iter().flat_map(|f| f.ip_payload().to_vec()).collect();
        assert_eq!(whole, packet.segment());
    }
}

#[test]
fn wrong_lengths_and_sums_are_kept_and_noticed() {
    let v4 = datagram(Family::V4);
    for wrong in [
        Packet { udp_length: Some(9), ..v4.clone() },
        Packet { ip_length: Some(30), ..v4.clone() },
        Packet { checksum: Checksum::Fixed(1), ..v4.clone() },
        Packet { ip_checksum: Checksum::Fixed(1), ..v4.clone() },
        Packet { truncate: Some(40), ..v4.clone() },
    ] {
        let bytes = wrong.build();
        assert!(Frame::parse(&bytes).and_then(|f| f.verify()).is_err(), "{wrong:?}");
    }
    let zero = Packet { checksum: Checksum::Fixed(0), ..v4 }.build();
    Frame::parse(&zero).unwrap().verify().unwrap();
    let zero = datagram(Family::V6).checksum(Checksum::Fixed(0)).build();
    assert!(Frame::parse(&zero).unwrap().verify().is_err(), "IPv6 wants a checksum");
}

#[test]
fn padding_is_not_payload() {
    let bytes = Packet { padding: 18, ..datagram(Family::V4) }.build();
    let frame = Frame::parse(&bytes).unwrap();
    frame.verify().unwrap();
    assert!(frame.payload().ends_with(b"\r\n\r\n"));
}
