//! Why a change of the layout was refused, as problems.

use std::collections::BTreeSet;

use quorate_engine::membership::change::{ChangeError, obstacles};
use quorate_engine::membership::voting::ProposalError;
use quorate_protocol::plan::{Plan, PlanError, Refusal};
use quorate_protocol::record::ClusterRecord;

use super::show;
use crate::api::problem::{Kind, Problem};
use crate::api::refusal;

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let detail = error.to_string();
        match error {
            ChangeError::Changed { current } => changed(&current),
            ChangeError::OtherResult { result } => {
                Self::new(Kind::LayoutChanged, detail).fact("result", result.to_string())
            }
            ChangeError::Moving { epoch } => {
                Self::new(Kind::LayoutMoving, format!("{detail}: wait for its end, or abort it"))
                    .fact("epoch", epoch.to_string())
            }
            ChangeError::NotMoving => Self::new(Kind::LayoutNotMoving, detail),
            ChangeError::LostIsUp(node) => {
                Self::new(Kind::BadBody, format!("lost: {detail}")).fact("node", node.as_str())
            }
            ChangeError::LeavingIsUp { node, .. } => Self::new(Kind::LayoutUnsafe, detail)
                .fact("node", node.as_str())
                .fact("refusals", vec![show::refusal(&Refusal::NodeUp { node })])
                .fact("warnings", Vec::<serde_json::Value>::new()),
            ChangeError::Plan(error) => of_plan(&error),
            ChangeError::Step(error) => Self::new(Kind::BadBody, error.to_string()),
            ChangeError::Unsafe(plan) => unsafe_plan(&plan, &BTreeSet::new()),
            ChangeError::Proposal(error) => of_proposal(&error),
            ChangeError::Store(error) => refusal::of_store(&error),
        }
    }
}

/// 409: another record is in force.
fn changed(current: &ClusterRecord) -> Problem {
    let cause = current.cause();
    let detail = format!(
        "the layout has changed: epoch {} is in force ({}, proposed by {}); look at it and plan again",
        current.epoch(),
        cause.op.name(),
        cause.reason.by
    );
    Problem::new(Kind::LayoutChanged, detail)
        .fact("current", current.hash().to_string())
        .fact("epoch", current.epoch().to_string())
}

/// 422: what keeps a plan from being committed.
pub(super) fn unsafe_plan(plan: &Plan, accept: &BTreeSet<String>) -> Problem {
    let names = obstacles(plan, accept).join(", ");
    let detail = match plan.refusals.is_empty() {
        false => format!("the change cannot be made: {names}"),
        true => format!("the change has warnings that were not accepted: {names}"),
    };
    let warnings = ChangeError::not_accepted(plan, accept).into_iter().map(show::warning);
    Problem::new(Kind::LayoutUnsafe, detail)
        .fact("refusals", plan.refusals.iter().map(show::refusal).collect::<Vec<_>>())
        .fact("warnings", warnings.collect::<Vec<_>>())
}

fn of_plan(error: &PlanError) -> Problem {
    let kind = match error {
        PlanError::AlreadyMember(_) | PlanError::StillLeaving(_) => Kind::NameTaken,
        PlanError::TooMany(_)
        | PlanError::NamedTwice(_)
        | PlanError::NotMember(_)
        | PlanError::GoneStays(_)
        | PlanError::NothingChanges
        | PlanError::Layout(_)
        | PlanError::Record(_) => Kind::BadBody,
    };
    Problem::new(kind, error.to_string())
}

fn of_proposal(error: &ProposalError) -> Problem {
    let detail = error.to_string();
    match error {
        ProposalError::Invalid(_) => Problem::new(Kind::BadBody, detail),
        ProposalError::NoQuorum { majority, is_outcome_unknown, .. } => {
            let (outcome, advice) = match is_outcome_unknown {
                true => {
                    ("unknown", "it may be decided all the same: repeat the request to find out")
                }
                false => ("not_applied", "nothing has changed"),
            };
            Problem::new(Kind::NoLayoutQuorum, format!("{detail}; {advice}"))
                .fact("required", *majority)
                .fact("outcome", outcome)
        }
        ProposalError::Conflict(_) | ProposalError::Rounds(_) => {
            Problem::new(Kind::Failed, detail).fact("outcome", "unknown")
        }
        ProposalError::Learn(_) => {
            let detail =
                format!("a record is decided, and this node cannot take it over: {detail}");
            Problem::new(Kind::Failed, detail).fact("outcome", "unknown")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_that_failed_says_what_it_left_behind() {
        let of = |is_outcome_unknown| {
            let error = ProposalError::NoQuorum { majority: 2, of: 3, is_outcome_unknown };
            Problem::from(ChangeError::Proposal(error))
        };
        let (unknown, nothing) = (of(true), of(false));
        assert_eq!(unknown.kind(), Kind::NoLayoutQuorum);
        assert_eq!(unknown.text_fact("outcome").as_deref(), Some("unknown"));
        assert_eq!(nothing.text_fact("outcome").as_deref(), Some("not_applied"));
        assert!(unknown.detail().contains("repeat the request"), "{}", unknown.detail());
    }

    #[test]
    fn a_name_that_is_taken_is_no_bad_body() {
        let name = quorate_protocol::name::NodeId::parse("n1");
        let problems = name.map(|node| {
            [PlanError::AlreadyMember(node), PlanError::NotMember(node)]
                .map(|error| of_plan(&error))
        });
        let kinds = problems.map(|problems| problems.map(|problem| problem.kind()));
        assert_eq!(kinds, Ok([Kind::NameTaken, Kind::BadBody]));
    }
}
