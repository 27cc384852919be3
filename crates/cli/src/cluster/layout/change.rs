//! The changes that flags ask for, as `POST /layout/plan` takes them.

use serde_json::{Value, json};

use crate::exit::{Done, Failure};

/// What is to change. Each node in one of these only.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Changes {
    /// A node that joins; it must have asked to
    #[arg(long, value_name = "NODE")]
    add: Vec<String>,
    /// A member that leaves
    #[arg(long, value_name = "NODE")]
    remove: Vec<String>,
    /// A member that leaves, and the node that takes its place and its data
    #[arg(long, value_name = "OLD=NEW")]
    replace: Vec<Replaced>,
    /// A member that gets another --zone, --weight or --peer-addr
    #[arg(long, value_name = "NODE")]
    set: Vec<String>,
    /// The zone of the node that is added, set, or takes another's place
    #[arg(long)]
    zone: Option<String>,
    /// Its weight: its share of the data
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    weight: Option<u16>,
    /// The address, host:port, at which peers reach the node that is set
    #[arg(long, value_name = "HOST:PORT")]
    peer_addr: Option<String>,
    /// A member that leaves and is dead for good: nothing waits for it. What only it holds is lost, and
    /// it never comes back
    #[arg(long, value_name = "NODE")]
    gone: Vec<String>,
}

/// `OLD=NEW`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Replaced {
    old: String,
    new: String,
}

impl std::str::FromStr for Replaced {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((old, new)) if !old.is_empty() && !new.is_empty() => {
                Ok(Self { old: old.to_owned(), new: new.to_owned() })
            }
            Some(_) | None => Err("expected OLD=NEW, such as n3=n7".to_owned()),
        }
    }
}

impl Changes {
    /// Whether nothing is asked for.
    pub(super) fn is_empty(&self) -> bool {
        let Self { add, remove, replace, set, zone, weight, peer_addr, gone } = self;
        let nobody = [add, remove, set, gone].iter().all(|list| list.is_empty());
        nobody && replace.is_empty() && zone.is_none() && weight.is_none() && peer_addr.is_none()
    }

    /// The members `changes` and `gone` of a request.
    ///
    /// # Errors
    /// Usage: flags that do not fit together.
    pub(super) fn request(&self) -> Done<Value> {
        let wants = [self.add.len(), self.remove.len(), self.replace.len(), self.set.len()];
        if wants.iter().sum::<usize>() == 0 {
            let why = "nothing to change: give --add, --remove, --replace or --set";
            return Err(Failure::usage(why).into());
        }
        let described = self.add.len() + self.replace.len() + self.set.len();
        let describes = [
            ("--zone", self.zone.is_some()),
            ("--weight", self.weight.is_some()),
            ("--peer-addr", self.peer_addr.is_some()),
        ];
        if let Some((flag, _)) = describes.iter().find(|(_, given)| *given)
            && described != 1
        {
            let why =
                format!("{flag} is about one node: give exactly one --add, --replace or --set");
            return Err(Failure::usage(why).into());
        }
        if self.peer_addr.is_some() && self.set.is_empty() {
            let why = "--peer-addr is for --set: a node that joins says itself where it is reached";
            return Err(Failure::usage(why).into());
        }
        let adds = self.add.iter().map(|name| self.described(json!({"op": "add", "name": name})));
        let removes = self.remove.iter().map(|name| json!({"op": "remove", "name": name}));
        let replaces = self
            .replace
            .iter()
            .map(|it| self.described(json!({"op": "replace", "old": it.old, "new": it.new})));
        let sets = self.set.iter().map(|name| self.described(json!({"op": "set", "name": name})));
        let changes: Vec<Value> = adds.chain(removes).chain(replaces).chain(sets).collect();
        Ok(json!({"changes": changes, "gone": self.gone}))
    }

    fn described(&self, mut change: Value) -> Value {
        if let Some(zone) = &self.zone {
            change["zone"] = json!(zone);
        }
        if let Some(weight) = self.weight {
            change["weight"] = json!(weight);
        }
        if let Some(addr) = &self.peer_addr {
            change["peer_addr"] = json!(addr);
        }
        change
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        changes: Changes,
    }

    fn request(line: &str) -> Result<Value, String> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let parsed = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        parsed.changes.request().map_err(|stop| format!("{stop:?}"))
    }

    #[test]
    fn flags_become_changes() {
        let told = request("--add n4 --zone c --weight 2 --remove n1 --gone n1").unwrap();
        assert_eq!(
            told,
            json!({"changes": [
                {"op": "add", "name": "n4", "zone": "c", "weight": 2},
                {"op": "remove", "name": "n1"},
            ], "gone": ["n1"]})
        );
        let told = request("--replace n3=n7").unwrap();
        assert_eq!(told["changes"], json!([{"op": "replace", "old": "n3", "new": "n7"}]));
        let told = request("--set n1 --peer-addr a:1").unwrap();
        assert_eq!(told["changes"], json!([{"op": "set", "name": "n1", "peer_addr": "a:1"}]));
        assert!(Line::try_parse_from(["x"]).unwrap().changes.is_empty());
    }

    #[test]
    fn flags_that_do_not_fit_together_are_refused() {
        for (line, why) in [
            ("", "nothing to change"),
            ("--gone n1", "nothing to change"),
            ("--add n4 --add n5 --zone c", "--zone is about one node"),
            ("--remove n4 --weight 2", "--weight is about one node"),
            ("--add n4 --peer-addr a:1", "--peer-addr is for --set"),
            ("--replace n3", "expected OLD=NEW"),
            ("--replace =n3", "expected OLD=NEW"),
            ("--add n4 --weight 0", "weight"),
        ] {
            let told = request(line).unwrap_err();
            assert!(told.contains(why), "{line}: {told}");
        }
    }
}
