//! Estimates of how many different strings were added: HyperLogLog with 2^14 registers, a standard error of
//! 0.8 %.
//!
//! Source: Flajolet et al., "HyperLogLog" (AofA 2007); the estimator is that of Ertl, "New cardinality
//! estimation algorithms for HyperLogLog sketches" (arXiv:1702.01284), section 4, which needs no correction
//! for small or large sets. The hash is part of what is stored: it can never change.

use bytes::{BufMut, Bytes, BytesMut};

/// log2 of the number of registers.
const PRECISION: u32 = 14;
const REGISTERS: usize = 1 << PRECISION;
/// The greatest rank: the bits of a hash that do not choose the register, and one.
const RANK_MAX: u8 = (u64::BITS - PRECISION + 1) as u8;
const SPARSE: u8 = 0;
const DENSE: u8 = 1;
/// Bytes of a register in the sparse encoding: its number, and its rank.
const ENTRY_BYTES: usize = 2 + 1;

/// The hash of a string, by which it is observed.
pub fn hash_of(text: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}

/// For each register the greatest rank of any hash that chose it, 0 for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sketch(Vec<u8>);

impl Default for Sketch {
    fn default() -> Self {
        Self(vec![0; REGISTERS])
    }
}

impl Sketch {
    /// Takes note of a hash.
    pub fn observe(&mut self, hash: u64) {
        let register = &mut self.0[(hash >> (u64::BITS - PRECISION)) as usize];
        let rank = (hash << PRECISION).leading_zeros() as u8 + 1;
        *register = (*register).max(rank.min(RANK_MAX));
    }

    /// Becomes the sketch of both sets together.
    pub fn join(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
    }

    /// About how many different hashes were observed.
    pub fn estimate(&self) -> u64 {
        let mut count = [0u32; RANK_MAX as usize + 1];
        self.0.iter().for_each(|rank| count[usize::from(*rank)] += 1);
        let m = REGISTERS as f64;
        let of = |rank: u8| f64::from(count[usize::from(rank)]);
        let highest = m * tau(1.0 - of(RANK_MAX) / m);
        let z = (1..RANK_MAX).rev().fold(highest, |z, rank| 0.5 * (z + of(rank)));
        let z = z + m * sigma(of(0) / m);
        (m * m / (2.0 * std::f64::consts::LN_2 * z)).round() as u64
    }

    /// A byte that says which, then the registers in use (number u16, rank u8), or all ranks, whichever is
    /// shorter.
    pub fn encode(&self) -> Bytes {
        let used = || self.0.iter().enumerate().filter(|(_, rank)| **rank > 0);
        let sparse_bytes = used().count() * ENTRY_BYTES;
        let mut out = BytesMut::with_capacity(1 + sparse_bytes.min(REGISTERS));
        if sparse_bytes < REGISTERS {
            out.put_u8(SPARSE);
            for (number, rank) in used() {
                out.put_u16_le(number as u16);
                out.put_u8(*rank);
            }
        } else {
            out.put_u8(DENSE);
            out.put_slice(&self.0);
        }
        out.freeze()
    }

    /// Reads what [`Sketch::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut sketch = Self::default();
        match bytes.split_first()? {
            (&DENSE, ranks) => sketch.0 = Vec::from(<&[u8; REGISTERS]>::try_from(ranks).ok()?),
            (&SPARSE, entries) => {
                let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
                let number = |entry: &[u8; ENTRY_BYTES]| u16::from_le_bytes([entry[0], entry[1]]);
                let is_sorted = entries.is_sorted_by(|a, b| number(a) < number(b));
                if !rest.is_empty() || !is_sorted || entries.iter().any(|entry| entry[2] == 0) {
                    return None;
                }
                for entry in entries {
                    *sketch.0.get_mut(usize::from(number(entry)))? = entry[2];
                }
            }
            _ => return None,
        }
        sketch.0.iter().all(|rank| *rank <= RANK_MAX).then_some(sketch)
    }
}

/// What registers of rank 0 contribute, by their share (Ertl, algorithm 6).
fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

/// What registers of the greatest rank contribute, by the share of the others (Ertl, algorithm 6).
fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(range: std::ops::Range<u64>) -> Sketch {
        let mut sketch = Sketch::default();
        range.for_each(|number| sketch.observe(hash_of(&format!("element {number}"))));
        sketch
    }

    #[test]
    fn estimates_are_within_three_standard_errors() {
        assert_eq!(Sketch::default().estimate(), 0);
        for count in [1u64, 10, 1_000, 20_000, 60_000, 300_000] {
            let estimate = of(0..count).estimate();
            let error = (estimate as f64 - count as f64).abs() / count as f64;
            assert!(error < 0.025, "{estimate} of {count}");
        }
    }

    #[test]
    fn joined_sketches_are_those_of_the_union() {
        let mut joined = of(0..3_000);
        joined.join(&of(2_000..9_000));
        assert_eq!(joined, of(0..9_000));
    }

    #[test]
    fn encodings_round_trip_and_others_are_refused() {
        for count in [0, 1, 5_000, 100_000] {
            let sketch = of(0..count);
            assert_eq!(Sketch::decode(&sketch.encode()), Some(sketch));
        }
        let bad: [&[u8]; 6] = [
            &[],
            &[2],
            &[SPARSE, 1, 0],
            &[SPARSE, 1, 0, 0],
            &[SPARSE, 255, 255, 1],
            &[SPARSE, 1, 0, 52],
        ];
        for bytes in bad {
            assert_eq!(Sketch::decode(bytes), None, "{bytes:?}");
        }
        assert_eq!(Sketch::decode(&[SPARSE, 2, 0, 1, 1, 0, 1]), None, "not in order");
        assert_eq!(Sketch::decode(&vec![DENSE; REGISTERS]), None, "too short");
    }
}
