//! Eight bytes at a time. Masks have bit 7 of every matching byte set, others clear.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The byte `b` in all eight places.
pub const fn all(b: u8) -> u64 {
    ONES * b as u64
}

/// Bytes that are zero; exact.
#[inline(always)]
pub const fn zeros(word: u64) -> u64 {
    !(((word & !HIGH) + !HIGH) | word) & HIGH
}

/// The first byte that is zero; what is set behind it means nothing.
#[inline(always)]
pub const fn first_zero(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGH
}

/// Bit 7 of each byte may be set if it is zero; never clear where it is. To be ORed over several
/// words and masked once by [`HIGH_BITS`].
#[inline(always)]
pub const fn may_have_zero(word: u64) -> u64 {
    word.wrapping_sub(ONES)
}

/// Bytes that equal `b`; exact.
#[inline(always)]
pub const fn equal(word: u64, b: u8) -> u64 {
    zeros(word ^ all(b))
}

/// SP and HTAB; exact.
#[inline(always)]
pub const fn blanks(word: u64) -> u64 {
    equal(word, b' ') | equal(word, b'\t')
}

/// Capital letters; exact.
#[inline(always)]
pub const fn capitals(word: u64) -> u64 {
    let low = word & !HIGH;
    // Bit 7 is set from 'A' on, and from behind 'Z' on.
    let from_a = low.wrapping_add(all(0x80 - b'A'));
    let behind_z = low.wrapping_add(all(0x80 - b'Z' - 1));
    from_a & !behind_z & !word & HIGH
}

/// SP, HTAB, CR and LF; exact.
#[inline(always)]
pub const fn spaces(word: u64) -> u64 {
    blanks(word) | equal(word, b'\r') | equal(word, b'\n')
}

/// Not zero if a byte is at most 0x20; bytes of 0xa1 and above may raise it too.
#[inline(always)]
pub const fn may_have_space(word: u64) -> u64 {
    word.wrapping_sub(all(0x21)) & !word & HIGH
}

/// The bits that [`may_have_zero`] speaks by.
pub const HIGH_BITS: u64 = HIGH;

/// Index of the first byte of a mask that is not zero.
#[inline(always)]
pub const fn first(mask: u64) -> u32 {
    // The ones below the lowest set byte, one for each byte, summed in the top byte.
    let below = ((mask & mask.wrapping_neg()) >> 7).wrapping_sub(1);
    ((below & ONES).wrapping_mul(ONES) >> 56) as u32
}

/// One bit for each byte of a mask, the first byte's lowest.
#[inline(always)]
pub const fn gather(mask: u64) -> u32 {
    ((mask >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32
}

/// Index of the lowest set bit; 32 if there is none.
#[inline(always)]
pub const fn lowest(bits: u32) -> u32 {
    (bits & bits.wrapping_neg()).wrapping_sub(1).count_ones()
}

/// The first `n` bytes of `word`, 0–7, the others zero.
#[inline(always)]
pub const fn keep(word: u64, n: u32) -> u64 {
    word & !(u64::MAX << ((n & 7) * 8))
}

/// Byte `n` of `word`, 0–7.
#[inline(always)]
pub const fn byte(word: u64, n: u32) -> u8 {
    (word >> ((n & 7) * 8)) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn masks_agree_with_bytes(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..0x24], 8)) {
            let bytes: [u8; 8] = bytes.try_into().unwrap();
            let word = u64::from_le_bytes(bytes);
            for (i, b) in bytes.iter().enumerate() {
                let bit = 0x80u64 << (8 * i);
                prop_assert_eq!(zeros(word) & bit != 0, *b == 0);
                prop_assert_eq!(capitals(word) & bit != 0, b.is_ascii_uppercase());
                prop_assert_eq!(spaces(word) & bit != 0, b" \t\r\n".contains(b));
                if *b <= 0x20 {
                    prop_assert!(may_have_space(word) != 0);
                }
                if *b == 0 {
                    prop_assert!(may_have_zero(word) & HIGH_BITS != 0);
                }
            }
            prop_assert_eq!(zeros(word) == 0, first_zero(word) == 0);
            if zeros(word) != 0 {
                prop_assert_eq!(first(zeros(word)), first(first_zero(word)));
            }
            let bits = gather(zeros(word));
            for (i, b) in bytes.iter().enumerate() {
                prop_assert_eq!(bits >> i & 1 == 1, *b == 0);
            }
            if bits != 0 {
                prop_assert_eq!(lowest(bits), first(zeros(word)));
            }
            if let Some(i) = bytes.iter().position(|&b| b == b'\n') {
                prop_assert_eq!(first(equal(word, b'\n')), i as u32);
            }
        }
    }
}
