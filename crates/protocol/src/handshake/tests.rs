//! Two ends agree on the highest common version, and nothing but an opening is taken for one.

use proptest::prelude::*;

use super::*;
use crate::layout::LayoutHash;
use crate::placement::Epoch;

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn opening(versions: Versions) -> Opening {
    let (cluster_id, token) = ("test".to_owned(), [7; 16]);
    Opening { versions, who: Who { cluster_id, token, from: node("n1"), to: node("n2") } }
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
        assert_eq!(Answer::decode(bare(&answer.to_bytes())), Ok(answer));
    }
}

#[test]
fn a_node_is_held_only_at_versions_that_its_release_speaks() {
    assert_eq!(Versions::up_to(PROTOCOL_MAX), Versions::ALL);
    assert_eq!(Versions::up_to(PROTOCOL_MIN), Versions::only(PROTOCOL_MIN));
    assert_eq!(Versions::up_to(0), Versions::only(PROTOCOL_MIN));
    assert_eq!(Versions::up_to(u16::MAX), Versions::ALL);
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
    ];
    let mut expected = expected.concat();
    expected[0] = (expected.len() - envelope::PREFIX_BYTES) as u8;
    assert_eq!(bytes, expected);
    let answer = Answer { versions: Versions { min: 7, max: 8 }, chosen: Some(8) };
    assert_eq!(answer.to_bytes()[..], b"\x0a\0\0\0\x03QRHS\x07\0\x08\0\x08\0"[..]);
}

#[test]
fn a_later_release_may_say_more() {
    let opening = opening(Versions::ALL);
    let longer = [bare(&opening.to_bytes()), b"and more"].concat();
    assert_eq!(Opening::decode(&longer), Ok(opening));
    let answer = Answer { versions: Versions::ALL, chosen: None };
    let longer = [bare(&answer.to_bytes()), b"and more"].concat();
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
    let header = |from: &str, to: &str| Header {
        cluster_id: "test".to_owned(),
        token: [7; 16],
        from: node(from),
        to: node(to),
        epoch: Epoch { number: 1, hash: LayoutHash(1) },
        partitions: 8,
        default_n: 3,
    };
    let who = Who::of(&header("n1", "n2"));
    assert_eq!(who, opening(Versions::ALL).who);
    let check = |who: &Who| who.check(&header("n2", "n1"), &[[7; 16]]);
    assert_eq!(check(&who), Ok(()));
    let other = Who { cluster_id: "other".to_owned(), ..who.clone() };
    assert!(matches!(check(&other), Err(FrameError::Cluster { .. })));
    let other = Who { token: [8; 16], ..who.clone() };
    assert!(matches!(check(&other), Err(FrameError::Token { .. })));
    let other = Who { to: node("n3"), ..who.clone() };
    assert!(matches!(check(&other), Err(FrameError::Receiver { .. })));
    let other = Who { from: node("n9"), ..who };
    assert_eq!(check(&other), Ok(()), "it may have been a member");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let marked = [&MAGIC[..], &bytes].concat();
        for bytes in [&bytes, &marked] {
            let _ = (Opening::decode(bytes), Answer::decode(bytes));
        }
    }
}
