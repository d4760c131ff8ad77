//! Writing a capture: pcap with time stamps in nanoseconds, so that those read are kept as they were.

use std::io::{self, Write};

const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// 2.4: the major number in the lower half.
const VERSION: u32 = 2 | 4 << 16;
const ETHERNET: u32 = 1;
/// Most bytes of a packet, as tcpdump sets it.
const SNAP_LENGTH: u32 = 262_144;

/// A pcap file of Ethernet frames in the making.
#[derive(Debug)]
pub struct PcapWriter<W> {
    out: W,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the file's header.
    ///
    /// # Errors
    ///
    /// What writing says.
    pub fn new(mut out: W) -> io::Result<Self> {
        // Time zone and accuracy are 0 in every file.
        for field in [NANOSECONDS, VERSION, 0, 0, SNAP_LENGTH, ETHERNET] {
            out.write_all(&field.to_le_bytes())?;
        }
        Ok(Self { out })
    }

    /// Adds a frame, captured at `time` nanoseconds since 1970 (up to the year 2106).
    ///
    /// # Errors
    ///
    /// What writing says.
    pub fn write(&mut self, time: u64, frame: &[u8]) -> io::Result<()> {
        let seconds = u32::try_from(time / 1_000_000_000).unwrap_or(u32::MAX);
        let fraction = (time % 1_000_000_000) as u32;
        let length = frame.len() as u32;
        for field in [seconds, fraction, length, length] {
            self.out.write_all(&field.to_le_bytes())?;
        }
        self.out.write_all(frame)
    }

    /// Writes what is still held back.
    ///
    /// # Errors
    ///
    /// What writing says.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }
}
