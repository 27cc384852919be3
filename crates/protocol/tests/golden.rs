//! Golden scripts: scenarios of the PUT, GET and ROUTE machines, each with the expected effects
//! below it.
//!
//! A script sets up a cluster, feeds a machine events at given times, and lists every effect on its
//! own line: the time in milliseconds, the node, the effect. `UPDATE_GOLDENFILES=1 cargo test`
//! regenerates these lines; review them before committing. Nodes are `n1`, `n2`, … in the order of
//! the preference list. The commands:
//!
//! * `cluster nodes=5 n=3` — the number of nodes, of which the first n are home replicas; `down n3
//!   …`.
//! * `object NAME WRITE… over=OTHER` — an object with these siblings that supersedes another
//!   object.
//! * `put BY w=2`, `get BY r=2`, `route BY` — starts a machine; `sloppy=`, `timeout=`, `deadline=`,
//!   `hedge=`, `at_first_home=`, `mints_once=`, `accept=`, `answer=` (milliseconds, true or false).
//! * `ack`, `refused`, `silent`, `holds NODE OBJECT`, `digest NODE OBJECT`, `no_hint`, `not_ready`,
//!   `accepted`, `answer NODE` — events; `until 300` lets time pass; `wake` shows the next alarm.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use quorate_protocol::clock::{Actor, Dot};
use quorate_protocol::data_type::Part;
use quorate_protocol::get::{self, Get, ReadKind, Reply, RowKind};
use quorate_protocol::name::NodeId;
use quorate_protocol::object::{Metadata, Object, Sibling, Version, WriteId};
use quorate_protocol::put::{self, Acks, Put, Role};
use quorate_protocol::quorum_sets::QuorumSets;
use quorate_protocol::route::{self, Route};
use quorate_protocol::stamp::Stamp;
use quorate_protocol::time::Uptime;

#[test]
fn put_scenarios() {
    run_all("put", 9);
}

#[test]
fn get_scenarios() {
    run_all("get", 9);
}

#[test]
fn route_scenarios() {
    run_all("route", 5);
}

/// Runs every script of a folder. Each starts with a comment that says what should happen.
fn run_all(folder: &str, at_least: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts").join(folder);
    let mut scripts: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() >= at_least, "scenarios are missing: {scripts:?}");
    for script in scripts {
        let text = std::fs::read_to_string(&script).unwrap();
        assert!(text.starts_with("# "), "{script:?} does not say what should happen");
        goldenscript::run(&mut Scenario::default(), &script).unwrap();
    }
}

type Failure = Box<dyn Error>;

/// One machine, its cluster and a clock.
#[derive(Default)]
struct Scenario {
    now: Uptime,
    nodes: u16,
    n: u16,
    down: BTreeSet<NodeId>,
    objects: BTreeMap<String, Object>,
    /// The names of the writes, by actor.
    writes: Vec<String>,
    machine: Option<Machine>,
    /// The entry node, for the left side of the lines.
    me: String,
    finished: bool,
}

enum Machine {
    Put(Put),
    Get(Get),
    Route(Route),
}

/// The arguments of a command, checked for leftovers.
struct Args<'a>(goldenscript::ArgumentConsumer<'a>);

impl Args<'_> {
    fn word(&mut self) -> Result<String, Failure> {
        Ok(self.0.next_pos().ok_or("an argument is missing")?.to_owned())
    }

    fn node(&mut self) -> Result<NodeId, Failure> {
        Ok(NodeId::parse(&self.word()?)?)
    }

    fn setting<T: std::str::FromStr>(&mut self, name: &str, default: T) -> Result<T, Failure>
    where
        T::Err: Error + 'static,
    {
        Ok(self.0.take_key(name).map_or(Ok(default), str::parse)?)
    }
}

impl goldenscript::Runner for Scenario {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &Self::Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Failure> {
        let mut args = Args(command.consume_args());
        let mut out = String::new();
        match command.name.as_str() {
            "cluster" => {
                self.nodes = args.setting("nodes", 5)?;
                self.n = args.setting("n", 3)?;
            }
            "down" => {
                while let Some(node) = args.0.next_pos() {
                    self.down.insert(NodeId::parse(node)?);
                }
            }
            "object" => self.define(&mut args)?,
            "put" => self.start_put(&mut args, &mut out)?,
            "get" => self.start_get(&mut args, &mut out)?,
            "route" => self.start_route(&mut args, &mut out)?,
            "until" => self.until(args.word()?.parse()?, &mut out)?,
            "wake" => {
                writeln!(out, "next alarm: {}", self.next_wake().map_or(-1, |at| at.0 as i64))?
            }
            event => self.happens(event, &mut args, &mut out)?,
        }
        args.0.reject_next()?;
        self.note_the_end(&mut out)?;
        Ok(out)
    }
}

impl Scenario {
    fn list(&self, range: std::ops::Range<u16>) -> Vec<NodeId> {
        range.map(|at| NodeId::parse(&format!("n{}", at + 1)).unwrap()).collect()
    }

    fn define(&mut self, args: &mut Args<'_>) -> Result<(), Failure> {
        let (name, over) = (args.word()?, args.setting("over", String::new())?);
        let mut object = Object { clock: self.object(&over)?.clock, siblings: Vec::new() };
        while let Some(write) = args.0.next_pos() {
            let known = self.writes.iter().position(|known| known == write);
            let at = known.unwrap_or_else(|| {
                self.writes.push(write.to_owned());
                self.writes.len() - 1
            });
            let dot = Dot { actor: Actor(at as u64 + 1), counter: 1 };
            object.clock.advance(dot);
            object.siblings.push(Sibling {
                dot,
                part: Part::Value,
                value: Some(write.to_owned().into()),
                metadata: Metadata::default(),
                stamp: Stamp(at as u64),
                expires: None,
                writer: NodeId::parse("n1")?,
                write_id: WriteId([at as u8; 16]),
            });
        }
        object.siblings.sort_by_key(|sibling| sibling.dot);
        object.check()?;
        self.objects.insert(name, object);
        Ok(())
    }

    /// An object by name; no name and `nothing` are the absent one.
    fn object(&self, name: &str) -> Result<Object, Failure> {
        match name {
            "" | "nothing" => Ok(Object::default()),
            name => Ok(self.objects.get(name).ok_or("no such object")?.clone()),
        }
    }

    fn start_put(&mut self, args: &mut Args<'_>, out: &mut String) -> Result<(), Failure> {
        let me = args.node()?;
        self.me = me.to_string();
        let plan = put::Plan {
            me,
            sets: QuorumSets::one(self.list(0..self.n), args.setting("w", 2)?),
            counts_me: true,
            fallbacks: self.list(self.n..self.nodes),
            sloppy: args.setting("sloppy", true)?,
            replica_timeout_ms: args.setting("timeout", 100)?,
            deadline: Uptime(args.setting("deadline", 1000)?),
        };
        let (machine, effects) = Put::start(plan, &self.down, self.now);
        self.machine = Some(Machine::Put(machine));
        self.show_put(effects, out)
    }

    fn start_get(&mut self, args: &mut Args<'_>, out: &mut String) -> Result<(), Failure> {
        let me = args.node()?;
        self.me = me.to_string();
        let mut homes = self.list(0..self.n);
        homes.sort_by_key(|home| *home != me); // stable: this node first
        let hedge_ms: u64 = args.setting("hedge", 0)?;
        let plan = get::Plan {
            sets: QuorumSets::one(homes, args.setting("r", 2)?),
            fallbacks: self.list(self.n..self.nodes),
            sloppy: args.setting("sloppy", true)?,
            hedge_ms: (hedge_ms > 0).then_some(hedge_ms),
            replica_timeout_ms: args.setting("timeout", 100)?,
            deadline: Uptime(args.setting("deadline", 1000)?),
        };
        let (machine, effects) = Get::start(plan, &self.down, self.now);
        self.machine = Some(Machine::Get(machine));
        self.show_get(effects, out)
    }

    fn start_route(&mut self, args: &mut Args<'_>, out: &mut String) -> Result<(), Failure> {
        let me = args.node()?;
        self.me = me.to_string();
        let plan = route::Plan {
            me,
            homes: self.list(0..self.n),
            sloppy: args.setting("sloppy", true)?,
            at_first_home: args.setting("at_first_home", false)?,
            mints_once: args.setting("mints_once", false)?,
            accept_timeout_ms: args.setting("accept", 50)?,
            answer_timeout_ms: args.setting("answer", 300)?,
            deadline: Uptime(args.setting("deadline", 1000)?),
        };
        let (machine, effect) = Route::start(plan, &self.down, self.now);
        self.machine = Some(Machine::Route(machine));
        self.show_route(effect, out)
    }

    /// An event at a node.
    fn happens(
        &mut self,
        event: &str,
        args: &mut Args<'_>,
        out: &mut String,
    ) -> Result<(), Failure> {
        let (node, now) = (args.node()?, self.now);
        let held = args.0.next_pos().map(|name| self.object(name)).transpose()?;
        let machine = self.machine.as_mut().ok_or("nothing was started")?;
        match (machine, event) {
            (Machine::Put(put), event) => {
                let effects = match event {
                    "ack" => put.on_ack(node),
                    "refused" => put.on_refused(node, now),
                    "silent" => put.on_silent(node, now),
                    _ => return Err("no such event of a PUT".into()),
                };
                self.show_put(effects, out)
            }
            (Machine::Get(get), event) => {
                let effects = match (event, held) {
                    ("holds", Some(object)) => get.on_reply(node, Reply::Object(object), now),
                    ("digest", Some(object)) => {
                        get.on_reply(node, Reply::Digest(object.version()), now)
                    }
                    ("no_hint", None) => get.on_reply(node, Reply::NoHint, now),
                    ("not_ready", None) => get.on_reply(node, Reply::NotFilled, now),
                    ("refused", None) => get.on_reply(node, Reply::Refused, now),
                    ("silent", None) => get.on_silent(node, now),
                    _ => return Err("no such event of a GET".into()),
                };
                self.show_get(effects, out)
            }
            (Machine::Route(route), event) => {
                let effect = match event {
                    "accepted" => {
                        route.on_accepted(node, now);
                        None
                    }
                    "refused" => route.on_refused(node, now),
                    "silent" => route.on_silent(node, now),
                    "answer" => {
                        route.on_answer();
                        None
                    }
                    _ => return Err("no such event of a ROUTE".into()),
                };
                self.show_route(effect, out)
            }
        }
    }

    /// Advances time, stopping at every alarm.
    fn until(&mut self, end: u64, out: &mut String) -> Result<(), Failure> {
        while let Some(at) = self.next_wake().filter(|at| at.0 <= end) {
            assert!(at >= self.now, "an alarm in the past");
            self.now = at;
            match self.machine.as_mut() {
                Some(Machine::Put(put)) => {
                    let effects = put.on_time(at);
                    self.show_put(effects, out)?;
                }
                Some(Machine::Get(get)) => {
                    let effects = get.on_time(at);
                    self.show_get(effects, out)?;
                }
                Some(Machine::Route(route)) => {
                    let effect = route.on_time(at);
                    self.show_route(effect, out)?;
                }
                None => {}
            }
            assert!(self.next_wake() != Some(at), "an alarm that does not end");
        }
        self.now = Uptime(end);
        Ok(())
    }

    fn next_wake(&self) -> Option<Uptime> {
        match self.machine.as_ref()? {
            Machine::Put(put) => put.next_wake(),
            Machine::Get(get) => get.next_wake(),
            Machine::Route(route) => route.next_wake(),
        }
    }

    fn note_the_end(&mut self, out: &mut String) -> Result<(), Failure> {
        let done = match &self.machine {
            Some(Machine::Put(put)) => put.is_done(),
            Some(Machine::Get(get)) => get.is_done(),
            Some(Machine::Route(_)) | None => false,
        };
        if done && !self.finished {
            writeln!(out, "{:>4} {} done", self.now.0, self.me)?;
        }
        self.finished = done;
        Ok(())
    }

    fn show_put(&self, effects: Vec<put::Effect>, out: &mut String) -> Result<(), Failure> {
        for effect in effects {
            let line = match effect {
                put::Effect::Send { to, role: Role::Home } => format!("{to} store"),
                put::Effect::Send { to, role: Role::Hint { target } } => {
                    format!("{to} store hint_for={target}")
                }
                put::Effect::Answer(put::Answer::Written(acks)) => {
                    format!("client ok {}", shown(&acks))
                }
                put::Effect::Answer(put::Answer::NoQuorum(acks)) => {
                    format!("client no_quorum {} stored={}", shown(&acks), acks.stored)
                }
            };
            self.line(&line, out)?;
        }
        Ok(())
    }

    fn show_get(&self, effects: Vec<get::Effect>, out: &mut String) -> Result<(), Failure> {
        for effect in effects {
            let line = match effect {
                get::Effect::Ask { to, what, place } => {
                    let what = if what == ReadKind::Object { "object" } else { "digest" };
                    let place = if place == RowKind::Home { "" } else { " of hints" };
                    format!("{to} read {what}{place}")
                }
                get::Effect::Answer(get::Answer::Read(object)) => {
                    format!("client ok {}", self.named(&object))
                }
                get::Effect::Answer(get::Answer::NoQuorum { counted, refused, silent }) => {
                    let failures = failures(&refused, &silent);
                    format!("client no_quorum counted={counted}{failures}")
                }
                get::Effect::Repair(behind) => {
                    let Some(Machine::Get(get)) = &self.machine else { continue };
                    let to: Vec<_> = behind.iter().map(NodeId::as_str).collect();
                    format!("{} repair {}", to.join(","), self.named(get.merged()))
                }
            };
            self.line(&line, out)?;
        }
        Ok(())
    }

    fn show_route(
        &mut self,
        effect: Option<route::Effect>,
        out: &mut String,
    ) -> Result<(), Failure> {
        let line = match effect {
            None => return Ok(()),
            Some(route::Effect::Mint(Role::Home)) => format!("{} mint", self.me),
            Some(route::Effect::Mint(Role::Hint { target })) => {
                format!("{} mint hint_for={target}", self.me)
            }
            Some(route::Effect::Forward { to }) => format!("{to} forward"),
            Some(route::Effect::Fail(unrouted)) => {
                format!("client unrouted{}", failures(&unrouted.refused, &unrouted.silent))
            }
        };
        self.line(&line, out)
    }

    fn line(&self, what: &str, out: &mut String) -> Result<(), Failure> {
        Ok(writeln!(out, "{:>4} {} → {what}", self.now.0, self.me)?)
    }

    /// The siblings and what they superseded, by the names of their writes.
    fn named(&self, object: &Object) -> String {
        if object.version() == Version::ABSENT {
            return "nothing".to_owned();
        }
        let name = |dot: &Dot| self.writes[dot.actor.0 as usize - 1].as_str();
        let siblings: Vec<_> = object.siblings.iter().map(|s| name(&s.dot)).collect();
        let old = object.clock.entries().iter().filter(|dot| !object.has(**dot));
        let old: Vec<_> = old.map(name).collect();
        let over = if old.is_empty() { String::new() } else { format!(" over {}", old.join(" ")) };
        format!("{}{over}", siblings.join(" "))
    }
}

/// Which nodes hold a write and which do not.
fn shown(acks: &Acks) -> String {
    let failures = failures(&acks.refused, &acks.silent);
    format!("acks={} hints={}{failures}", acks.counted, acks.hints)
}

fn failures(refused: &[NodeId], silent: &[NodeId]) -> String {
    let mut out = String::new();
    for (word, nodes) in [("refused", refused), ("silent", silent)] {
        if !nodes.is_empty() {
            let nodes: Vec<_> = nodes.iter().map(NodeId::as_str).collect();
            write!(out, " {word}={}", nodes.join(",")).unwrap();
        }
    }
    out
}
