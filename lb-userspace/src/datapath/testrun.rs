//! Running frames through a program without any interface (`BPF_PROG_TEST_RUN`).

use std::time::Duration;

use aya::{TestRun as _, TestRunOptions, programs::Xdp};

use super::error::{Error, Result};

/// Shortest frame that the kernel takes: an Ethernet header.
pub const SHORTEST: usize = 14;
/// Longest frame that every supported kernel takes: a page without the headroom of 256 bytes and
/// the tail room of 320.
pub const LONGEST: usize = 4096 - 256 - 320;

/// The object of the benchmark's programs (`lb-ebpf/src/feed.rs`), which give the balancer another
/// message at each run.
pub static FEED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sip-lb-feed"));

/// What the kernel does with a frame after the program ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The program failed; must never happen.
    Aborted,
    Drop,
    Pass,
    Tx,
    Redirect,
    /// No value that XDP knows.
    Unknown(u32),
}

impl Action {
    const fn of(value: u32) -> Self {
        match value {
            0 => Self::Aborted,
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Tx,
            4 => Self::Redirect,
            other => Self::Unknown(other),
        }
    }
}

/// Runs `frame` through `program` once, as if it had come in by `ingress` (the loopback interface
/// if `None`; any other must be of this network namespace). Returns the action and the frame as the
/// program left it.
///
/// # Errors
///
/// [`Error::FrameLength`] for a frame that the kernel would not take; else what the kernel says.
pub fn run(program: &Xdp, frame: &[u8], ingress: Option<u32>) -> Result<(Action, Vec<u8>)> {
    // VLAN tags may be added, so the frame may grow.
    let mut out = vec![0; LONGEST + 256];
    let context = context(frame, ingress)?;
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: context.as_ref().map(<[u8; CONTEXT]>::as_slice),
        ..TestRunOptions::new()
    };
    let result = program
        .test_run(options)
        .map_err(|cause| Error::aya("run a frame through the program", cause))?;
    out.truncate(result.data_size_out as usize);
    Ok((Action::of(result.return_value), out))
}

/// Runs `frame` `repeat` times without resetting it in between, and returns the mean time of a run
/// in whole nanoseconds, the kernel's own overhead included.
///
/// # Errors
///
/// As [`run`].
pub fn time(program: &Xdp, frame: &[u8], ingress: Option<u32>, repeat: u32) -> Result<Duration> {
    let context = context(frame, ingress)?;
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: context.as_ref().map(<[u8; CONTEXT]>::as_slice),
        repeat,
        ..TestRunOptions::new()
    };
    program
        .test_run(options)
        .map(|result| result.duration)
        .map_err(|cause| Error::aya("time a frame in the program", cause))
}

/// Size of `struct xdp_md`.
const CONTEXT: usize = 24;

/// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
fn context(frame: &[u8], ingress: Option<u32>) -> Result<Option<[u8; CONTEXT]>> {
    let len = frame.len();
    if !(SHORTEST..=LONGEST).contains(&len) {
        return Err(Error::FrameLength { len });
    }
    let Some(ifindex) = ingress else { return Ok(None) };
    let mut context = [0; CONTEXT];
    let fields = [0, len as u32, 0, ifindex, 0, 0];
    for (bytes, field) in context.as_chunks_mut::<4>().0.iter_mut().zip(fields) {
        *bytes = field.to_ne_bytes();
    }
    Ok(Some(context))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_beyond_what_the_kernel_takes_is_refused_with_its_length() {
        for len in [0, SHORTEST - 1, LONGEST + 1] {
            let error = context(&vec![0; len], None).unwrap_err().to_string();
            assert!(error.contains(&format!("of {len} bytes")), "{error}");
        }
        assert_eq!(context(&[0; SHORTEST], None).unwrap(), None);
    }

    #[test]
    fn the_ingress_interface_is_the_fourth_word_of_the_context() {
        let context = context(&[0; 100], Some(7)).unwrap().unwrap();
        assert_eq!(context[4..8], 100u32.to_ne_bytes());
        assert_eq!(context[12..16], 7u32.to_ne_bytes());
    }
}
