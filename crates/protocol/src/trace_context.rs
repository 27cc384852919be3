//! Which trace an operation belongs to, and which span of it asks: the W3C trace context, as clients send it
//! in `traceparent` and nodes in front of a message.
//!
//! Nothing decides by it. What cannot be read is as good as absent, never an error.

use crate::hex::unhex;

/// A trace and the span in it that asks. Neither is all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: [u8; 16],
    span: [u8; 8],
}

impl TraceContext {
    /// Its length on the wire, in bytes.
    pub const BYTES: usize = 16 + 8;

    /// `None` if the trace or the span is all zeros, which names nothing.
    pub fn new(trace: [u8; 16], span: [u8; 8]) -> Option<Self> {
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span })
    }

    /// The trace.
    pub fn trace(&self) -> [u8; 16] {
        self.trace
    }

    /// The span that asks.
    pub fn span(&self) -> [u8; 8] {
        self.span
    }

    /// The span of what this one asks of `about`, in the same trace. Both ends can compute it: the same name
    /// gives the same span, another one another.
    pub fn child(&self, about: &[u8]) -> Self {
        let number = xxhash_rust::xxh3::xxh3_64_with_seed(about, u64::from_be_bytes(self.span));
        Self { span: number.max(1).to_be_bytes(), ..*self }
    }

    /// As nodes send it.
    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.trace);
        bytes[16..].copy_from_slice(&self.span);
        bytes
    }

    /// What a node sent; `None` if that names nothing.
    pub(crate) fn from_bytes(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let (trace, span) = bytes.split_at(16);
        Self::new(trace.try_into().ok()?, span.try_into().ok()?)
    }
}

/// What a client's `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The client's trace and span.
    pub context: TraceContext,
    /// Whether the client records the trace.
    pub is_sampled: bool,
}

impl TraceParent {
    /// Parses `{version}-{trace}-{span}-{flags}` in lowercase hexadecimal digits. Of a version after 00 only
    /// the fields of 00 are read, as the standard asks for.
    pub fn parse(header: &[u8]) -> Option<Self> {
        const FIELDS_BYTES: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;
        let (fields, rest) = header.split_at_checked(FIELDS_BYTES)?;
        let version = u8::from_be_bytes(lowercase(&fields[..2])?);
        let is_whole = match version {
            0 => rest.is_empty(),
            u8::MAX => false,
            _ => rest.first().is_none_or(|byte| *byte == b'-'),
        };
        if !is_whole || [fields[2], fields[35], fields[52]] != [b'-'; 3] {
            return None;
        }
        let context = TraceContext::new(lowercase(&fields[3..35])?, lowercase(&fields[36..52])?)?;
        let [flags] = lowercase(&fields[53..])?;
        Some(Self { context, is_sampled: flags & 1 == 1 })
    }
}

/// Twice as many lowercase digits as there are bytes.
fn lowercase<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    unhex(digits).filter(|_| !digits.iter().any(u8::is_ascii_uppercase))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn parse(text: &str) -> Option<TraceParent> {
        TraceParent::parse(text.as_bytes())
    }

    #[test]
    fn the_example_of_the_standard_is_read() {
        let parent = parse(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
        assert_eq!(parent.context.trace()[..2], [0x4b, 0xf9]);
        assert_eq!(parent.context.span(), 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
        assert!(parent.is_sampled);
        assert!(!parse(&format!("00-{TRACE}-{SPAN}-00")).unwrap().is_sampled);
        assert!(parse(&format!("00-{TRACE}-{SPAN}-ff")).unwrap().is_sampled, "other flags");
        for later in [format!("01-{TRACE}-{SPAN}-01"), format!("fe-{TRACE}-{SPAN}-01-more")] {
            assert_eq!(parse(&later), Some(parent), "{later}");
        }
    }

    #[test]
    fn what_is_malformed_is_none() {
        let (no_trace, no_span) = ("0".repeat(32), "0".repeat(16));
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("01-{TRACE}-{SPAN}-01more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{no_trace}-{SPAN}-01"),
            format!("00-{TRACE}-{no_span}-01"),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}é{SPAN}-01"),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn children_are_told_apart_and_stay_in_the_trace() {
        let context = parse(&format!("00-{TRACE}-{SPAN}-01")).unwrap().context;
        let (one, two) = (context.child(b"n1"), context.child(b"n2"));
        assert_eq!((one.trace(), context.child(b"n1")), (context.trace(), one));
        assert!(one.span() != two.span() && one.child(b"n1").span() != one.span());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            TraceParent::parse(&bytes);
        }

        #[test]
        fn any_text_of_almost_the_right_form_is_read_without_a_panic(text in "[0-9a-f-]{50,60}") {
            parse(&text);
        }

        #[test]
        fn whatever_is_written_is_read_again(trace in 1..u128::MAX, span in 1..u64::MAX, flags: u8) {
            let parent = parse(&format!("00-{trace:032x}-{span:016x}-{flags:02x}")).unwrap();
            let context = TraceContext::new(trace.to_be_bytes(), span.to_be_bytes()).unwrap();
            prop_assert_eq!(parent, TraceParent { context, is_sampled: flags & 1 == 1 });
            prop_assert_eq!(TraceContext::from_bytes(context.to_bytes()), Some(context));
        }
    }
}
