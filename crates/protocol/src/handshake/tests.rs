//! Two ends agree on the highest common version, and nothing but an opening is taken for one.

use proptest::prelude::*;

use super::*;
use crate::hex::hex;
use crate::layout::LayoutHash;
use crate::placement::Epoch;

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn header(from: &str, to: &str) -> Header {
    Header {
        cluster_id: "test".to_owned(),
        token: [7; 16],
        from: node(from),
        to: node(to),
        epoch: Epoch { number: 1, hash: LayoutHash(1) },
        partitions: 8,
        default_n: 3,
    }
}

fn opening(versions: Versions) -> Opening {
    let (cluster_id, token) = ("test".to_owned(), [7; 16]);
    let nonce = (versions.max >= PROTOCOL_PROVES).then_some([1; NONCE_BYTES]);
    Opening { versions, who: Who { cluster_id, token, from: node("n1"), to: node("n2") }, nonce }
}

fn keys() -> PeerKeys {
    PeerKeys::new(&[[5; 32]])
}

fn said(answer: &Answer, to: &Opening) -> Bytes {
    answer.to_bytes(bare(&to.to_bytes()), &keys(), &[2; NONCE_BYTES])
}

/// Without the prefix.
fn bare(bytes: &Bytes) -> &[u8] {
    &bytes[envelope::PREFIX_BYTES..]
}

#[test]
fn the_highest_common_version_is_chosen() {
    let range = |min, max| Versions { min, max };
    for (ours, theirs, common) in [
        (range(7, 8), range(7, 8), Some(8)),
        (range(7, 8), range(7, 7), Some(7)),
        (range(7, 7), range(7, 12), Some(7)),
        (range(7, 9), range(8, 12), Some(9)),
        (range(7, 8), range(9, 12), None),
        (range(9, 12), range(7, 8), None),
    ] {
        assert_eq!(ours.highest_common(&theirs), common);
        assert_eq!(theirs.highest_common(&ours), common);
        let answer = Answer::to(&opening(theirs), ours);
        assert_eq!(answer, Answer { versions: ours, chosen: common });
        assert_eq!(Answer::decode(bare(&said(&answer, &opening(theirs)))), Ok(answer));
    }
}

#[test]
fn a_node_is_held_only_at_versions_that_its_release_speaks() {
    assert_eq!(Versions::between(PROTOCOL_MIN, PROTOCOL_MAX), Versions::ALL);
    assert_eq!(Versions::between(0, u16::MAX), Versions::ALL);
    assert_eq!(Versions::between(0, PROTOCOL_MIN), Versions::only(PROTOCOL_MIN));
    assert_eq!(Versions::between(0, 0), Versions::only(PROTOCOL_MIN));
    let held_down = Versions::between(PROTOCOL_PROVES, PROTOCOL_MIN);
    assert_eq!(held_down, Versions::only(PROTOCOL_MIN), "the lower one counts");
    assert_eq!(Versions { min: 7, max: 9 }.to_string(), "7 to 9");
    assert_eq!(Versions::only(7).to_string(), "7");
}

/// Every release, past and to come, reads these bytes.
#[test]
fn the_bytes_of_a_handshake_never_change() {
    let bytes = opening(Versions { min: 7, max: 300 }).to_bytes();
    let expected = [
        &[35, 0, 0, 0, 3][..], // the prefix
        b"QRHS\x07\0\x2c\x01\0\0",
        b"\x04test",
        &[7; 16],
        b"\x02n1\x02n2",
        &[1; 16],
    ];
    let mut expected = expected.concat();
    expected[0] = (expected.len() - envelope::PREFIX_BYTES) as u8;
    assert_eq!(bytes, expected);
    let answer = Answer { versions: Versions { min: 7, max: 8 }, chosen: Some(8) };
    let of_before = opening(Versions::only(8));
    assert_eq!(said(&answer, &of_before)[..], b"\x0a\0\0\0\x03QRHS\x07\0\x08\0\x08\0"[..]);
    let answer = Answer { versions: Versions { min: 7, max: 9 }, chosen: Some(9) };
    let bytes = said(&answer, &opening(Versions { min: 7, max: 300 }));
    assert_eq!(bytes[..15], b"\x3a\0\0\0\x03QRHS\x07\0\x09\0\x09\0"[..]);
    assert_eq!(bytes[15..31], [2; 16]);
    let proof = opener_proof(b"opening", b"answer", &keys());
    assert_eq!(proof[..9], b"\x24\0\0\0\x03QRHP"[..]);
    assert_eq!(hex(&bytes[31..]), ACCEPTOR_PROOF);
    assert_eq!(hex(&proof[9..]), OPENER_PROOF);
}

const ACCEPTOR_PROOF: &str = "31c277d39df8171275b34d31029bd75c8fd696f2f7f164ace49c12f6bee14d77";
const OPENER_PROOF: &str = "2dab4a66f7162402d63bb636c3ee6799068b3f22bc9aedc78e7b65c21e0d5d8a";

/// Whoever changes a byte on the way, or has no key, or plays back what another stream carried, gets nothing.
#[test]
fn both_ends_are_proved_for_their_stream_alone() {
    let opened = opening(Versions::ALL);
    let (opening, answer) = (opened.to_bytes(), Answer::to(&opened, Versions::ALL));
    let opening = bare(&opening);
    let answered = said(&answer, &opened);
    let answered = bare(&answered);
    assert!(answer.proves() && Answer::is_proved(opening, answered, &keys()));
    let proof = opener_proof(opening, answered, &keys());
    assert!(is_opener_proof(bare(&proof), opening, answered, &keys()));

    for at in 0..opening.len() {
        let mut changed = opening.to_vec();
        changed[at] ^= 1;
        assert!(!Answer::is_proved(&changed, answered, &keys()), "opening {at}");
        assert!(!is_opener_proof(bare(&proof), &changed, answered, &keys()), "opening {at}");
    }
    for at in 0..answered.len() {
        let mut changed = answered.to_vec();
        changed[at] ^= 1;
        assert!(!Answer::is_proved(opening, &changed, &keys()), "answer {at}");
        assert!(!is_opener_proof(bare(&proof), opening, &changed, &keys()), "answer {at}");
        assert!(!Answer::is_proved(opening, &answered[..at], &keys()), "answer cut at {at}");
    }
    let stranger = PeerKeys::new(&[[6; 32]]);
    assert!(!Answer::is_proved(opening, answered, &stranger));
    assert!(!is_opener_proof(bare(&proof), opening, answered, &stranger));
    let reflected = [&PROOF_MAGIC[..], &answered[FIXED_BYTES + NONCE_BYTES..]].concat();
    assert!(!is_opener_proof(&reflected, opening, answered, &keys()), "sent back");
    for len in 0..bare(&proof).len() {
        assert!(!is_opener_proof(&bare(&proof)[..len], opening, answered, &keys()), "{len}");
    }
}

/// A token is shown only to nodes that may speak a version which needs it.
#[test]
fn a_node_that_proves_itself_shows_no_token() {
    let header = header("n1", "n2");
    assert_eq!(Who::of(&header, Versions::ALL).token, [7; 16]);
    assert_eq!(Who::of(&header, Versions::only(PROTOCOL_PROVES)).token, [0; 16]);
}

#[test]
fn a_later_release_may_say_more() {
    let opening = opening(Versions::ALL);
    let longer = [bare(&opening.to_bytes()), b"and more"].concat();
    assert_eq!(Opening::decode(&longer), Ok(opening.clone()));
    let answer = Answer { versions: Versions::ALL, chosen: None };
    let longer = [bare(&said(&answer, &opening)), b"and more"].concat();
    assert_eq!(Answer::decode(&longer), Ok(answer));
}

#[test]
fn what_is_no_handshake_is_refused() {
    let whole = opening(Versions::ALL).to_bytes();
    for len in 0..bare(&whole).len() {
        assert!(Opening::decode(&bare(&whole)[..len]).is_err(), "{len}");
    }
    for bytes in [
        &b"QRMQ\x07\0\x08\0\x08\0"[..],
        b"QRHS\x08\0\x07\0\x07\0", // the lowest above the highest
        b"QRHS\0\0\x07\0\x07\0",
        b"QRHS\x07\0\x08\0\x09\0", // chosen, and not spoken
    ] {
        assert!(Answer::decode(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn who_opens_a_stream_is_checked_as_the_sender_of_a_frame() {
    let mine = header("n2", "n1");
    let who = opening(Versions::ALL).who;
    assert_eq!(who.check(&mine), Ok(()));
    let other = Who { cluster_id: "other".to_owned(), ..who.clone() };
    assert!(matches!(other.check(&mine), Err(FrameError::Cluster { .. })));
    let other = Who { to: node("n3"), ..who.clone() };
    assert!(matches!(other.check(&mine), Err(FrameError::Receiver { .. })));
    let other = Who { from: node("n9"), ..who };
    assert_eq!(other.check(&mine), Ok(()), "it may have been a member");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let marked = [&MAGIC[..], &bytes].concat();
        for bytes in [&bytes, &marked] {
            let _ = (Opening::decode(bytes), Answer::decode(bytes));
            prop_assert!(!Answer::is_proved(b"x", bytes, &keys()));
            prop_assert!(!is_opener_proof(bytes, b"x", b"y", &keys()));
        }
    }
}
