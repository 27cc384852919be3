//! Token tables converge, and what is revoked stays so.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::access::Scope;
use crate::token::Secret;

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn change(at: u64) -> Change {
    Change { stamp: Stamp::at(WallTime(at)), node: node("n1") }
}

fn token(at: u64) -> Token {
    Token {
        created: change(at),
        hash: Secret::new([7; 32]).hash(),
        name: "t".to_owned(),
        scopes: vec![Scope::everything()],
        expires: None,
        rate_per_s: None,
        by: None,
    }
}

fn id(number: u64) -> TokenId {
    TokenId::of(u128::from(number))
}

/// A token with number i is made at time i + 1, everywhere.
fn made(number: u64) -> Table {
    Table::making(id(number), token(number + 1))
}

/// Any table that can come about: of each of six tokens nothing, the token, or a revocation, and a floor.
fn tables() -> impl Strategy<Value = Table> {
    (vec(0..4u64, 6), 0..8u64).prop_map(|(states, floor)| {
        let mut table = Table::default();
        for (number, state) in (0u64..).zip(states) {
            let (created, revoked) = (change(number + 1), change(100 + state));
            let record = match state {
                0 => continue,
                1 => Record::Made(token(number + 1)),
                _ => Record::Revoked { created, revoked },
            };
            table.records.insert(id(number), record);
        }
        let floor = if floor == 0 { Stamp::default() } else { Stamp::at(WallTime(floor)) };
        Table { floor, ..table }
    })
}

fn merged(one: &Table, other: &Table) -> Table {
    let mut both = one.clone();
    let changed = both.merge(other);
    assert_eq!(changed, both != *one);
    both
}

proptest! {
    #[test]
    fn merging_is_in_any_order_and_as_often_as_you_like(
        (a, b, c) in (tables(), tables(), tables()),
    ) {
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &a), a.clone());
        let both = merged(&a, &b);
        prop_assert_eq!(merged(&both, &b), both);
    }

    /// Nodes make and revoke tokens, exchange tables and parts of them in any order, and forget when all of
    /// them are equal: whoever has heard of a revocation, in whatever way, never takes the token again.
    #[test]
    fn what_is_revoked_stays_revoked(steps in vec((0..6u8, 0..3usize, 0..3usize, 0..6u64), 1..60)) {
        let mut nodes = vec![Table::default(); 3];
        let mut dead: Vec<Vec<TokenId>> = vec![Vec::new(); 3];
        let mut ids = Vec::new();
        for (number, (what, a, b, which)) in (0u64..).zip(steps) {
            let now = WallTime(which); // clocks that stand still, or run backwards
            let some = ids.get(which as usize % ids.len().max(1)).copied();
            match (what, some) {
                (0, _) => {
                    let token = Token { created: nodes[a].next(node("n1"), now), ..token(0) };
                    nodes[a].merge(&Table::making(id(number), token));
                    ids.push(id(number));
                }
                (1, Some(id)) => {
                    if let Some(part) = nodes[a].revoking(id, change(which)) {
                        nodes[a].merge(&part);
                        dead[a].push(id);
                        if nodes[b].record(id).is_some() {
                            nodes[b].merge(&part);
                            dead[b].push(id);
                        }
                    }
                }
                (2, _) if nodes.iter().all(|table| *table == nodes[0]) => {
                    nodes[a].fold(now);
                }
                (_, _) => {
                    let (theirs, heard) = (nodes[b].clone(), dead[b].clone());
                    nodes[a].merge(&theirs);
                    dead[a].extend(heard);
                }
            }
            for (table, dead) in nodes.iter().zip(&dead) {
                for id in dead {
                    prop_assert!(!table.tokens().any(|(live, _)| live == *id), "{} lives", id);
                }
            }
        }
    }
}

#[test]
fn a_copy_from_before_brings_no_token_back() {
    let mut all = made(1);
    all.merge(&made(2));
    let backup = all.clone();
    let part = all.revoking(id(1), change(50)).unwrap();
    all.merge(&part);
    assert!(all.fold(WallTime(60)));
    assert_eq!((all.len(), all.record(id(1))), (1, None));
    let mut restored = backup;
    restored.merge(&all);
    assert_eq!(restored, all);
    let mut late = Table::default();
    late.merge(&all);
    late.merge(&made(1));
    assert!(late.record(id(1)).is_none() && late.record(id(2)).is_some());
}

#[test]
fn the_expired_are_forgotten_a_day_later() {
    let expires = WallTime(1_000);
    let mut table = Table::making(id(1), Token { expires: Some(expires), ..token(1) });
    assert_eq!((table.in_use(WallTime(999)), table.in_use(expires)), (1, 0));
    assert!(!table.fold(WallTime(1_000 + EXPIRED_MS - 1)));
    assert!(table.fold(WallTime(1_000 + EXPIRED_MS)));
    assert!(table.is_empty() && !table.is_new());
}

#[test]
fn two_nodes_that_revoke_agree_on_when() {
    let both = |a, b| {
        let mut one = made(1).revoking(id(1), change(a)).unwrap();
        one.merge(&made(1).revoking(id(1), change(b)).unwrap());
        one
    };
    assert_eq!(both(5, 9), both(9, 5));
    assert_eq!(both(5, 9).hash(), both(9, 5).hash());
    assert!(made(1).revoking(id(2), change(1)).is_none());
}
