//! Changes as the command line describes them, and as nodes read them.

use serde_json::{Map, Value as Json, json};

use super::pair;
use crate::exit::{Done, Failure};

/// A change.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    /// As the HTTP API has it.
    pub(super) operation: Json,
    /// Whether it removes, and so needs a context.
    pub(super) removes: bool,
}

impl Change {
    pub(super) fn increment(by: i64) -> Self {
        Self { operation: json!({ "increment": by }), removes: false }
    }

    pub(super) fn add(elements: &[String]) -> Self {
        Self { operation: json!({ "add": elements }), removes: false }
    }

    pub(super) fn remove(elements: &[String]) -> Self {
        Self { operation: json!({ "remove": elements }), removes: true }
    }

    pub(super) fn enable(on: bool) -> Self {
        Self { operation: json!({ "enable": on }), removes: !on }
    }

    pub(super) fn assign(text: &str) -> Self {
        Self { operation: json!({ "assign": text }), removes: false }
    }
}

/// The changes of a map's fields.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Pairs {
    /// Set the text of a field; repeatable, as all of these
    #[arg(long, value_name = "FIELD=TEXT", value_parser = pair)]
    assign: Vec<Pair>,
    /// Switch a field on
    #[arg(long, value_name = "FIELD")]
    enable: Vec<String>,
    /// Switch a field off
    #[arg(long, value_name = "FIELD")]
    disable: Vec<String>,
    /// Add an element to the set of a field
    #[arg(long, value_name = "FIELD=TEXT", value_parser = pair)]
    add: Vec<Pair>,
    /// Remove an element from the set of a field
    #[arg(long, value_name = "FIELD=TEXT", value_parser = pair)]
    remove_from: Vec<Pair>,
    /// Remove a field
    #[arg(long, value_name = "FIELD")]
    remove: Vec<String>,
}

/// A field, and the text that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) field: String,
    pub(super) text: String,
}

impl Pairs {
    /// As one change.
    ///
    /// # Errors
    /// Usage, if there is none, or if two contradict each other.
    pub(super) fn change(&self) -> Done<Change> {
        let mut update = Map::new();
        for Pair { field, text } in &self.assign {
            once(&mut update, field, "register_lww", json!(text))?;
        }
        for field in &self.enable {
            once(&mut update, field, "flag", json!(true))?;
        }
        for field in &self.disable {
            once(&mut update, field, "flag", json!(false))?;
        }
        for (what, pairs) in [("add", &self.add), ("remove", &self.remove_from)] {
            for Pair { field, text } in pairs {
                let set = &mut slot(&mut update, field)["set"];
                if set.is_null() {
                    *set = json!({});
                }
                let elements = &mut set[what];
                if elements.is_null() {
                    *elements = json!([]);
                }
                if let Some(elements) = elements.as_array_mut() {
                    elements.push(json!(text));
                }
            }
        }
        let removes =
            !(self.disable.is_empty() && self.remove_from.is_empty() && self.remove.is_empty());
        let operation = match (update.is_empty(), self.remove.is_empty()) {
            (true, true) => {
                let why = "nothing to change: give --assign, --enable, --disable, --add, --remove-from or \
                           --remove";
                return Err(Failure::usage(why).into());
            }
            (false, true) => json!({ "update": update }),
            (true, false) => json!({ "remove": self.remove }),
            (false, false) => json!({ "update": update, "remove": self.remove }),
        };
        Ok(Change { operation, removes })
    }
}

/// What is changed under a field's name.
fn slot<'a>(update: &'a mut Map<String, Json>, field: &str) -> &'a mut Json {
    update.entry(field).or_insert_with(|| json!({}))
}

fn once(update: &mut Map<String, Json>, field: &str, of: &str, what: Json) -> Done {
    let slot = &mut slot(update, field)[of];
    if !slot.is_null() {
        let shown = crate::out::short(field, 60);
        return Err(Failure::usage(format!("the field {shown:?} is changed twice")).into());
    }
    *slot = what;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pairs(texts: &[&str]) -> Vec<Pair> {
        texts.iter().map(|text| pair(text).unwrap()).collect()
    }

    #[test]
    fn a_map_is_changed_in_one_operation() {
        let wanted = Pairs {
            assign: pairs(&["name=Ann", "note=a=b"]),
            enable: vec!["away".to_owned()],
            add: pairs(&["roles=admin", "roles=ops"]),
            remove_from: pairs(&["roles=dev"]),
            remove: vec!["old".to_owned()],
            ..Pairs::default()
        };
        let change = wanted.change().unwrap();
        assert!(change.removes);
        let update = json!({
            "name": {"register_lww": "Ann"},
            "note": {"register_lww": "a=b"},
            "away": {"flag": true},
            "roles": {"set": {"add": ["admin", "ops"], "remove": ["dev"]}},
        });
        assert_eq!(change.operation, json!({"update": update, "remove": ["old"]}));
        let plain = Pairs { enable: vec!["on".to_owned()], ..Pairs::default() }.change().unwrap();
        assert!(!plain.removes);
    }

    #[test]
    fn contradictions_and_nothing_are_refused() {
        assert!(Pairs::default().change().is_err());
        let twice = Pairs { assign: pairs(&["a=1", "a=2"]), ..Pairs::default() };
        assert!(twice.change().is_err());
        let both = Pairs {
            enable: vec!["a".to_owned()],
            disable: vec!["a".to_owned()],
            ..Pairs::default()
        };
        assert!(both.change().is_err());
        assert!(pair("a").is_err() && pair("=x").is_err() && pair("a=").is_ok());
    }
}
