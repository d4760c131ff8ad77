//! The rings that the program writes to, one for each CPU.
//!
//! The kernel takes them out of the map when the process that opened them ends, so a new controller
//! always opens its own. What is handed over meanwhile is dropped and counted by the program.

use std::{
    fmt, io,
    os::fd::{AsRawFd, RawFd},
};

use aya::maps::{
    Map, MapData, PerfEventArray,
    perf::{PerfBufferError, PerfEvent, PerfEventArrayBuffer},
};
use lb_common::{
    pod,
    slow::{Kind, Record},
};

use tokio::io::{Interest, unix::AsyncFd};

use super::Handed;
use crate::{
    datapath::{Error, error::Result},
    maps::kernel::Open,
};

/// Pages of each ring: 512 KiB, some 250 packets of 2 kB.
pub(crate) const PAGES: usize = 128;

/// What else came out of a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Packets that found the ring full; the program has counted them too.
    pub full: u64,
    /// Records that this version cannot read.
    pub unreadable: u64,
}

/// The ring of one CPU.
pub struct Ring {
    cpu: u32,
    buffer: PerfEventArrayBuffer<MapData>,
    /// The packet that is read.
    sample: Vec<u8>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ring of CPU {}", self.cpu)
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.buffer.as_raw_fd()
    }
}

impl Ring {
    /// Gives every packet in the ring to `each`, oldest first.
    pub fn drain(&mut self, mut each: impl FnMut(&Handed<'_>)) -> Lost {
        let mut unreadable = 0;
        let full = self.samples(|sample| match decode(sample) {
            Some((kind, record, frame)) => each(&Handed { kind, record: &record, frame }),
            None => unreadable += 1,
        });
        Lost { full, unreadable }
    }

    /// Gives every sample in the ring to `each`, oldest first, and returns how many found it full.
    pub fn samples(&mut self, mut each: impl FnMut(&[u8])) -> u64 {
        let sample = &mut self.sample;
        self.buffer.fold(0, |full, event| match event {
            PerfEvent::Sample { head, tail } => {
                sample.clear();
                sample.extend_from_slice(head);
                sample.extend_from_slice(tail);
                each(sample);
                full
            }
            PerfEvent::Lost { count } => full + count,
        })
    }

    /// For tokio to wait for.
    ///
    /// # Errors
    ///
    /// If the runtime cannot.
    #[expect(unsafe_code, reason = "tokio cannot know who owns a file descriptor")]
    pub fn wait(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the ring owns its descriptor, always names the same one, and closes it when it is
        // dropped, after tokio has let go of it.
        let ring = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        ring.map_err(|refused| refused.into_parts().1)
    }
}

/// Opens a ring of so many pages for every CPU that is online, in the map of this name.
///
/// # Errors
///
/// Without CAP_PERFMON, or what else the kernel says.
pub(crate) fn open(open: &mut Open<'_>, name: &'static str, pages: usize) -> Result<Vec<Ring>> {
    let what = || format!("open map {name}");
    let map = Map::from_map_data(open(name)?).map_err(|cause| Error::aya(what(), cause))?;
    let mut array = PerfEventArray::try_from(map).map_err(|cause| Error::aya(what(), cause))?;
    let cpus = aya::util::online_cpus()
        .map_err(|(path, cause)| Error::kernel(format!("read {path}"), cause))?;
    cpus.into_iter()
        .map(|cpu| {
            let buffer = array.open(cpu, Some(pages)).map_err(|cause| {
                Error::kernel(format!("open the ring of CPU {cpu}"), with_remedy(cause))
            })?;
            Ok(Ring { cpu, buffer, sample: Vec::new() })
        })
        .collect()
}

/// The kernel counts rings as locked memory, beyond kernel.perf_event_mlock_kb for each CPU
/// (perf_event_open(2)).
fn with_remedy(cause: PerfBufferError) -> io::Error {
    if let PerfBufferError::MMapError { io_error } = &cause
        && io_error.kind() == io::ErrorKind::PermissionDenied
    {
        return io::Error::other(format!(
            "{cause}: the rings of all CPUs exceed the memory that may be locked: set \
             LimitMEMLOCK=infinity in the unit (`ulimit -l unlimited` in a shell) and restart"
        ));
    }
    io::Error::other(cause)
}

/// Kind, record and frame of a sample; `None` if it is none of this version's.
fn decode(sample: &[u8]) -> Option<(Kind, Record, &[u8])> {
    let (record, rest): (Record, _) = pod::split(sample)?;
    let kind = *Kind::ALL.get(usize::from(record.kind))?;
    // The kernel pads samples to eight bytes.
    let frame = rest.get(..record.len as usize)?;
    Some((kind, record, frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(record: Record, rest: &[u8]) -> Vec<u8> {
        [pod::bytes(&record), rest].concat()
    }

    #[test]
    fn a_sample_is_a_record_and_the_frame_without_its_padding() {
        let record = Record { kind: 0, len: 3, frame_len: 9, ingress: 7, ..Record::default() };
        let sample = sample(record, b"abc\0\0");
        let (kind, found, frame) = decode(&sample).unwrap();
        assert_eq!((kind, found, frame), (Kind::NoBackend, record, &b"abc"[..]));
        assert!(Handed { kind, record: &found, frame }.is_cut());
    }

    #[test]
    fn what_is_cut_or_of_another_version_is_no_packet() {
        let record = Record { kind: 0, len: 3, ..Record::default() };
        let whole = sample(record, b"abc");
        assert!(decode(&whole).is_some());
        for len in 0..whole.len() {
            assert!(decode(&whole[..len]).is_none(), "{len}");
        }
        assert!(decode(&sample(Record { kind: 200, ..record }, b"abc")).is_none());
    }

    #[test]
    fn too_little_memory_to_lock_is_told_with_the_remedy() {
        let of = |errno| {
            let io_error = io::Error::from_raw_os_error(errno);
            with_remedy(PerfBufferError::MMapError { io_error }).to_string()
        };
        assert!(of(libc::EPERM).contains("LimitMEMLOCK=infinity"), "{}", of(libc::EPERM));
        assert!(!of(libc::ENOMEM).contains("MEMLOCK"), "{}", of(libc::ENOMEM));
    }

    /// Those of watchers alone take 8 MiB on four CPUs, as much as systemd allows by default.
    #[test]
    fn the_unit_lets_rings_be_as_large_as_the_cpus_are_many() {
        let unit = include_str!("../../../deploy/systemd/sip-lb.service");
        assert!(unit.lines().any(|line| line == "LimitMEMLOCK=infinity"));
    }

    #[test]
    fn a_ring_may_go_to_a_task_of_its_own() {
        const fn sendable<T: Send + 'static>() {}
        sendable::<Ring>();
    }
}
