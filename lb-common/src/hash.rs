//! SipHash-1-3 (Aumasson and Bernstein 2012, with one compression and three finalisation rounds).
//!
//! Keyed, so that nobody outside can aim Call-IDs at one backend or one line of the dialog table;
//! the same key on two nodes makes the same choice on both.

/// The 128-bit key, derived from `hash_key` of the configuration.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct HashKey {
    pub k0: u64,
    pub k1: u64,
}
const _: () = assert!(size_of::<HashKey>() == 16);

/// A hash in progress; fed with whole little-endian words.
#[derive(Clone, Copy)]
pub struct SipHash {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl SipHash {
    #[inline(always)]
    #[must_use]
    pub const fn new(key: HashKey) -> Self {
        Self {
            v0: key.k0 ^ 0x736f_6d65_7073_6575,
            v1: key.k1 ^ 0x646f_7261_6e64_6f6d,
            v2: key.k0 ^ 0x6c79_6765_6e65_7261,
            v3: key.k1 ^ 0x7465_6462_7974_6573,
        }
    }

    /// Absorbs eight bytes.
    #[inline(always)]
    pub const fn word(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

    /// Absorbs the last 0–7 bytes (`tail`, the rest of the word zero) of a message of `len` bytes.
    #[inline(always)]
    #[must_use]
    pub const fn finish(mut self, tail: u64, len: u32) -> u64 {
        self.word(tail | ((len as u64) << 56));
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }

    #[inline(always)]
    const fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }
}

/// Hashes a byte string of any length; for names and tests (the datapath hashes in place).
#[must_use]
pub fn bytes(key: HashKey, message: &[u8]) -> u64 {
    let mut hash = SipHash::new(key);
    let (words, rest) = message.as_chunks::<8>();
    for word in words {
        hash.word(u64::from_le_bytes(*word));
    }
    let mut tail = [0; 8];
    for (to, from) in tail.iter_mut().zip(rest) {
        *to = *from;
    }
    hash.finish(u64::from_le_bytes(tail), message.len() as u32)
}

/// What a message without a Call-ID is placed by: its source address and port.
///
/// The flipped key keeps these hashes apart from those of Call-IDs.
#[inline(always)]
#[must_use]
pub const fn source(key: HashKey, source: &crate::addr::Socket) -> u64 {
    let mut hash = SipHash::new(HashKey { k0: !key.k0, k1: key.k1 });
    let [high, low] = source.addr.words();
    hash.word(high);
    hash.word(low);
    hash.finish(source.tail() as u64, 20)
}

/// What `balance: source-ip` goes by: the client's address without its port.
#[inline(always)]
#[must_use]
pub const fn source_address(key: HashKey, source: &crate::addr::Addr) -> u64 {
    let mut hash = SipHash::new(HashKey { k0: !key.k0, k1: key.k1 });
    let [high, low] = source.words();
    hash.word(high);
    hash.word(low);
    hash.finish(0, 16)
}

/// The slot of a hash: bits 48–63.
#[inline(always)]
#[must_use]
pub const fn slot(hash: u64) -> u32 {
    (hash >> 48) as u32
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher as _;

    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_an_independent_siphash(k0: u64, k1: u64, message in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reference = SipHasher13::new_with_keys(k0, k1);
            reference.write(&message);
            prop_assert_eq!(bytes(HashKey { k0, k1 }, &message), reference.finish());
        }
    }
}
