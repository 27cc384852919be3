//! Values that prove themselves: each carries its key's number, a sequence number and a checksum
//! over everything, so that any answer to a GET can be checked without remembering what was put.

use xxhash_rust::xxh3::xxh3_64;

/// The smallest value: a checksum and two numbers, in bytes.
pub(crate) const VALUE_BYTES_MIN: usize = 24;
/// The filler is cut from this many bytes that do not compress.
const PAD_BYTES: usize = 64 * 1024;

/// Makes values of one size. The filler is a window of a fixed pad, since drawing a kilobyte
/// of fresh randomness for each value would cost more than sending it.
#[derive(Debug)]
pub(crate) struct Maker {
    pad: Vec<u8>,
    value_bytes: usize,
}

impl Maker {
    /// A maker of values of `value_bytes` (at least [`VALUE_BYTES_MIN`]).
    pub(crate) fn new(value_bytes: usize) -> Self {
        let filler_bytes = value_bytes.saturating_sub(VALUE_BYTES_MIN);
        let words = (PAD_BYTES + filler_bytes).div_ceil(8) as u64;
        let pad = (0..words).flat_map(|word| mix(word).to_le_bytes()).collect();
        Maker { pad, value_bytes }
    }

    /// Writes the value of this key and sequence number into `out`, in place of what was there.
    pub(crate) fn make(&self, key: u64, sequence: u64, out: &mut Vec<u8>) {
        let filler_bytes = self.value_bytes.saturating_sub(VALUE_BYTES_MIN);
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

/// Checks a value that was read for `key`, and answers its sequence number.
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

/// A number that looks random (splitmix64), for keys and fillers.
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
            Maker::new(value_bytes).make(7, 42, &mut value);
            assert_eq!(value.len(), value_bytes);
            assert_eq!(check(7, &value), Ok(42));
        }
    }

    #[test]
    fn any_flipped_byte_any_cut_and_any_other_key_is_seen() {
        let mut value = Vec::new();
        Maker::new(64).make(7, 42, &mut value);
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
        let maker = Maker::new(1024);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        maker.make(1, 1, &mut a);
        maker.make(1, 2, &mut b);
        assert_ne!(a[24..], b[24..]);
    }
}
