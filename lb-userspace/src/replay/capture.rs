//! Reading capture files: pcap in all its byte orders and resolutions, and pcapng. The file is
//! read in pieces, so its size does not matter.

use std::io::{self, Cursor, Read};

use pcap_parser::{
    Block, PcapBlockOwned, PcapError, create_reader,
    traits::{PcapNGPacketBlock as _, PcapReaderIterator},
};

use super::link::Link;

/// Bytes that are read at once; grows up to [`LARGEST`] for a longer record.
const PIECE: usize = 1 << 20;
/// No packet is that long: the file is damaged.
const LARGEST: usize = 64 << 20;
/// The packet block that pcapng had before the enhanced one.
const OBSOLETE_PACKET: u32 = 2;

/// Why a capture cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("neither a pcap nor a pcapng file; compressed ones have to be unpacked first")]
    NotACapture,
    #[error("the capture is empty")]
    Empty,
    #[error("cannot read the capture: {0}")]
    Io(io::Error),
    #[error("the file ends in the middle of packet {packet}; all packets before it were replayed")]
    CutShort { packet: u64 },
    #[error("the file is damaged after packet {after}: {what}")]
    Damaged { after: u64, what: String },
    #[error(
        "packet {packet} has link type {number}, which is not supported; supported are {}",
        Link::SUPPORTED
    )]
    LinkType { packet: u64, number: i32 },
}

/// A packet of a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Nanoseconds since 1970.
    pub time: u64,
    pub link: Link,
    /// Shorter than it was on the wire.
    pub is_truncated: bool,
    pub data: Vec<u8>,
}

/// How an interface of a capture writes its packets.
#[derive(Clone, Copy)]
struct Source {
    /// Link type, as registered by tcpdump.org.
    link: i32,
    /// Of a packet, in bytes; 0 = no limit.
    snap: u32,
    /// Time stamps per second.
    resolution: u64,
    /// Added to every time stamp, in seconds.
    offset: i64,
}

/// A capture that is being read.
pub struct Capture {
    inner: Box<dyn PcapReaderIterator + Send>,
    /// Interfaces of the current section; a pcap file has one.
    sources: Vec<Source>,
    room: usize,
    packets: u64,
    last_time: u64,
}

impl Capture {
    /// Starts to read `input`.
    ///
    /// # Errors
    ///
    /// If it is no capture, or cannot be read.
    pub fn open(mut input: impl Read + Send + 'static) -> Result<Self, CaptureError> {
        // A pipe hands out small pieces, by which no format is recognised.
        let mut head = Vec::new();
        input.by_ref().take(PIECE as u64).read_to_end(&mut head).map_err(CaptureError::Io)?;
        if head.is_empty() {
            return Err(CaptureError::Empty);
        }
        let inner = create_reader(PIECE, Cursor::new(head).chain(input))
            .map_err(|_cause| CaptureError::NotACapture)?;
        Ok(Self { inner, sources: Vec::new(), room: PIECE, packets: 0, last_time: 0 })
    }

    /// Bytes of the file that were read so far.
    #[must_use]
    pub fn consumed(&self) -> u64 {
        self.inner.consumed() as u64
    }

    /// Reads the next packet into `packet`; false at the end.
    ///
    /// # Errors
    ///
    /// If the file is damaged or cut short, or its link type is not supported.
    pub fn read(&mut self, packet: &mut Packet) -> Result<bool, CaptureError> {
        loop {
            let step = match self.inner.next() {
                Ok((length, block)) => {
                    let number = self.packets + 1;
                    let found = take(block, &mut self.sources, self.last_time, number, packet);
                    Step::Block { length, found }
                }
                Err(PcapError::Eof) => Step::End,
                Err(PcapError::Incomplete(_)) => Step::Refill,
                Err(PcapError::BufferTooSmall) => Step::Grow,
                Err(PcapError::UnexpectedEof) => {
                    return Err(CaptureError::CutShort { packet: self.packets + 1 });
                }
                Err(PcapError::ReadError) => {
                    return Err(CaptureError::Io(io::Error::other("the read failed")));
                }
                Err(
                    PcapError::HeaderNotRecognized
                    | PcapError::NomError(..)
                    | PcapError::OwnedNomError(..),
                ) => return Err(self.damaged("a block that makes no sense")),
            };
            match step {
                Step::Block { length, found } => {
                    self.inner.consume(length);
                    if found? {
                        self.packets += 1;
                        self.last_time = packet.time;
                        return Ok(true);
                    }
                }
                Step::End => return Ok(false),
                Step::Refill => self.refill()?,
                Step::Grow => {
                    self.room *= 2;
                    if self.room > LARGEST || !self.inner.grow(self.room) {
                        return Err(self.damaged("a record of more than 32 MiB"));
                    }
                    self.refill()?;
                }
            }
        }
    }

    fn refill(&mut self) -> Result<(), CaptureError> {
        self.inner.refill().map_err(|_cause| CaptureError::Io(io::Error::other("the read failed")))
    }

    fn damaged(&self, what: &str) -> CaptureError {
        CaptureError::Damaged { after: self.packets, what: what.to_owned() }
    }
}

/// What to do next.
enum Step {
    Block { length: usize, found: Result<bool, CaptureError> },
    End,
    Refill,
    Grow,
}

/// Takes in a block; true if it is a packet, which then stands in `packet`.
fn take(
    block: PcapBlockOwned<'_>,
    sources: &mut Vec<Source>,
    last_time: u64,
    number: u64,
    packet: &mut Packet,
) -> Result<bool, CaptureError> {
    let damaged = |what: String| CaptureError::Damaged { after: number - 1, what };
    let source_of = |id: u32| {
        let source = usize::try_from(id).ok().and_then(|id| sources.get(id)).copied();
        source.ok_or_else(|| damaged(format!("no interface {id} is described")))
    };
    let (source, time, is_truncated, data) = match &block {
        PcapBlockOwned::LegacyHeader(header) => {
            let resolution =
                if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
            // The upper bits tell of a frame check sequence.
            let link = header.network.0 & 0xffff;
            *sources = vec![Source { link, snap: 0, resolution, offset: 0 }];
            return Ok(false);
        }
        PcapBlockOwned::Legacy(record) => {
            let source = source_of(0)?;
            let fraction = u64::from(record.ts_usec) * (1_000_000_000 / source.resolution);
            let time = u64::from(record.ts_sec) * 1_000_000_000 + fraction;
            (source, time, record.caplen < record.origlen, record.data)
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            sources.clear();
            return Ok(false);
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
            let resolution = resolution(interface.if_tsresol)
                .ok_or_else(|| damaged("an interface without a time resolution".to_owned()))?;
            // The parser takes the offset for little-endian in every section.
            let offset = interface.ts_offset();
            let is_swapped = interface.block_type != pcap_parser::IDB_MAGIC;
            let offset = if is_swapped { offset.swap_bytes() } else { offset };
            sources.push(Source {
                link: interface.linktype.0,
                snap: interface.snaplen,
                resolution,
                offset,
            });
            return Ok(false);
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(record)) => {
            let source = source_of(record.if_id)?;
            let ticks = u64::from(record.ts_high) << 32 | u64::from(record.ts_low);
            let is_truncated = record.caplen < record.origlen;
            (source, nanoseconds(ticks, source), is_truncated, record.packet_data())
        }
        PcapBlockOwned::NG(Block::SimplePacket(record)) => {
            let source = source_of(0)?;
            let length = match source.snap {
                0 => record.origlen,
                snap => record.origlen.min(snap),
            };
            let data = record.packet_data();
            let data = data.get(..length as usize).unwrap_or(data);
            // It has no time stamp: it came right after the one before.
            (source, last_time, (data.len() as u64) < u64::from(record.origlen), data)
        }
        PcapBlockOwned::NG(Block::Unknown(block)) if block.block_type == OBSOLETE_PACKET => {
            return Err(damaged(
                "a packet block of the obsolete kind; rewrite it by editcap".into(),
            ));
        }
        PcapBlockOwned::NG(
            Block::NameResolution(_)
            | Block::InterfaceStatistics(_)
            | Block::SystemdJournalExport(_)
            | Block::DecryptionSecrets(_)
            | Block::ProcessInformation(_)
            | Block::Custom(_)
            | Block::Unknown(_),
        ) => return Ok(false),
    };
    packet.link = Link::of(source.link)
        .ok_or(CaptureError::LinkType { packet: number, number: source.link })?;
    packet.time = time;
    packet.is_truncated = is_truncated;
    packet.data.clear();
    packet.data.extend_from_slice(data);
    Ok(true)
}

/// Time stamps per second by an option `if_tsresol`: a negative power of 10, or of 2 with the highest
/// bit set. (The parser's own function refuses every power of 2.)
fn resolution(option: u8) -> Option<u64> {
    let power = u32::from(option & 0x7f);
    if option & 0x80 == 0 { 10u64.checked_pow(power) } else { 1u64.checked_shl(power) }
}

/// Nanoseconds since 1970 of a time stamp.
fn nanoseconds(ticks: u64, source: Source) -> u64 {
    let whole = i128::from(ticks) * 1_000_000_000 / i128::from(source.resolution);
    let time = whole + i128::from(source.offset) * 1_000_000_000;
    u64::try_from(time).unwrap_or(if time < 0 { 0 } else { u64::MAX })
}
