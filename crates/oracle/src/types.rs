//! What a counter and a set must show, from what clients did to them.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::clock::{Clock, Dot};

use crate::{Verdict, Violation};

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was acknowledged.
    Acked,
    /// It may have been done, once.
    Unknown,
    /// Certainly nothing was done.
    NotApplied,
}

/// The increments of one counter.
#[derive(Clone, Debug, Default)]
pub struct CounterHistory {
    increments: Vec<(i64, Fate)>,
}

impl CounterHistory {
    /// A client is about to increment. Until it is known what becomes of it, it is unknown. Returns its
    /// number.
    pub fn begin(&mut self, by: i64) -> usize {
        self.increments.push((by, Fate::Unknown));
        self.increments.len() - 1
    }

    /// An increment ended.
    pub fn end(&mut self, increment: usize, fate: Fate) {
        if let Some(known) = self.increments.get_mut(increment) {
            known.1 = fate;
        }
    }

    /// *A counter lies between what was acknowledged and that with any of what stayed unknown.*
    ///
    /// # Errors
    /// It does not, at the end.
    pub fn check(&self, name: &str, value: i128) -> Verdict {
        let sum_of = |wanted: &dyn Fn(i64, Fate) -> bool| {
            let chosen = self.increments.iter().filter(|(by, fate)| wanted(*by, *fate));
            chosen.map(|(by, _)| i128::from(*by)).sum::<i128>()
        };
        let acked = sum_of(&|_, fate| fate == Fate::Acked);
        let least = acked + sum_of(&|by, fate| fate == Fate::Unknown && by < 0);
        let most = acked + sum_of(&|by, fate| fate == Fate::Unknown && by > 0);
        if (least..=most).contains(&value) {
            return Ok(());
        }
        let story = format!("{name} is {value}, not between {least} and {most}");
        Err(Violation { property: "a_counter_counts_what_was_acknowledged", story })
    }
}

/// One add of an element.
#[derive(Clone, Copy, Debug)]
struct Add {
    fate: Fate,
    /// Its dot, if an answer or a read told.
    dot: Option<Dot>,
}

/// One remove of elements, or of all.
#[derive(Clone, Debug)]
struct Remove {
    /// The elements; `None` for all.
    elements: Option<BTreeSet<String>>,
    /// What its client had seen.
    seen: Clock,
    fate: Fate,
}

/// The adds and removes of one set.
#[derive(Clone, Debug, Default)]
pub struct SetHistory {
    adds: BTreeMap<String, Vec<Add>>,
    removes: Vec<Remove>,
}

impl SetHistory {
    /// A client is about to add an element. Returns the number of the add among those of the element.
    pub fn begin_add(&mut self, element: &str) -> usize {
        let adds = self.adds.entry(element.to_owned()).or_default();
        adds.push(Add { fate: Fate::Unknown, dot: None });
        adds.len() - 1
    }

    /// An add ended; the answer named its dot, if it was acknowledged.
    pub fn end_add(&mut self, element: &str, add: usize, (fate, dot): (Fate, Option<Dot>)) {
        if let Some(known) = self.adds.get_mut(element).and_then(|adds| adds.get_mut(add)) {
            *known = Add { fate, dot };
        }
    }

    /// A client is about to remove elements, or all (`None`), of what it has seen. Returns its number.
    pub fn begin_remove(&mut self, elements: Option<BTreeSet<String>>, seen: Clock) -> usize {
        self.removes.push(Remove { elements, seen, fate: Fate::Unknown });
        self.removes.len() - 1
    }

    /// A remove ended.
    pub fn end_remove(&mut self, remove: usize, fate: Fate) {
        if let Some(known) = self.removes.get_mut(remove) {
            known.fate = fate;
        }
    }

    /// *A set has what was added and no remove has seen, and nothing that was never added.*
    ///
    /// # Errors
    /// It has not, at any time: an element that nobody tried to add.
    pub fn check_shown(&self, name: &str, shown: &BTreeSet<String>) -> Verdict {
        match shown.iter().find(|element| !self.adds.contains_key(*element)) {
            None => Ok(()),
            Some(invented) => broken(format!("{name} shows {invented}, which nobody added")),
        }
    }

    /// The same at the end, when it shows these elements, each under these dots. An add may have been minted
    /// twice, under two dots, of which a remove may have seen one.
    ///
    /// # Errors
    /// An element is missing, or is there under a dot that an acknowledged remove has seen.
    pub fn check(&self, name: &str, shown: &BTreeMap<String, BTreeSet<Dot>>) -> Verdict {
        self.check_shown(name, &shown.keys().cloned().collect())?;
        for (element, adds) in &self.adds {
            let stays = |add: &&Add| {
                let removed = match add.dot {
                    Some(dot) => self.remover(element, dot, false).is_some(),
                    None => self.removes.iter().any(|remove| remove.may_take(element)),
                };
                add.fate == Fate::Acked && !removed
            };
            if let Some(add) = adds.iter().find(stays)
                && !shown.contains_key(element)
            {
                return broken(format!("{name} lacks {element}: {add:?} was removed by nobody"));
            }
        }
        for (element, dots) in shown {
            let removed = dots.iter().find_map(|dot| self.remover(element, *dot, true));
            if let Some(remove) = removed {
                return broken(format!("{name} shows {element} under {dots:?}, after {remove:?}"));
            }
        }
        Ok(())
    }

    /// A remove of an element that has seen a dot of it: a certain one, or one that may have been done.
    fn remover(&self, element: &str, dot: Dot, certain: bool) -> Option<&Remove> {
        self.removes.iter().find(|remove| {
            let is_done = !certain || remove.fate == Fate::Acked;
            is_done && remove.may_take(element) && remove.seen.covers(dot)
        })
    }
}

impl Remove {
    /// Whether it may have removed an element that it has seen.
    fn may_take(&self, element: &str) -> bool {
        let is_of_it = self.elements.as_ref().is_none_or(|names| names.contains(element));
        is_of_it && self.fate != Fate::NotApplied
    }
}

fn broken(story: String) -> Verdict {
    Err(Violation { property: "a_set_has_what_no_remove_has_seen", story })
}

#[cfg(test)]
mod tests {
    use quorate_protocol::clock::Actor;

    use super::*;

    #[test]
    fn a_counter_out_of_its_bounds_is_found() {
        let mut counter = CounterHistory::default();
        let ends =
            [(5, Fate::Acked), (-3, Fate::Unknown), (7, Fate::Unknown), (9, Fate::NotApplied)];
        for (by, fate) in ends {
            let number = counter.begin(by);
            counter.end(number, fate);
        }
        for value in [2, 5, 9, 12] {
            assert!(counter.check("c", value).is_ok(), "{value}");
        }
        for value in [1, 13] {
            assert!(counter.check("c", value).is_err(), "{value}");
        }
    }

    #[test]
    fn a_lost_and_a_risen_element_are_found() {
        let dot = |counter| Dot { actor: Actor(1), counter };
        let clock = |counter| {
            let mut clock = Clock::default();
            clock.advance(dot(counter));
            clock
        };
        let names = |elements: &[&str]| elements.iter().map(|name| (*name).to_owned()).collect();
        let shown = |elements: &[(&str, u64)]| {
            let of = |(name, counter): &(&str, u64)| {
                ((*name).to_owned(), BTreeSet::from([dot(*counter)]))
            };
            elements.iter().map(of).collect()
        };
        let mut set = SetHistory::default();
        for (element, counter) in [("a", 1), ("b", 2)] {
            let add = set.begin_add(element);
            set.end_add(element, add, (Fate::Acked, Some(dot(counter))));
        }
        assert!(set.check("s", &shown(&[("a", 1), ("b", 2)])).is_ok());
        assert!(set.check("s", &shown(&[("a", 1)])).is_err(), "b is lost");
        assert!(set.check_shown("s", &names(&["a", "x"])).is_err(), "x was never added");
        let remove = set.begin_remove(Some(names(&["a", "b"])), clock(1));
        assert!(set.check("s", &shown(&[("b", 2)])).is_ok(), "it may have been done");
        assert!(set.check("s", &shown(&[("a", 1), ("b", 2)])).is_ok());
        set.end_remove(remove, Fate::Acked);
        assert!(set.check("s", &shown(&[("a", 1), ("b", 2)])).is_err(), "a has risen");
        assert!(set.check("s", &shown(&[])).is_err(), "the remove has not seen b");
        let again = set.begin_add("a");
        set.end_add("a", again, (Fate::Acked, Some(dot(3))));
        assert!(set.check("s", &shown(&[("b", 2)])).is_err(), "it was added again");
        assert!(set.check("s", &shown(&[("a", 3), ("b", 2)])).is_ok());
        let all = set.begin_remove(None, clock(3));
        set.end_remove(all, Fate::Acked);
        assert!(set.check("s", &shown(&[])).is_ok());
    }
}
