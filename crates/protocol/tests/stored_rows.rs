//! The bytes of rows in stores that exist: every release must decode them to the same rows.
//!
//! The golden bytes were written by the release before rows had a format number. A change that
//! makes this test fail makes rows on disk unreadable: rows of another layout need another format
//! (docs/decisions/0026-row-formats-and-kinds.md).

#![allow(clippy::unwrap_used)]

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use quorate_protocol::clock::{Actor, Clock, Dot};
use quorate_protocol::data_type::Part;
use quorate_protocol::kind::Kind;
use quorate_protocol::name::NodeId;
use quorate_protocol::object::{DecodeError, Metadata, Object, Sibling, WriteId};
use quorate_protocol::row::{Incarnation, Row, Tenure};
use quorate_protocol::stamp::Stamp;
use quorate_protocol::time::WallTime;

fn dot(actor: u64, counter: u64) -> Dot {
    Dot { actor: Actor(actor), counter }
}

fn sibling(dot: Dot, value: Option<&'static [u8]>, user: &[(&str, &str)]) -> Sibling {
    let user = user.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let content_type = value.map_or("", |_| "text/plain").to_owned();
    Sibling {
        part: Part::Value,
        dot,
        value: value.map(Bytes::from_static),
        metadata: Metadata { content_type, user: user.collect() },
        stamp: Stamp::at(WallTime(1_795_000_000_000 + dot.counter)),
        expires: None,
        writer: NodeId::parse("node-7").unwrap(),
        write_id: WriteId(std::array::from_fn(|at| (at as u8).wrapping_mul(17) ^ 0xa5)),
    }
}

fn object(superseded: &[Dot], siblings: Vec<Sibling>) -> Object {
    let mut clock = Clock::default();
    let dots = siblings.iter().map(|sibling| sibling.dot);
    superseded.iter().copied().chain(dots).for_each(|dot| clock.advance(dot));
    Object { clock, siblings }
}

fn tenure(actor: u64) -> Option<Tenure> {
    Some(Tenure { actor: Actor(actor), incarnation: Incarnation(0x1122_3344_5566_7788) })
}

/// Rows of all shapes, in the order of their golden bytes.
fn rows() -> Vec<Row> {
    let since = WallTime(1_795_123_456_789);
    let a = 0xfedc_ba98_7654_3210;
    let value = sibling(dot(a, 1), Some(b"2 apples"), &[]);
    let deleted = sibling(dot(a, 9), None, &[]);
    let many = vec![
        sibling(dot(3, 2), Some(b""), &[("colour", "gr\u{fc}n")]),
        sibling(dot(a, 300), Some(b"3 apples, 1 pear"), &[("a", ""), ("b", "2")]),
        sibling(dot(a, 70_000), None, &[]),
    ];
    vec![
        Row::default(),
        Row { tenure: tenure(a), tree: 3, since, object: object(&[], vec![value.clone()]) },
        Row { tenure: None, tree: 255, since, object: object(&[dot(5, 8)], vec![deleted]) },
        Row { tenure: tenure(a), tree: 1, since, object: object(&[dot(1, 1)], many) },
        Row { tenure: tenure(7), tree: 0, since: WallTime(1), object: object(&[], vec![value]) },
    ]
}

fn golden() -> Vec<Bytes> {
    let lines = include_str!("stored_rows.hex").lines().filter(|line| !line.starts_with('#'));
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    lines.map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
}

fn encoded(row: &Row) -> Bytes {
    let mut bytes = BytesMut::new();
    row.encode(&mut bytes);
    bytes.freeze()
}

#[test]
fn rows_are_read_and_written_as_ever() {
    let (rows, golden) = (rows(), golden());
    assert_eq!(rows.len(), golden.len());
    for (row, bytes) in rows.into_iter().zip(golden) {
        assert_eq!(Row::encoded_kind(&bytes), Ok(Kind::Value));
        assert_eq!(encoded(&row), bytes);
        assert_eq!(Row::decode(bytes), Ok(row));
    }
}

/// The encoding of rows before they had a format, written down once more.
fn encoded_before(row: &Row) -> Bytes {
    let tenure = row.tenure.map_or((0, 0), |tenure| (tenure.actor.0, tenure.incarnation.0));
    let mut out = BytesMut::new();
    out.put_u64_le(tenure.0);
    out.put_u64_le(tenure.1);
    out.put_slice(&row.object.version().0);
    out.put_u64_le(row.since.0);
    out.put_u16_le(row.tree);
    row.object.encode(&mut out);
    out.freeze()
}

/// The first moment that `since` cannot express: a few thousand years from now.
const SINCE_END: u64 = 1 << 48;

prop_compose! {
    fn any_row()(which in 0..5usize, actor in any::<u64>(), incarnation in any::<u64>(),
        since in 0..SINCE_END, tree in any::<u16>()) -> Row {
        let tenure = (actor != 0).then_some(Tenure {
            actor: Actor(actor),
            incarnation: Incarnation(incarnation),
        });
        Row { tenure, since: WallTime(since), tree, ..rows().swap_remove(which) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(1000)
    })]

    #[test]
    fn rows_without_a_format_are_rows_of_this_one(row in any_row()) {
        let bytes = encoded_before(&row);
        prop_assert_eq!(&encoded(&row), &bytes);
        prop_assert_eq!(Row::encoded_since(&bytes), Some(row.since));
        prop_assert_eq!(Row::encoded_tree(&bytes), Some(row.tree));
        prop_assert_eq!(Row::encoded_version(&bytes), Some(row.object.version()));
        prop_assert_eq!(Row::decode(bytes), Ok(row));
    }

    /// Nothing is read from a row in an unknown format, and of a row of an unknown kind only what
    /// is the same for all kinds.
    #[test]
    fn what_a_newer_release_wrote_is_named_and_not_read(
        row in any_row(), format in 1..u16::MAX, kind in 3..15u8, of_kind in 1..15u8,
    ) {
        let with = |at: usize, new: &[u8]| {
            let mut bytes = encoded(&row).to_vec();
            bytes[at..at + new.len()].copy_from_slice(new);
            Bytes::from(bytes)
        };
        let formatted = with(38, &format.to_le_bytes());
        prop_assert_eq!(Row::encoded_kind(&formatted), Err(DecodeError::RowFormat(format)));
        prop_assert_eq!(Row::encoded_version(&formatted), None);
        prop_assert_eq!(Row::encoded_since(&formatted), None);
        prop_assert_eq!(Row::encoded_tree(&formatted), None);
        prop_assert_eq!(Row::encoded_object(&formatted), None);
        prop_assert_eq!(Row::decode(formatted), Err(DecodeError::RowFormat(format)));
        let other = with(42, &[kind << 4 | of_kind]);
        prop_assert_eq!(Row::encoded_kind(&other), Err(DecodeError::Kind(kind)));
        prop_assert_eq!(Row::encoded_version(&other), Some(row.object.version()));
        prop_assert_eq!(Row::encoded_tree(&other), Some(row.tree));
        prop_assert!(Row::encoded_object(&other).is_some());
        prop_assert_eq!(Row::decode(other), Err(DecodeError::Kind(kind)));
    }

    /// However wrong a clock is, it makes no row of another format.
    #[test]
    fn a_time_that_does_not_fit_is_cut(row in any_row(), late in SINCE_END..) {
        let bytes = encoded(&Row { since: WallTime(late), ..row });
        prop_assert_eq!(Row::decode(bytes).unwrap().since, WallTime(SINCE_END - 1));
    }
}

#[test]
fn bytes_that_no_release_writes_are_damaged() {
    let row = encoded(&rows()[1]);
    let with = |at: usize, new: u8| {
        let mut bytes = row.to_vec();
        bytes[at] = new;
        Row::decode(bytes.into()).unwrap_err()
    };
    assert_eq!(with(42, 0xff), DecodeError::Damaged);
    assert_eq!(with(42, 0), DecodeError::Damaged);
    let all_ones = Bytes::from_static(&[255; 64]);
    assert_eq!(Row::decode(all_ones), Err(DecodeError::Damaged));
}
