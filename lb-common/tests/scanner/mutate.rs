//! Mutants of given payloads: mutant `n` of a seed is the same on every machine.

/// Longest mutant: what a packet can hold in native XDP.
const LONGEST: usize = 3500;

/// Bytes that the scanner decides by.
const SPECIAL: &[u8] = b"\r\n\n\n \t::iItT\"\\<>;=\0\x0b\x1f\x20\x21\x7f\x80\x8a\xff-c";

const PIECES: &[&[u8]] = &[
    b"\r\n\r\n",
    b"\n\n",
    b"\r\n ",
    b"\n\t",
    b"Call-ID:",
    b"\r\nCall-ID: ",
    b"\ni:",
    b"\r\nI : ",
    b"\r\nTo: ",
    b"\nt:",
    b";tag=",
    b"; tag =",
    b";\r\n tag=",
    b"\r\nCSeq: 1 ",
    b"\ncseq:",
    b"SIP/2.0 200",
    b"INVITE ",
    b"REGISTER",
    b"SUBSCRIBE ",
    b"\\\"",
    b"a84b4c76",
    b"\x21\x12\xa4\x42",
    b"sip/",
];

/// A sequence of numbers (splitmix64), good enough to choose mutations by.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0…`n` − 1; 0 if `n` is.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// 1…2^`bits`, short ones as often as long ones.
    fn length(&mut self, bits: usize) -> usize {
        let most = 1 << self.below(bits + 1);
        1 + self.below(most)
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// Mutant `n` of the payloads under `seed`.
pub(crate) fn mutant(payloads: &[Vec<u8>], seed: u64, n: u64) -> Vec<u8> {
    let mut dice = Dice(seed ^ n.wrapping_mul(0xd6e8_feb8_6659_fd93));
    let mut payload = payloads[dice.below(payloads.len())].clone();
    // Half of the mutants have one mutation, a quarter two, and so on.
    for _ in 0..=dice.next().trailing_zeros() {
        mutate(&mut dice, &mut payload, payloads);
    }
    payload.truncate(LONGEST);
    payload
}

fn mutate(dice: &mut Dice, payload: &mut Vec<u8>, payloads: &[Vec<u8>]) {
    let at = dice.below(payload.len() + 1);
    let short = dice.length(8);
    let end = (at + short).min(payload.len());
    match dice.below(10) {
        0 => {
            if let Some(byte) = payload.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        1 => {
            if let Some(byte) = payload.get_mut(at) {
                *byte = dice.one_of(SPECIAL);
            }
        }
        2 => payload.insert(at, dice.one_of(SPECIAL)),
        3 => insert(payload, at, dice.one_of(PIECES)),
        4 => drop(payload.drain(at..end)),
        5 => payload.truncate(at),
        6 => drop(payload.drain(..at)),
        7 => {
            // A run of one byte: long values, many blanks, much to skip.
            let byte = if dice.below(2) == 0 { dice.one_of(SPECIAL) } else { b'a' };
            let run = vec![byte; dice.length(12)];
            insert(payload, at, &run);
        }
        8 => {
            let copy = payload[at..end].to_vec();
            let to = dice.below(payload.len() + 1);
            insert(payload, to, &copy);
        }
        _ => {
            let other = &payloads[dice.below(payloads.len())];
            payload.truncate(at);
            payload.extend(&other[dice.below(other.len() + 1)..]);
        }
    }
}

fn insert(payload: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    payload.splice(at..at, bytes.iter().copied());
}

/// Drops bytes of `payload` as long as it still `fails`.
pub(crate) fn smallest(mut payload: Vec<u8>, fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut step = payload.len() / 2;
    while step > 0 {
        let mut at = 0;
        while at < payload.len() {
            let mut smaller = payload.clone();
            smaller.drain(at..(at + step).min(payload.len()));
            if fails(&smaller) {
                payload = smaller;
            } else {
                at += step;
            }
        }
        step /= 2;
    }
    payload
}
