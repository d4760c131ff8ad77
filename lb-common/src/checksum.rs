//! Incremental update of the Internet checksum (RFC 1624, equation 3).

/// A difference to apply to a checksum: fields are taken out and others put in.
#[derive(Clone, Copy)]
#[must_use]
pub struct Update(u64);

impl Update {
    /// Starts from the checksum as it stands in the header, in wire bytes.
    #[inline(always)]
    pub const fn of(checksum: [u8; 2]) -> Self {
        Self(!u16::from_ne_bytes(checksum) as u64)
    }

    /// No field yet; for a difference that is applied to several checksums.
    #[inline(always)]
    pub const fn none() -> Self {
        Self(0)
    }

    #[inline(always)]
    pub const fn replace_u16(self, old: [u8; 2], new: [u8; 2]) -> Self {
        Self(self.0 + (!u16::from_ne_bytes(old)) as u64 + u16::from_ne_bytes(new) as u64)
    }

    #[inline(always)]
    pub const fn replace_u32(self, old: [u8; 4], new: [u8; 4]) -> Self {
        Self(self.0 + (!u32::from_ne_bytes(old)) as u64 + u32::from_ne_bytes(new) as u64)
    }

    /// Puts in what was not there before; a checksum computed anew starts from [`Update::none`].
    #[inline(always)]
    pub const fn add_u32(self, new: [u8; 4]) -> Self {
        Self(self.0 + u32::from_ne_bytes(new) as u64)
    }

    /// Both halves of a 16-byte address.
    #[inline(always)]
    pub const fn replace_u128(self, old: [u64; 2], new: [u64; 2]) -> Self {
        let mut sum = self.0;
        let mut i = 0;
        while i < 2 {
            let (o, n) = (!old[i], new[i]);
            sum += (o & 0xffff_ffff) + (o >> 32) + (n & 0xffff_ffff) + (n >> 32);
            i += 1;
        }
        Self(sum)
    }

    /// Adds another difference.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The new checksum in wire bytes.
    #[inline(always)]
    #[must_use]
    pub const fn finish(self) -> [u8; 2] {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (!(sum as u16)).to_ne_bytes()
    }

    /// The new UDP checksum: a computed zero is sent as all ones (RFC 768).
    #[inline(always)]
    #[must_use]
    pub const fn finish_udp(self) -> [u8; 2] {
        match self.finish() {
            [0, 0] => [0xff, 0xff],
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The checksum of RFC 1071 computed over all bytes.
    fn whole(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    proptest! {
        #[test]
        fn an_updated_checksum_equals_one_computed_anew(
            mut data in prop::collection::vec(any::<u8>(), 40), new: [u8; 16], four: [u8; 4], two: [u8; 2],
        ) {
            // A header is never all zero; that is the one case where the two forms of zero differ.
            data[39] |= 1;
            let old_sum = whole(&data);
            let old: [u8; 16] = data[0..16].try_into().unwrap();
            let words = |a: [u8; 16]| [
                u64::from_ne_bytes(a[..8].try_into().unwrap()), u64::from_ne_bytes(a[8..].try_into().unwrap()),
            ];
            let update = Update::of(old_sum)
                .replace_u128(words(old), words(new))
                .and(Update::none().replace_u32(data[16..20].try_into().unwrap(), four))
                .replace_u16(data[20..22].try_into().unwrap(), two);
            data[0..16].copy_from_slice(&new);
            data[16..20].copy_from_slice(&four);
            data[20..22].copy_from_slice(&two);
            prop_assert_eq!(update.finish(), whole(&data));
        }
    }

    proptest! {
        #[test]
        fn a_checksum_computed_word_by_word_is_that_of_all_bytes(words in prop::collection::vec(any::<[u8; 4]>(), 1..30)) {
            let update = words.iter().fold(Update::none(), |sum, word| sum.add_u32(*word));
            prop_assert_eq!(update.finish(), whole(&words.concat()));
        }
    }

    #[test]
    fn a_computed_zero_is_sent_as_all_ones() {
        let update = Update::of([0, 0]).replace_u16([0, 0], [0, 0]);
        assert_eq!(update.finish(), [0, 0]);
        assert_eq!(update.finish_udp(), [0xff, 0xff]);
    }
}
