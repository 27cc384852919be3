//! Bytes as hexadecimal digits.

/// Twice as many lowercase digits as there are bytes.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
        text
    })
}

/// The bytes of these digits, of either case; `None` unless there are exactly twice as many.
pub fn unhex<const BYTES: usize>(digits: impl AsRef<[u8]>) -> Option<[u8; BYTES]> {
    let digits = digits.as_ref();
    if digits.len() != 2 * BYTES {
        return None;
    }
    let value = |digit: u8| u8::try_from(char::from(digit).to_digit(16)?).ok();
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_come_back() {
        assert_eq!(unhex::<3>(hex(&[0, 0x1f, 0xff])), Some([0, 0x1f, 0xff]));
        assert_eq!(unhex::<2>("aBcD"), Some([0xab, 0xcd]));
        for bad in ["", "00", "0g", "+1", "é"] {
            assert_eq!(unhex::<1>(bad), (bad == "00").then_some([0]), "{bad}");
        }
    }
}
