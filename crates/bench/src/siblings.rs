//! The siblings in a 300 answer: each value is checked like a single one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::value;

#[derive(Deserialize)]
struct Shown {
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    /// None for a delete.
    value: Option<String>,
    encoding: Option<String>,
}

/// Checks the JSON of a key's siblings; returns the greatest sequence number among them and the
/// total bytes of their values.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn check(key: u64, json: &[u8]) -> Result<(u64, usize), String> {
    let shown: Shown = serde_json::from_slice(json)
        .map_err(|error| format!("the body of a 300 is malformed: {error}"))?;
    let (mut greatest, mut bytes) = (0, 0);
    for sibling in shown.siblings {
        let Some(text) = sibling.value else { continue };
        let decoded = match sibling.encoding.as_deref() {
            None => text.into_bytes(),
            Some("base64") => STANDARD
                .decode(text)
                .map_err(|error| format!("a sibling is not base64: {error}"))?,
            Some(other) => return Err(format!("a sibling in an unknown encoding: {other}")),
        };
        greatest = greatest.max(value::check(key, &decoded)?);
        bytes += decoded.len();
    }
    Ok((greatest, bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::value::ValueGen;

    fn shown(values: &[&[u8]]) -> Vec<u8> {
        let one = |value: &&[u8]| serde_json::json!({"encoding": "base64", "value": STANDARD.encode(value)});
        let mut all: Vec<_> = values.iter().map(one).collect();
        all.push(serde_json::json!({"deleted": true}));
        serde_json::to_vec(&serde_json::json!({"siblings": all})).unwrap()
    }

    #[test]
    fn every_sibling_is_checked_and_the_greatest_sequence_found() {
        let value_gen = ValueGen::new(100);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        value_gen.generate(7, 3, 40, &mut a);
        value_gen.generate(7, 9, 60, &mut b);
        assert_eq!(check(7, &shown(&[&a, &b])), Ok((9, 100)));
        assert!(check(8, &shown(&[&a, &b])).is_err());
        b[30] ^= 1;
        assert!(check(7, &shown(&[&a, &b])).unwrap_err().contains("checksum"));
        assert!(check(7, b"{}").is_err());
        assert!(check(7, br#"{"siblings": [{"encoding": "rot13", "value": ""}]}"#).is_err());
    }
}
