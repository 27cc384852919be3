//! One acceptor or one proposer at a time; `tests/synod` has them all together.

use super::*;
use crate::name::NodeId;
use crate::record::ClusterRecord;
use crate::record::successor::SuccessorError;
use crate::record::tests::{first, members, node, reason};

fn ballot(round: u32, name: &str) -> Ballot {
    Ballot { round, node: node(name), nonce: 7 }
}

fn disk(name: &str) -> DiskId {
    DiskId::of_name("c", node(name))
}

fn acceptor(name: &str) -> Acceptor {
    Acceptor::restore(disk(name), first(3), None).unwrap()
}

fn grown(note: &str) -> ClusterRecord {
    let reason = crate::record::Reason { note: note.to_owned(), ..reason() };
    first(3).begin(members(4), &[], reason).unwrap()
}

fn request(ballot: Ballot, ask: Ask) -> Request {
    Request { instance: Instance::after(&first(3)).unwrap(), ballot, ask }
}

fn ask(acceptor: &mut Acceptor, ballot: Ballot, ask: Ask) -> Answer {
    acceptor.answer(&request(ballot, ask)).response.answer
}

fn proposer(wanted: &ClusterRecord) -> (Proposer, Ballots) {
    let mut ballots = Ballots::new(node("n1"), 7);
    let (proposer, effects) = Proposer::start(first(3), wanted.clone(), &mut ballots).unwrap();
    assert!(matches!(&effects[..], [Effect::Ask { to, .. }] if to.len() == 3));
    (proposer, ballots)
}

fn respond(proposer: &mut Proposer, from: DiskId, round: u32, answer: Answer) -> Vec<Effect> {
    let instance = Instance::after(&first(3)).unwrap();
    proposer.on_response(from, Response { instance, ballot: ballot(round, "n1"), answer })
}

#[test]
fn nothing_is_accepted_under_less_than_what_was_promised() {
    let mut n1 = acceptor("n1");
    assert_eq!(ask(&mut n1, ballot(2, "n1"), Ask::Prepare), Answer::Promise { accepted: None });
    let promised = ballot(2, "n1");
    assert_eq!(ask(&mut n1, ballot(1, "n2"), Ask::Prepare), Answer::Refused { promised });
    let accept = Ask::Accept(grown("a"));
    assert_eq!(ask(&mut n1, ballot(1, "n2"), accept.clone()), Answer::Refused { promised });
    assert_eq!(ask(&mut n1, ballot(2, "n1"), accept.clone()), Answer::Accepted);
    assert_eq!(ask(&mut n1, ballot(2, "n1"), accept), Answer::Accepted, "asked twice");
    let other = Ask::Accept(grown("b"));
    assert_eq!(ask(&mut n1, ballot(2, "n1"), other), Answer::Rejected, "two under one ballot");
    let accepted = Some((ballot(2, "n1"), grown("a")));
    assert_eq!(ask(&mut n1, ballot(2, "n2"), Ask::Prepare), Answer::Promise { accepted });
}

#[test]
fn an_answer_waits_for_the_sync_of_what_it_speaks_of() {
    let mut n1 = acceptor("n1");
    let prepare = request(ballot(1, "n1"), Ask::Prepare);
    assert_eq!(n1.answer(&prepare).sync_first, Some(1));
    assert_eq!(n1.answer(&prepare).sync_first, Some(1), "repeated before the sync");
    let refused = n1.answer(&request(ballot(0, "n1"), Ask::Prepare));
    assert_eq!(refused.sync_first, Some(1), "a refusal tells of the promise");
    n1.synced(1);
    assert_eq!(n1.answer(&prepare).sync_first, None);
    let accept = n1.answer(&request(ballot(1, "n1"), Ask::Accept(grown("a"))));
    assert_eq!(accept.sync_first, Some(2));
    let state = n1.state();
    let bytes = postcard::to_stdvec(&state).unwrap();
    assert_eq!(postcard::from_bytes::<State>(&bytes).unwrap(), state);
    let restored = Acceptor::restore(disk("n1"), first(3), Some(state.clone())).unwrap();
    assert_eq!(restored.state(), state);
    let older = Acceptor::restore(disk("n1"), grown("a"), Some(state.clone())).unwrap();
    assert_eq!(older.state().promised, None, "that instance is over");
    let other = ClusterRecord::first("c", 1, 128, members(3)).unwrap();
    let error = Acceptor::restore(disk("n1"), other, Some(state)).unwrap_err();
    assert!(matches!(error, RestoreError::OtherParent { .. }));
    let mut ahead = acceptor("n1");
    ahead.learn(&grown("a")).unwrap();
    let error = Acceptor::restore(disk("n1"), first(3), Some(ahead.state())).unwrap_err();
    assert_eq!(error, RestoreError::Ahead { epoch: 3, known: 1 });
}

#[test]
fn only_stable_disks_vote_and_only_on_what_follows() {
    let joiner = &mut acceptor("n4");
    assert_eq!(ask(joiner, ballot(1, "n1"), Ask::Prepare), Answer::Rejected);
    let wiped = &mut Acceptor::restore(DiskId(9), first(3), None).unwrap();
    assert_eq!(ask(wiped, ballot(1, "n1"), Ask::Prepare), Answer::Rejected);
    let n1 = &mut acceptor("n1");
    let finished = grown("a").finish(reason()).unwrap();
    assert_eq!(ask(n1, ballot(1, "n1"), Ask::Accept(finished.clone())), Answer::Rejected);
    let recovered = first(3).recover(&[node("n2"), node("n3")].into()).unwrap();
    assert_eq!(ask(n1, ballot(1, "n1"), Ask::Accept(recovered.clone())), Answer::Rejected);
    assert_eq!(acceptor("n1").learn(&recovered), Ok(Learned::Newest), "it is written by hand");
    let later = Request {
        instance: Instance::after(&grown("a")).unwrap(),
        ..request(ballot(1, "n1"), Ask::Prepare)
    };
    assert_eq!(n1.answer(&later).response.answer, Answer::Behind { epoch: 1 });
    assert_eq!(n1.learn(&grown("a")), Ok(Learned::Newest));
    assert_eq!(n1.learn(&first(3)), Ok(Learned::Known));
    assert!(matches!(n1.answer(&later).response.answer, Answer::Promise { .. }));
    assert_eq!(ask(n1, ballot(9, "n1"), Ask::Prepare), Answer::Outdated(grown("a")));
    assert!(matches!(n1.learn(&grown("b")), Err(LearnError::Conflict { epoch: 2, .. })));
    let of_another = grown("b").finish(reason()).unwrap();
    assert!(matches!(n1.learn(&of_another), Err(LearnError::Conflict { epoch: 2, .. })));
    let conflict = Request { instance: Instance::after(&grown("b")).unwrap(), ..later };
    assert!(matches!(n1.answer(&conflict).response.answer, Answer::Conflict { .. }));
    assert_eq!(acceptor("n2").learn(&finished), Ok(Learned::Newest), "records may be skipped");
}

#[test]
fn a_proposer_counts_disks_once_and_no_strangers() {
    let wanted = grown("a");
    let (mut proposer, _) = proposer(&wanted);
    let promise = || Answer::Promise { accepted: None };
    for from in [disk("n1"), disk("n1"), disk("n4"), DiskId(9)] {
        assert_eq!(respond(&mut proposer, from, 1, promise()), []);
    }
    assert_eq!(respond(&mut proposer, disk("n2"), 2, promise()), [], "to another ballot");
    assert!(!proposer.is_outcome_unknown());
    let effects = respond(&mut proposer, disk("n2"), 1, promise());
    assert!(
        matches!(&effects[..], [Effect::Ask { request, .. }] if request.ask == Ask::Accept(wanted.clone()))
    );
    assert!(proposer.is_outcome_unknown());
    for from in [disk("n2"), disk("n2"), DiskId(9)] {
        assert_eq!(respond(&mut proposer, from, 1, Answer::Accepted), []);
    }
    let decided = Effect::Decided { record: wanted, is_wanted: true };
    assert_eq!(respond(&mut proposer, disk("n3"), 1, Answer::Accepted), [decided]);
    assert!(proposer.is_over() && !proposer.is_outcome_unknown());
}

#[test]
fn a_proposer_finishes_what_may_have_been_decided() {
    let (mut proposer, _) = proposer(&grown("a"));
    let told = |round, note| Answer::Promise {
        accepted: Some((Ballot { round, node: node("n3"), nonce: 1 }, grown(note))),
    };
    respond(&mut proposer, disk("n1"), 1, told(0, "c"));
    let effects = respond(&mut proposer, disk("n2"), 1, told(1, "b"));
    let found = grown("b");
    assert!(
        matches!(&effects[..], [Effect::Ask { request, .. }] if request.ask == Ask::Accept(found.clone()))
    );
    assert!(!proposer.is_outcome_unknown(), "nobody was asked to accept the wanted one");
    respond(&mut proposer, disk("n1"), 1, Answer::Accepted);
    let decided = Effect::Decided { record: found, is_wanted: false };
    assert_eq!(respond(&mut proposer, disk("n2"), 1, Answer::Accepted), [decided]);
}

#[test]
fn a_refused_proposer_goes_above_what_it_was_told() {
    let (mut proposer, mut ballots) = proposer(&grown("a"));
    let refused = |round| Answer::Refused { promised: ballot(round, "n3") };
    assert_eq!(respond(&mut proposer, disk("n2"), 1, refused(8)), []);
    assert_eq!(respond(&mut proposer, disk("n3"), 1, refused(5)), [Effect::Retry]);
    let effects = proposer.retry(&mut ballots).unwrap();
    assert!(matches!(&effects[..], [Effect::Ask { request, .. }] if request.ballot.round == 9));
    respond(&mut proposer, disk("n2"), 9, refused(u32::MAX));
    assert_eq!(proposer.retry(&mut ballots), Err(RetryError));
}

#[test]
fn a_proposer_believes_no_record_that_cannot_follow() {
    let (mut proposer, _) = proposer(&grown("a"));
    let finished = grown("a").finish(reason()).unwrap();
    let made_up = Answer::Promise { accepted: Some((ballot(0, "n3"), first(4))) };
    assert_eq!(respond(&mut proposer, disk("n1"), 1, made_up), []);
    assert_eq!(respond(&mut proposer, disk("n2"), 1, Answer::Outdated(first(3))), []);
    let of_another = ClusterRecord::first("d", 9, 64, members(3)).unwrap();
    assert_eq!(respond(&mut proposer, disk("n2"), 1, Answer::Outdated(of_another)), []);
    let outdated = Effect::Outdated { record: finished.clone() };
    assert_eq!(
        respond(&mut proposer, disk("n2"), 1, Answer::Outdated(finished.clone())),
        [outdated]
    );
    let mut ballots = Ballots::new(NodeId::parse("n1").unwrap(), 1);
    let error = Proposer::start(first(3), finished, &mut ballots).unwrap_err();
    let epochs = SuccessorError::Epoch { parent: 1, child: 3 };
    assert_eq!(error, ProposeError::Successor(epochs));
}

#[test]
fn a_disk_that_missed_the_parent_is_taught_it() {
    let (mut proposer, _) = proposer(&grown("a"));
    let effects = respond(&mut proposer, disk("n2"), 1, Answer::Behind { epoch: 0 });
    let prepare = request(ballot(1, "n1"), Ask::Prepare);
    assert_eq!(effects, [Effect::Teach { to: disk("n2"), record: first(3), request: prepare }]);
}
