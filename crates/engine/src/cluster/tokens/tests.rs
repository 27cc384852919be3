//! How long a node trusts its tokens, and what it makes, revokes and forgets.

use quorate_protocol::token::Secret;

use super::*;
use crate::testing;

fn wanted(number: u64) -> Wanted {
    Wanted {
        id: TokenId::of(u128::from(number)),
        hash: Secret::new([number as u8; 32]).hash(),
        name: format!("t{number}"),
        scopes: vec![Scope::everything()],
        expires: None,
        rate_per_s: Some(5),
        by: None,
    }
}

fn names(all: &[&str]) -> Vec<NodeId> {
    all.iter().map(|name| NodeId::parse(name).unwrap()).collect()
}

#[tokio::test]
async fn a_table_is_trusted_for_a_while_after_a_majority_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let node = testing::node(dir.path(), "n1", &["n1"]);
    let members = names(&["n1", "n2", "n3", "n4", "n5"]);
    let tokens = Tokens::load(&node.store, 1_000).unwrap();
    let is_fresh = |at| tokens.is_fresh(Uptime(at), || members.clone());
    assert!(!is_fresh(0), "nobody was asked since the start");
    tokens.compared(members[1], Uptime(100), None, &members);
    assert!(!is_fresh(100), "two of five");
    tokens.compared(members[2], Uptime(300), None, &members);
    assert!(is_fresh(300) && is_fresh(1_099) && !is_fresh(1_100));
    tokens.compared(members[1], Uptime(1_200), None, &members);
    assert!(is_fresh(1_299) && !is_fresh(1_300));
    tokens.compared(NodeId::parse("gone").unwrap(), Uptime(1_300), None, &members);
    assert!(!is_fresh(1_300), "whoever is no member does not count");
    assert!(tokens.is_fresh(Uptime(9_000), || names(&["n1"])), "alone it is the majority");
}

#[tokio::test]
async fn it_is_known_since_when_two_tables_are_not_known_to_be_equal() {
    let dir = tempfile::tempdir().unwrap();
    let node = testing::node(dir.path(), "n1", &["n1"]);
    let members = names(&["n1", "n2", "n3"]);
    let tokens = Tokens::load(&node.store, 1_000).unwrap();
    let disagrees = |at| tokens.disagrees_for(members[1], Uptime(at));
    assert_eq!(disagrees(70), 70, "since the start");
    tokens.compared(members[1], Uptime(100), Some(7), &members);
    assert_eq!((disagrees(100), disagrees(400)), (0, 300));
    tokens.compared(members[1], Uptime(500), None, &members);
    assert_eq!(disagrees(600), 500, "they were compared, and were not equal");
    tokens.compared(members[1], Uptime(700), Some(8), &members);
    assert_eq!((disagrees(701), tokens.disagrees_for(members[2], Uptime(701))), (1, 701));
}

#[tokio::test]
async fn what_is_made_and_revoked_outlives_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let node = testing::node(dir.path(), "n1", &["n1"]);
    let load = || Tokens::load(&node.store, 1_000).unwrap();
    let by = (node.me, WallTime(5));
    let tokens = load();
    assert!(tokens.is_new());
    tokens.make(&node.store, wanted(1), by).unwrap();
    tokens.make(&node.store, wanted(2), by).unwrap();
    let kept = tokens.find(wanted(2).id).unwrap();
    tokens.revoke(&node.store, wanted(1).id, by).unwrap();
    assert!(Arc::ptr_eq(&kept, &tokens.find(wanted(2).id).unwrap()), "with its pace");
    assert!(matches!(tokens.revoke(&node.store, wanted(3).id, by), Err(TokensError::Unknown)));
    let again = load();
    assert_eq!((again.hash(), again.count()), (tokens.hash(), 1));
    assert!(again.find(wanted(1).id).is_none());
    let nameless = Wanted { name: String::new(), ..wanted(4) };
    assert!(matches!(again.make(&node.store, nameless, by), Err(TokensError::Wanted(_))));
    assert_eq!(again.count(), 1);
}

#[tokio::test]
async fn tokens_are_bounded_and_the_revoked_forgotten_once_all_know() {
    let dir = tempfile::tempdir().unwrap();
    let node = testing::node(dir.path(), "n1", &["n1"]);
    let tokens = Tokens::load(&node.store, 1_000).unwrap();
    let by = (node.me, WallTime(5));
    let mut full = Table::default();
    for number in 0..TOKENS_MAX as u64 {
        let Wanted { id, hash, name, scopes, expires, rate_per_s, by } = wanted(number);
        let created = full.next(node.me, WallTime(5));
        full.merge(&Table::making(
            id,
            Token { created, hash, name, scopes, expires, rate_per_s, by },
        ));
    }
    tokens.merge(&node.store, &full).unwrap();
    assert!(matches!(tokens.make(&node.store, wanted(5_000), by), Err(TokensError::Full)));
    let peers = names(&["n2"]);
    for number in 0..DEAD_MAX as u64 {
        tokens.revoke(&node.store, wanted(number).id, by).unwrap();
    }
    let len = |tokens: &Tokens| tokens.table().len();
    tokens.compared(peers[0], Uptime(1), Some(tokens.hash() ^ 1), &peers);
    tokens.fold(&node.store, &peers, WallTime(9)).unwrap();
    assert_eq!(len(&tokens), TOKENS_MAX, "a peer has another table");
    tokens.compared(peers[0], Uptime(2), Some(tokens.hash()), &peers);
    tokens.fold(&node.store, &peers, WallTime(9)).unwrap();
    assert_eq!(len(&tokens), TOKENS_MAX - DEAD_MAX);
    tokens.merge(&node.store, &full).unwrap();
    assert_eq!(len(&tokens), TOKENS_MAX - DEAD_MAX, "an old copy brings none back");
    tokens.make(&node.store, wanted(5_000), by).unwrap();
}
