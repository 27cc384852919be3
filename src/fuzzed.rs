//! What must hold of every sequence of bytes that a node is sent: it is understood or refused, in words that
//! are the sender's to read, without a panic. What peers alone send is checked in `crates/protocol/fuzz`.
//!
//! Fuzzers call these (`tests/fuzz`), and a test over their corpus. Not part of a node.

pub use crate::gossip::fuzzed::datagrams;
pub use crate::jwt::fuzzed::issuers;

use crate::api;
use crate::http::framing::{HEADERS_MAX, Message, inspect, may_end_head};

/// Takes bytes.
pub type Check = fn(&[u8]);

/// All of them, each with the name of its corpus.
pub const ALL: [(&str, Check); 4] =
    [("bodies", bodies), ("datagrams", datagrams), ("heads", heads), ("issuers", issuers)];

/// The JSON of a request. The first byte says of which.
pub fn bodies(bytes: &[u8]) {
    api::fuzzed::bodies(bytes);
}

/// What a client sends on a connection: the head of a request, its body, and what follows it. The first byte
/// says in which pieces it comes.
///
/// # Panics
/// If where a request ends, or what is said of its head, depends on how it arrives.
pub fn heads(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let judged = inspect(bytes);
    let mut request = httparse::Request::new(&mut []);
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; HEADERS_MAX];
    let parsed = request.parse_with_uninit_headers(bytes, &mut fields);
    match (judged, parsed) {
        (Ok(Some(message)), Ok(httparse::Status::Complete(length))) => {
            assert!(may_end_head(&bytes[..length]), "the end of a head is not seen");
            for end in [length - 1, length / 2] {
                assert_eq!(inspect(&bytes[..end]), Ok(None), "a part of a head");
            }
            assert_eq!(inspect(&bytes[..length]), Ok(Some(message.clone())), "a head alone");
            let in_pieces = taken(&message, bytes, &[usize::from(*piece) + 1]);
            assert_eq!(in_pieces, taken(&message, bytes, &[usize::MAX]));
            let named = request.headers.iter().map(|it| (it.name, it.value)).collect::<Vec<_>>();
            api::fuzzed::head(request.path.unwrap_or_default(), &named);
        }
        (Ok(Some(_)), parsed) => panic!("a head that is none: {parsed:?}"),
        (Ok(None), parsed) => assert_eq!(parsed, Ok(httparse::Status::Partial)),
        (Err(_), _) => {}
    }
}

/// How many bytes belong to the first request, if they come in pieces of these sizes; whether it is whole.
pub(crate) fn taken(message: &Message, bytes: &[u8], sizes: &[usize]) -> (usize, bool) {
    let (mut message, mut at, mut sizes) = (message.clone(), 0, sizes.iter().cycle());
    while at < bytes.len() && !message.is_whole() {
        let size = sizes.next().copied().unwrap_or(bytes.len()).clamp(1, bytes.len() - at);
        let mine = message.take(&bytes[at..at + size]);
        at += mine;
        if mine < size {
            break;
        }
    }
    (at, message.is_whole())
}

#[cfg(test)]
#[path = "../crates/protocol/fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::{ALL, replay};

    #[test]
    fn the_corpus_is_understood_or_refused() {
        replay::corpus("tests/fuzz", &ALL);
    }

    #[test]
    fn changed_bytes_are_understood_or_refused() {
        replay::changed("tests/fuzz", &ALL, 100_000);
    }
}
