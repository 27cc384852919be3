//! What the decisions of one PUT and one GET cost, without I/O: run it under `valgrind` and divide
//! allocations and instructions by the number of operations (the first argument, 10000 by default;
//! `put` or `get` as the second runs only those).

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use quorate_protocol::bucket::Properties;
use quorate_protocol::get::{self, Get, Reply};
use quorate_protocol::name::NodeId;
use quorate_protocol::object::Object;
use quorate_protocol::put::{self, Put};
use quorate_protocol::terms::{Lists, QuorumOptions, Terms};
use quorate_protocol::time::Uptime;

const DEADLINE: Uptime = Uptime(5000);

fn main() {
    let mut args = std::env::args().skip(1);
    let count: u64 = args.next().map_or(10_000, |count| count.parse().unwrap());
    let only = args.next();
    let list: Vec<NodeId> = (1..=5).map(|i| NodeId::parse(&format!("n{i}")).unwrap()).collect();
    let down = BTreeSet::new();
    for _ in 0..count {
        if only.as_deref() != Some("get") {
            assert!(put(&list, &down));
        }
        if only.as_deref() != Some("put") {
            assert!(get(&list, &down));
        }
    }
}

/// A PUT that all three home replicas acknowledge. Returns whether it was acknowledged.
fn put(list: &[NodeId], down: &BTreeSet<NodeId>) -> bool {
    let lists = Lists { stable: list, next: None };
    let terms = Terms::of_write(&QuorumOptions::default(), &Properties::default(), lists).unwrap();
    let sets = terms.asked_sets(Some(list[0]));
    let plan = put::Plan {
        me: list[0],
        sets,
        counts_me: true,
        fallbacks: terms.fallbacks,
        sloppy: terms.sloppy,
        replica_timeout_ms: 1000,
        deadline: DEADLINE,
    };
    let (mut put, _) = Put::start(plan, down, Uptime(0));
    let mut is_written = false;
    for node in &list[..3] {
        for effect in put.on_ack(*node) {
            is_written |= matches!(effect, put::Effect::Answer(put::Answer::Written(_)));
        }
    }
    is_written && put.is_done()
}

/// A GET that finds nothing on two of three. Returns whether it was answered.
fn get(list: &[NodeId], down: &BTreeSet<NodeId>) -> bool {
    let lists = Lists { stable: list, next: None };
    let terms = Terms::of_read(&QuorumOptions::default(), &Properties::default(), lists).unwrap();
    let plan = get::Plan {
        sets: terms.sets,
        fallbacks: terms.fallbacks,
        sloppy: terms.sloppy,
        hedge_ms: Some(5),
        replica_timeout_ms: 1000,
        deadline: DEADLINE,
    };
    let (mut get, _) = Get::start(plan, down, Uptime(0));
    let version = Object::default().version();
    get.on_reply(list[0], Reply::Object(Object::default()), Uptime(1));
    let effects = get.on_reply(list[1], Reply::Digest(version), Uptime(1));
    let is_read = matches!(effects[..], [get::Effect::Answer(get::Answer::Read(_))]);
    is_read && get.is_done()
}
