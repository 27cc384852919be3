//! Self-verifying values: each carries its key's number, a sequence number and a checksum over
//! everything, so that any answer to a GET can be checked without remembering what was put.

use xxhash_rust::xxh3::xxh3_64;

use crate::key_chooser::Dice;

/// The smallest value: a checksum and two numbers, in bytes.
pub(crate) const VALUE_BYTES_MIN: usize = 24;
/// The filler is cut from this many incompressible bytes.
const PAD_BYTES: usize = 64 * 1024;

/// The largest value: a node's default limit.
const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How large values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    low: usize,
    high: usize,
    /// Whether sizes are log-uniform: every power of two in the range is equally likely.
    log: bool,
}

impl Sizes {
    /// Parses `1024`, `100..4096` or `log:100..1048576`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let limits = VALUE_BYTES_MIN..=VALUE_BYTES_MAX;
        let (log, range) = text.strip_prefix("log:").map_or((false, text), |it| (true, it));
        let (low, high) = range.split_once("..").unwrap_or((range, range));
        match (low.parse(), high.parse()) {
            (Ok(low), Ok(high))
                if low <= high && limits.contains(&low) && limits.contains(&high) =>
            {
                Ok(Sizes { low, high, log })
            }
            _ => Err(format!("expected BYTES, LOW..HIGH or log:LOW..HIGH within {limits:?}")),
        }
    }

    /// The size of the next value.
    pub(crate) fn draw(self, dice: &mut Dice) -> usize {
        let (low, high) = (self.low as f64, self.high as f64);
        if self.low == self.high {
            self.low
        } else if self.log {
            ((low * (high / low).powf(dice.fraction())) as usize).min(self.high)
        } else {
            self.low + dice.below((self.high - self.low) as u64 + 1) as usize
        }
    }

    /// The largest size.
    pub(crate) fn max(self) -> usize {
        self.high
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let log = if self.log { "log:" } else { "" };
        match self.low == self.high {
            true => write!(f, "{}", self.low),
            false => write!(f, "{log}{}..{}", self.low, self.high),
        }
    }
}

/// Generates values. The filler is a window of a fixed pad, since drawing a kilobyte of fresh
/// randomness for each value would cost more than sending it.
#[derive(Debug)]
pub(crate) struct ValueGen {
    pad: Vec<u8>,
}

impl ValueGen {
    /// A generator of values of up to `value_bytes_max`.
    pub(crate) fn new(value_bytes_max: usize) -> Self {
        let words = (PAD_BYTES + value_bytes_max).div_ceil(8) as u64;
        let pad = (0..words).flat_map(|word| mix(word).to_le_bytes()).collect();
        ValueGen { pad }
    }

    /// Writes the value of this key and sequence number into `out`, replacing its contents.
    /// `value_bytes` is at least [`VALUE_BYTES_MIN`].
    pub(crate) fn generate(&self, key: u64, sequence: u64, value_bytes: usize, out: &mut Vec<u8>) {
        let filler_bytes = value_bytes.saturating_sub(VALUE_BYTES_MIN);
        let start = (mix(key ^ sequence.rotate_left(32)) % PAD_BYTES as u64) as usize;
        out.clear();
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&key.to_le_bytes());
        out.extend_from_slice(&sequence.to_le_bytes());
        out.extend_from_slice(self.pad.get(start..start + filler_bytes).unwrap_or_default());
        let sum = xxh3_64(out.get(8..).unwrap_or_default()).to_le_bytes();
        for (byte, of_sum) in out.iter_mut().zip(sum) {
            *byte = of_sum;
        }
    }
}

/// Checks a value that was read for `key`, and returns its sequence number.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn check(key: u64, value: &[u8]) -> Result<u64, String> {
    let word = |at: usize| value.get(at..at + 8).and_then(|it| it.try_into().ok());
    let (Some(sum), Some(of_key), Some(sequence)) = (word(0), word(8), word(16)) else {
        return Err(format!("a value of {} bytes is too short to be one of ours", value.len()));
    };
    if u64::from_le_bytes(sum) != xxh3_64(value.get(8..).unwrap_or_default()) {
        return Err(format!("a value of {} bytes has a wrong checksum", value.len()));
    }
    if u64::from_le_bytes(of_key) != key {
        return Err(format!("it is the value of key {}", u64::from_le_bytes(of_key)));
    }
    Ok(u64::from_le_bytes(sequence))
}

/// A pseudorandom number (splitmix64), for keys and fillers.
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_its_size_and_proves_its_key_and_sequence() {
        for value_bytes in [24, 25, 1024, 1 << 20] {
            let mut value = vec![1, 2, 3];
            ValueGen::new(value_bytes).generate(7, 42, value_bytes, &mut value);
            assert_eq!(value.len(), value_bytes);
            assert_eq!(check(7, &value), Ok(42));
        }
    }

    #[test]
    fn any_flipped_byte_any_cut_and_any_other_key_is_seen() {
        let mut value = Vec::new();
        ValueGen::new(64).generate(7, 42, 64, &mut value);
        for at in 0..value.len() {
            let mut bad = value.clone();
            bad[at] ^= 1;
            assert!(check(7, &bad).is_err(), "byte {at}");
            assert!(check(7, &value[..at]).is_err(), "cut at {at}");
        }
        assert!(check(8, &value).unwrap_err().contains("the value of key 7"));
        assert!(check(7, b"").is_err());
    }

    #[test]
    fn values_of_other_keys_and_sequences_differ() {
        let value_gen = ValueGen::new(1024);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        value_gen.generate(1, 1, 1024, &mut a);
        value_gen.generate(1, 2, 1024, &mut b);
        assert_ne!(a[24..], b[24..]);
    }

    #[test]
    fn sizes_are_drawn_from_their_range() {
        let mut dice = Dice::new(3);
        for text in ["100", "100..1000", "log:100..1000000"] {
            let sizes = Sizes::parse(text).unwrap();
            assert_eq!(sizes.to_string(), text);
            let drawn: Vec<usize> = (0..10_000).map(|_| sizes.draw(&mut dice)).collect();
            assert!(drawn.iter().all(|it| (sizes.low..=sizes.high).contains(it)), "{text}");
            let small = drawn.iter().filter(|it| **it < 1000).count();
            match text {
                "log:100..1000000" => assert!((2000..3000).contains(&small), "{small}"),
                _ => assert!(small > 9900, "{small}"),
            }
        }
        for bad in ["", "1", "9..", "200..100", "log:", "100..99999999999", "-1..5"] {
            assert!(Sizes::parse(bad).is_err(), "{bad}");
        }
    }
}
