//! Hand-made histories: the node keeps its promises in each, and the deliberate bugs that a history is
//! there for break the promise that it names.

use quorate_sim::histories::HISTORIES;

#[test]
fn the_node_keeps_its_promises() {
    for history in HISTORIES {
        let run = history.run(None, true);
        let lines = run.lines.join("\n");
        assert_eq!(run.violation, None, "{}:\n{lines}", history.name);
    }
}

#[test]
fn a_history_repeats_itself() {
    for history in HISTORIES {
        let (first, again) = (history.run(None, false), history.run(None, true));
        assert_eq!((first.hash, first.events), (again.hash, again.events), "{}", history.name);
        assert!(first.events > 10, "{}", history.name);
    }
}

#[cfg(feature = "mutations")]
#[test]
fn each_finds_the_mutations_it_is_there_for() {
    for history in HISTORIES {
        for (mutation, breaks) in history.finds {
            let run = history.run(Some(*mutation), true);
            let property = run.violation.map(|violation| violation.property);
            let (name, lines) = (history.name, run.lines.join("\n"));
            assert_eq!(property, Some(*breaks), "{name} with {}:\n{lines}", mutation.name());
        }
    }
}
