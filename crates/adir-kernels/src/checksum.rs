//! A checksum as fast as the scan that follows it.

use crate::simd::{Kernel, Simd, dispatch};

/// Sums that run side by side: as many words as the widest vectors hold.
const LANES: usize = 8;

/// The checksum of `words`, read as little-endian numbers: that of others where a single one differs, or where any two are
/// exchanged, and of another `seed`. It is the same on every machine.
pub fn checksum(seed: u64, words: &[u64]) -> u64 {
    dispatch(Checksum { seed, words })
}

struct Checksum<'a> {
    seed: u64,
    words: &'a [u64],
}

impl Kernel for Checksum<'_> {
    type Output = u64;

    /// Sums, and sums of sums, which tell the places of words; plain arrays, which the compiler maps to the vectors of each
    /// instruction set.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> u64 {
        let (mut sums, mut sums_of_sums) = ([self.seed; LANES], [0_u64; LANES]);
        let (chunks, rest) = self.words.as_chunks::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                sums[lane] = sums[lane].wrapping_add(u64::from_le(chunk[lane]));
                sums_of_sums[lane] = sums_of_sums[lane].wrapping_add(sums[lane]);
            }
        }
        let mut hash = self.words.len() as u64;
        for word in rest.iter().map(|word| u64::from_le(*word)).chain(sums).chain(sums_of_sums) {
            hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    fn words(count: u64) -> Vec<u64> {
        (0..count).map(|i| i.wrapping_mul(0x0123_4567_89ab_cdef)).collect()
    }

    #[test]
    fn every_change_is_seen() {
        let words = words(21);
        let right = checksum(3, &words);
        assert_ne!(right, checksum(4, &words));
        assert_ne!(right, checksum(3, &words[..20]));
        for (i, bit) in (0..21).flat_map(|i| (0..64).map(move |bit| (i, bit))) {
            let mut changed = words.clone();
            changed[i] ^= 1 << bit;
            assert_ne!(right, checksum(3, &changed), "word {i}, bit {bit}");
        }
        for (i, j) in (0..21).flat_map(|i| (i + 1..21).map(move |j| (i, j))) {
            let mut swapped = words.clone();
            swapped.swap(i, j);
            assert_ne!(right, checksum(3, &swapped), "words {i} and {j}");
        }
    }

    // M = (1 << 64) - 1; w = [i * 0x0123456789abcdef & M for i in range(21)]; s = [3] * 8; q = [0] * 8
    // for i in range(16): l = i % 8; s[l] = s[l] + w[i] & M; q[l] = q[l] + s[l] & M
    // h = 21
    // for x in w[16:] + s + q: h = (h ^ x) * 0x9e3779b97f4a7c15 & M; h = (h << 29 | h >> 35) & M
    #[test]
    fn it_is_the_same_on_every_instruction_set() {
        for isa in crate::Isa::available() {
            let machine = Machine { isa: Some(isa), ..Machine::default() };
            assert_eq!(crate::machine::with(machine, || checksum(3, &words(21))), 0x5860253fb6575ec7, "{isa:?}");
        }
    }
}
