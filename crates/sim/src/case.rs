//! A run that can be kept in a file, made smaller, and run again.

use quorate_protocol::mutation::Mutation;
use serde::{Deserialize, Serialize};

use crate::dice::Dice;
use crate::run::{Run, run_case};
use crate::setup::Setup;

/// How many smaller cases are tried at most: each is a run.
const TRIES_MAX: usize = 400;

/// A run, decided but for what happens in it by chance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// What chance is drawn from.
    pub seed: u64,
    pub(crate) setup: Setup,
}

impl Case {
    /// The case of a seed.
    pub fn draw(seed: u64) -> Self {
        Self { seed, setup: Setup::draw(&mut Dice::new(seed)) }
    }

    /// Reads a case from a file's text.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let case: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        case.setup.check()?;
        Ok(case)
    }

    /// The text that [`Case::parse`] reads.
    pub fn text(&self) -> String {
        // A case has nothing that JSON cannot say.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Runs it, with a deliberate bug, if any. `keep_lines` keeps the trace.
    pub fn run(&self, mutation: Option<Mutation>, keep_lines: bool) -> Run {
        run_case(self, mutation, keep_lines)
    }

    /// The smallest case found that still breaks a promise: greedy, as delta debugging is (Zeller and
    /// Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002).
    pub fn shrink(self, mutation: Option<Mutation>) -> Self {
        self.shrink_while(|case| case.run(mutation, false).violation.is_some())
    }

    fn shrink_while(mut self, breaks: impl Fn(&Self) -> bool) -> Self {
        let mut tries = 0;
        let mut is_smaller = true;
        while is_smaller {
            is_smaller = false;
            for setup in self.setup.smaller() {
                if tries == TRIES_MAX {
                    return self;
                }
                tries += 1;
                let smaller = Self { setup, ..self };
                if breaks(&smaller) {
                    self = smaller;
                    is_smaller = true;
                    break;
                }
            }
        }
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::setup::Fault;

    #[test]
    fn a_case_in_a_file_is_the_same_run() {
        for seed in 1..6 {
            let case = Case::draw(seed);
            let read = Case::parse(&case.text()).unwrap();
            assert_eq!(read, case);
            let (first, again) = (case.run(None, false), read.run(None, false));
            assert_eq!((first.hash, first.events), (again.hash, again.events));
        }
    }

    #[test]
    fn a_case_that_makes_no_sense_is_refused() {
        assert!(Case::parse("{}").is_err());
        let mut case = Case::draw(1);
        case.setup.nodes = 0;
        assert!(Case::parse(&case.text()).unwrap_err().contains("nodes"));
    }

    #[test]
    fn what_breaks_nothing_is_left_out() {
        let with_kill = |case: &Case| case.setup.faults.contains(&Fault::Kill);
        let case = (1..).map(Case::draw).find(with_kill).unwrap();
        let small = case.shrink_while(with_kill).setup;
        assert_eq!(small.faults, [Fault::Kill]);
        assert_eq!((small.nodes, small.clients, small.keys, small.requests), (3, 1, 1, 1));
    }

    /// A cluster that is used beyond what it promises loses writes; the oracle must see that.
    #[test]
    fn what_a_power_cut_takes_from_a_cluster_without_syncs_is_missed() {
        let broken = (1..=100).find_map(|seed| {
            let mut case = Case::draw(seed);
            case.setup.fsync = false;
            case.setup.faults = vec![Fault::Power];
            case.run(None, false).violation
        });
        assert!(broken.is_some());
    }
}
