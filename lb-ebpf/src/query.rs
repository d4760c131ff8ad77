//! The copy of a message from which [`crate::policy`] reads, and what it is asked.
//!
//! The verifier follows a read of a map's value in a third of the steps that a read of the packet
//! takes; and what stands here needs no room on the stack.

use core::arch::asm;

use lb_common::{
    sip::{MAX_LABELS, Method, Window},
    verdict::Verdict,
};

use crate::{
    examine::Examined,
    maps,
    packet::{Payload, positive},
    policy,
};

/// Bytes of a message that are looked at.
const REACH: u32 = 1440;
/// Room before the text: the first block of a short message begins before it.
const BEFORE: usize = 32;
/// What offsets are masked by.
const MASK: u32 = 0x7ff;

/// A question to [`crate::policy`], and what is known towards its answer; one for each CPU.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Query {
    /// Hash of the Call-ID, else of the source.
    pub hash: u64,
    /// Hash of what the service's `balance` goes by, 0 = none.
    pub key_hash: u64,
    /// See [`crate::examine::Examined`].
    pub examined: u64,
    pub listener: u16,
    /// The binding of the dialog whose backend is down, 0 = none.
    pub down: u16,
    /// Offset of the start line in the payload.
    pub line: u16,
    pub pad: u16,
    pub method: u8,
    pub is_request: u8,
    pub has_call_id: u8,
    /// [`lb_common::verdict::Key`] of `key_hash`.
    pub key: u8,
    len: u32,
    /// Hashes of the host and of the domains above it, the highest first.
    domains: [u64; MAX_LABELS as usize],
    text: [u8; BEFORE + MASK as usize + 1 + 32],
}

/// The copied message.
#[derive(Clone, Copy)]
pub struct Text {
    query: *mut Query,
}

impl Text {
    #[inline(always)]
    pub fn open() -> Result<Self, Verdict> {
        Ok(Self { query: maps::query()? })
    }

    #[inline(always)]
    pub fn query(&self) -> &Query {
        // SAFETY: this CPU's copy of the map's one value, and nothing below writes while the
        // reference lives. As to what may interrupt it, see [`maps::desk`].
        unsafe { &*self.query }
    }

    /// Writes what was found out.
    #[inline(always)]
    pub fn note(&self, note: impl FnOnce(&mut Query)) {
        // SAFETY: as in `query`.
        note(unsafe { &mut *self.query });
    }

    #[inline(always)]
    pub fn examined(&self) -> Examined {
        Examined(self.query().examined)
    }

    /// True for requests that stand at the beginning: of a dialog, or alone.
    #[inline(always)]
    pub fn begins(&self) -> bool {
        let method = self.query().method;
        self.query().is_request != 0
            && !self.examined().in_dialog()
            && method != Method::Ack as u8
            && method != Method::Bye as u8
            && method != Method::Cancel as u8
            && method != Method::Prack as u8
            && method != Method::Update as u8
    }

    #[inline(always)]
    pub fn note_domain(&self, number: u32, hash: u64) {
        self.note(|query| query.domains[(number & (MAX_LABELS - 1)) as usize] = hash);
    }

    #[inline(always)]
    pub fn domain(&self, number: u32) -> u64 {
        self.query().domains[(number & (MAX_LABELS - 1)) as usize]
    }

    /// Copies a payload, in blocks of which the last may overlap, and puts NULs behind it.
    #[inline(always)]
    pub fn fill(&self, payload: &Payload) -> Option<u32> {
        let len = payload.len();
        let len = if len > REACH { REACH } else { len };
        let len = payload.forget(len);
        for turn in 0..REACH / 32 {
            let at = turn * 32;
            if at >= len {
                break;
            }
            let base = at.wrapping_sub(payload.excess(at + 32, len));
            let block = payload.block(base)?;
            self.put(base, block);
        }
        self.put(len, [0; 4]);
        self.note(|query| query.len = len);
        Some(len)
    }

    /// The address of the byte at `offset`, which is at least -32.
    #[inline(always)]
    fn at(&self, offset: u32) -> *mut u8 {
        let index = (offset.wrapping_add(BEFORE as u32) & MASK) as usize;
        // SAFETY: the index is below 2,048, and the text goes on for 64 bytes behind that.
        unsafe { (&raw mut (*self.query).text).cast::<u8>().add(index) }
    }

    #[inline(always)]
    fn put(&self, offset: u32, words: [u64; 4]) {
        let at = self.at(offset).cast::<u64>();
        // Word by word: a copy of all four would be a call that loops over bytes.
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: 32 bytes lie behind every address that `at` gives.
            unsafe { at.add(i).write_unaligned(word) };
        }
    }
}

impl Window for Text {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.query().len
    }

    #[inline(always)]
    fn block(&self, offset: u32) -> Option<[u64; 4]> {
        // SAFETY: as in `put`.
        Some(unsafe { self.at(offset).cast::<[u64; 4]>().read_unaligned() })
    }

    #[inline(always)]
    fn word(&self, offset: u32) -> Option<u64> {
        // SAFETY: as in `put`.
        Some(unsafe { self.at(offset).cast::<u64>().read_unaligned() })
    }

    /// What stands behind the end is NUL for 32 bytes; every search stops at the first.
    #[inline(always)]
    fn padded_near(&self, offset: u32) -> Option<u64> {
        self.word(offset)
    }

    #[inline(always)]
    fn padded(&self, offset: u32) -> Option<u64> {
        self.word(offset)
    }

    #[inline(always)]
    fn seek(&self, from: u32, stops: u32) -> Option<u32> {
        Some(policy::seek(from.into(), stops.into()) as u32 & 0xfff)
    }

    #[inline(always)]
    fn forget(&self, offset: u32) -> u32 {
        self.forget_all(offset) & 0xfff
    }

    #[inline(always)]
    fn forget_all(&self, number: u32) -> u32 {
        self.forget_word(number.into()) as u32
    }

    #[inline(always)]
    fn forget_word(&self, mut number: u64) -> u64 {
        // SAFETY: arithmetic on a register: n ^ u ^ u = n.
        unsafe {
            asm!(
                "{0} ^= {1}",
                "{0} ^= {1}",
                inout(reg) number,
                in(reg) self.query().hash,
                options(nomem, nostack, preserves_flags)
            );
        }
        number
    }

    #[inline(always)]
    fn positive(&self, number: i64) -> u32 {
        positive(number)
    }
}
