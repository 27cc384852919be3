//! What requests ask of the layout, checked part by part so that every error names the part.

use std::collections::BTreeSet;

use quorate_engine::membership::change::{Agreed, Wanted};
use quorate_engine::membership::waiting::Waiting;
use quorate_protocol::name::NodeId;
use quorate_protocol::plan::{CHANGES_MAX, Change, NewNode, Replacement, Warning};
use quorate_protocol::record::{DiskId, RecordHash};
use serde::Deserialize;

use crate::api::problem::{Kind, Problem, echo};

/// The body of `POST /layout/plan`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct PlanBody {
    base: Option<String>,
    changes: Vec<Asked>,
    #[serde(default)]
    gone: Vec<String>,
}

/// The body of `POST /layout/commit`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct CommitBody {
    base: String,
    result: String,
    changes: Vec<Asked>,
    #[serde(default)]
    gone: Vec<String>,
    #[serde(default)]
    accept: BTreeSet<String>,
}

/// The body of `POST /layout/abort`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct AbortBody {
    base: String,
    #[serde(default)]
    lost: Vec<String>,
}

/// The body of `POST /layout/release`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ReleaseBody {
    base: String,
    node: String,
    lost: bool,
}

/// One change. Which members it needs depends on `op`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    op: Op,
    name: Option<String>,
    old: Option<String>,
    new: Option<String>,
    zone: Option<String>,
    weight: Option<u16>,
    peer_addr: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Add,
    Remove,
    Replace,
    Set,
}

impl Op {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Replace => "replace",
            Self::Set => "set",
        }
    }
}

impl PlanBody {
    /// What it asks for, with what is known of the processes that asked to join.
    ///
    /// # Errors
    /// 400 that names the part that is wrong; 409 if two processes of one name wait.
    pub(in crate::api) fn resolve(
        self,
        waiting: &[Waiting],
    ) -> Result<(Option<RecordHash>, Wanted), Problem> {
        let base = self.base.as_deref().map(|base| hash("base", base)).transpose()?;
        Ok((base, wanted(self.changes, &self.gone, waiting)?))
    }
}

impl CommitBody {
    /// As [`PlanBody::resolve`].
    ///
    /// # Errors
    /// As [`PlanBody::resolve`].
    pub(in crate::api) fn resolve(self, waiting: &[Waiting]) -> Result<(Agreed, Wanted), Problem> {
        let (base, result) = (hash("base", &self.base)?, hash("result", &self.result)?);
        if let Some(other) =
            self.accept.iter().find(|name| !Warning::NAMES.contains(&name.as_str()))
        {
            let names = Warning::NAMES.join(", ");
            let detail = format!("accept: {} is no warning; these are: {names}", echo(other));
            return Err(bad(detail));
        }
        let agreed = Agreed { base, result, accept: self.accept };
        Ok((agreed, wanted(self.changes, &self.gone, waiting)?))
    }
}

impl AbortBody {
    /// The record that it is about, and the joining nodes that are lost.
    ///
    /// # Errors
    /// 400 that names the part that is wrong.
    pub(in crate::api) fn resolve(self) -> Result<(RecordHash, BTreeSet<NodeId>), Problem> {
        Ok((hash("base", &self.base)?, nodes("lost", &self.lost)?))
    }
}

impl ReleaseBody {
    /// The record that it is about, and the leaving node that is lost.
    ///
    /// # Errors
    /// 400 that names the part that is wrong.
    pub(in crate::api) fn resolve(self) -> Result<(RecordHash, NodeId), Problem> {
        let (base, lost) = (hash("base", &self.base)?, node("node", &self.node)?);
        match self.lost {
            true => Ok((base, lost)),
            false => Err(bad("lost: must be true: a node that is alive is released by itself")),
        }
    }
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::BadBody, detail)
}

fn hash(name: &str, text: &str) -> Result<RecordHash, Problem> {
    let fits = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match u128::from_str_radix(text, 16) {
        Ok(number) if fits => Ok(RecordHash(number)),
        Ok(_) | Err(_) => {
            let detail = "must be the hash of a record or of a plan: 32 digits of 0-9 a-f";
            Err(bad(format!("{name}: {detail}, not {}", echo(text))))
        }
    }
}

fn node(name: &str, text: &str) -> Result<NodeId, Problem> {
    NodeId::parse(text).map_err(|error| bad(format!("{name}: {error}, not {}", echo(text))))
}

fn nodes(name: &str, texts: &[String]) -> Result<BTreeSet<NodeId>, Problem> {
    let of = |(at, text): (usize, &String)| node(&format!("{name}[{at}]"), text);
    texts.iter().enumerate().map(of).collect()
}

fn wanted(changes: Vec<Asked>, gone: &[String], waiting: &[Waiting]) -> Result<Wanted, Problem> {
    if changes.len() > CHANGES_MAX {
        let detail = format!("changes: at most {CHANGES_MAX} can be planned at once");
        return Err(bad(format!("{detail}, not {}", changes.len())));
    }
    let of = |(at, asked): (usize, Asked)| asked.resolve(&format!("changes[{at}]"), waiting);
    let changes = changes.into_iter().enumerate().map(of).collect::<Result<_, _>>()?;
    Ok(Wanted { changes, gone: nodes("gone", gone)? })
}

impl Asked {
    fn resolve(self, place: &str, waiting: &[Waiting]) -> Result<Change, Problem> {
        self.check(place)?;
        let named = |name: &str, text: &Option<String>| {
            node(&format!("{place}.{name}"), text.as_deref().unwrap_or_default())
        };
        match self.op {
            Op::Remove => Ok(Change::Remove { node: named("name", &self.name)? }),
            Op::Set => Ok(Change::Set {
                node: named("name", &self.name)?,
                weight: self.weight,
                zone: self.zone,
                peer_addr: self.peer_addr,
            }),
            Op::Add => {
                let new = joiner(named("name", &self.name)?, waiting)?;
                Ok(Change::Add(NewNode {
                    node: new.node,
                    disk: new.disk,
                    zone: self.zone.unwrap_or(new.zone),
                    weight: self.weight.unwrap_or(new.weight),
                    peer_addr: new.peer_addr,
                    client_addr: new.client_addr,
                }))
            }
            Op::Replace => {
                let new = joiner(named("new", &self.new)?, waiting)?;
                let new = Replacement {
                    node: new.node,
                    disk: new.disk,
                    zone: self.zone,
                    weight: self.weight,
                    peer_addr: new.peer_addr,
                    client_addr: new.client_addr,
                };
                Ok(Change::Replace { old: named("old", &self.old)?, new })
            }
        }
    }

    /// Checks that it has what its `op` needs, and nothing else.
    fn check(&self, place: &str) -> Result<(), Problem> {
        let is_replace = matches!(self.op, Op::Replace);
        let (has_zone, is_set) = (!matches!(self.op, Op::Remove), matches!(self.op, Op::Set));
        // Whether it is given, needed, allowed.
        let parts = [
            ("name", self.name.is_some(), !is_replace, !is_replace),
            ("old", self.old.is_some(), is_replace, is_replace),
            ("new", self.new.is_some(), is_replace, is_replace),
            ("zone", self.zone.is_some(), false, has_zone),
            ("weight", self.weight.is_some(), false, has_zone),
            ("peer_addr", self.peer_addr.is_some(), false, is_set),
        ];
        for (name, is_given, is_needed, is_allowed) in parts {
            let op = self.op.name();
            if is_given && !is_allowed {
                return Err(bad(format!("{place}.{name}: is not for op {op}")));
            }
            if is_needed && !is_given {
                return Err(bad(format!("{place}.{name}: is needed for op {op}")));
            }
        }
        if is_set && self.zone.is_none() && self.weight.is_none() && self.peer_addr.is_none() {
            let detail = "sets nothing: give zone, weight or peer_addr";
            return Err(bad(format!("{place}: {detail}")));
        }
        Ok(())
    }
}

/// The process of this name that asked to join. If there is none, one that no process is: so that the change
/// can be planned, which is then refused by name.
fn joiner(name: NodeId, waiting: &[Waiting]) -> Result<Waiting, Problem> {
    let mut found = waiting.iter().filter(|it| it.node == name);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.clone()),
        (Some(one), Some(other)) => {
            let detail = format!(
                "two processes of the name {name} asked to join, with disks {} and {}: stop one, and \
                 wait half a minute",
                one.disk, other.disk
            );
            Err(Problem::new(Kind::NameTaken, detail))
        }
        (None, _) => Ok(Waiting {
            node: name,
            disk: DiskId::of_name("nobody", name),
            peer_addr: format!("{name}.invalid:1"),
            client_addr: None,
            zone: name.to_string(),
            weight: 1,
            since: quorate_protocol::time::Uptime(0),
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::time::Uptime;

    use super::*;
    use crate::api::body::parse_json;

    fn waiting(name: &str, disk: u128) -> Waiting {
        Waiting {
            node: NodeId::parse(name).unwrap(),
            disk: DiskId(disk),
            peer_addr: format!("{name}:7"),
            client_addr: None,
            zone: "z".to_owned(),
            weight: 2,
            since: Uptime(0),
        }
    }

    fn planned(text: &str, list: &[Waiting]) -> Result<Vec<Change>, Problem> {
        parse_json::<PlanBody>(text.as_bytes())?.resolve(list).map(|(_, wanted)| wanted.changes)
    }

    #[test]
    fn a_joining_node_is_taken_as_it_asked_unless_the_change_says_otherwise() {
        let list = [waiting("n4", 4)];
        let text = r#"{"changes":[{"op":"add","name":"n4"}]}"#;
        let Change::Add(new) = &planned(text, &list).unwrap()[0] else { panic!("{text}") };
        assert_eq!((new.disk, new.zone.as_str(), new.weight), (DiskId(4), "z", 2));
        let text = r#"{"changes":[{"op":"add","name":"n4","zone":"y","weight":3}]}"#;
        let Change::Add(new) = &planned(text, &list).unwrap()[0] else { panic!("{text}") };
        assert_eq!((new.zone.as_str(), new.weight, new.peer_addr.as_str()), ("y", 3, "n4:7"));
        let text = r#"{"changes":[{"op":"replace","old":"n3","new":"n4"}]}"#;
        let Change::Replace { new, .. } = &planned(text, &list).unwrap()[0] else {
            panic!("{text}")
        };
        assert_eq!((new.zone.as_ref(), new.weight, new.disk), (None, None, DiskId(4)), "inherited");
        let nobody = planned(r#"{"changes":[{"op":"add","name":"n9"}]}"#, &list).unwrap();
        assert!(matches!(&nobody[0], Change::Add(new) if new.disk != DiskId(4)), "refused later");
        let two = [waiting("n4", 4), waiting("n4", 5)];
        let text = r#"{"changes":[{"op":"add","name":"n4"}]}"#;
        assert_eq!(planned(text, &two).unwrap_err().kind(), Kind::NameTaken);
    }

    #[test]
    fn every_error_names_the_part_that_is_wrong() {
        for (changes, part) in [
            (r#"[{"op":"add"}]"#, "changes[0].name: is needed for op add"),
            (
                r#"[{"op":"remove","name":"n1","zone":"z"}]"#,
                "changes[0].zone: is not for op remove",
            ),
            (r#"[{"op":"set","name":"n1","old":"n2","weight":1}]"#, "changes[0].old: is not for"),
            (r#"[{"op":"set","name":"n1"}]"#, "changes[0]: sets nothing"),
            (r#"[{"op":"add","name":"n1","peer_addr":"a:1"}]"#, "changes[0].peer_addr: is not for"),
            (r#"[{"op":"remove","name":"n1"},{"op":"replace","old":"n2"}]"#, "changes[1].new: is"),
            (r#"[{"op":"remove","name":"N 1"}]"#, "changes[0].name: "),
            (r#"[{"op":"drop","name":"n1"}]"#, "unknown variant `drop`"),
            (r#"[{"op":"remove","name":"n1","x":1}]"#, "unknown field `x`"),
            (r#"[{"op":"add","name":"n4","weight":70000}]"#, "invalid value"),
            (r#"{}"#, "invalid type: map"),
        ] {
            let text = format!(r#"{{"changes":{changes}}}"#);
            let problem = planned(&text, &[]).unwrap_err();
            assert_eq!(problem.kind(), Kind::BadBody, "{text}");
            assert!(problem.detail().starts_with(part), "{text}: {}", problem.detail());
        }
        for (text, part) in [
            (r#"{"changes":[],"base":"12"}"#, "base: "),
            (r#"{"changes":[],"base":"+0000000000000000000000000000001"}"#, "base: "),
            (r#"{"changes":[],"gone":["n1","N"]}"#, "gone[1]: "),
            (r#"{"changes":[],"accept":[]}"#, "unknown field `accept`"),
            (r#"{}"#, "missing field `changes`"),
        ] {
            let problem = planned(text, &[]).unwrap_err();
            assert!(problem.detail().starts_with(part), "{text}: {}", problem.detail());
        }
        let many = vec![r#"{"op":"remove","name":"n1"}"#; CHANGES_MAX + 1].join(",");
        let problem = planned(&format!(r#"{{"changes":[{many}]}}"#), &[]).unwrap_err();
        assert!(problem.detail().starts_with("changes: at most"), "{}", problem.detail());
    }

    #[test]
    fn only_warnings_that_exist_can_be_accepted() {
        let zeros = "0".repeat(32);
        let commit = |accept: &str| {
            let text = format!(
                r#"{{"base":"{zeros}","result":"{zeros}","changes":[],"accept":{accept}}}"#
            );
            parse_json::<CommitBody>(text.as_bytes()).unwrap().resolve(&[])
        };
        assert!(commit(r#"["zone_shared"]"#).is_ok());
        let problem = commit(r#"["zone_shard"]"#).unwrap_err();
        assert!(problem.detail().starts_with("accept: zone_shard is no"), "{}", problem.detail());
        let refusals = commit(r#"["node_up"]"#).unwrap_err();
        assert_eq!(refusals.kind(), Kind::BadBody, "a refusal cannot be accepted");
        let release = |lost: &str| {
            let body = format!(r#"{{"base":"{zeros}","node":"n2","lost":{lost}}}"#);
            parse_json::<ReleaseBody>(body.as_bytes())
        };
        let n2 = NodeId::parse("n2").unwrap();
        assert_eq!(release("true").unwrap().resolve().unwrap(), (RecordHash(0), n2));
        let alive = release("false").unwrap().resolve().unwrap_err();
        assert!(alive.detail().starts_with("lost: "), "{}", alive.detail());
        assert!(release("1").is_err());
        let abort = parse_json::<AbortBody>(format!(r#"{{"base":"{zeros}"}}"#).as_bytes());
        assert_eq!(abort.unwrap().resolve().unwrap(), (RecordHash(0), BTreeSet::new()));
    }
}
