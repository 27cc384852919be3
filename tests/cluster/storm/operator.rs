//! The operator of the storm: has nodes join, leave, replaced, weighed and moved to other zones, and gives
//! changes up, as far as the cluster lets it. A change that is refused, or whose outcome is not known, is
//! no fault. One that does not end once all other faults have is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::changes::Changes;
use crate::harness::{Cluster, within};
use crate::members::{epoch_of, numbers_in};

/// How long an operator tries to have a change begun or given up.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a change may take once nothing fails any more.
const ENDS_WITHIN: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The most members beyond those that the cluster was formed of.
const MORE_MAX: usize = 2;

/// What the operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many nodes join at once.
    Join(usize),
    /// A node is added that is dead by then, and stays so.
    JoinInVain,
    /// A node leaves.
    Leave,
    /// A node takes the place of one that is up.
    Replace,
    /// A node dies for good, and another takes its place.
    ReplaceDead,
    /// A node is given another weight.
    Weigh,
    /// A node is moved to another zone.
    Rezone,
    /// The change under way is given up.
    Abort,
}

impl Step {
    /// For the table.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Join(_) => "layout: join",
            Self::JoinInVain => "layout: join in vain",
            Self::Leave => "layout: leave",
            Self::Replace => "layout: replace",
            Self::ReplaceDead => "layout: replace a dead node",
            Self::Weigh => "layout: weight",
            Self::Rezone => "layout: zone",
            Self::Abort => "layout: abort",
        }
    }
}

/// Who is killed just after a change was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    None,
    /// The node that was asked.
    Coordinator,
    /// A node that joins.
    Joiner,
    /// The node that takes the steps of a change.
    First,
}

/// One step of the operator, and the blow that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) step: Step,
    /// Decides which nodes it is about.
    pub(crate) draw: usize,
    pub(crate) blow: Blow,
    pub(crate) after_ms: u64,
}

/// A change that is wanted: what `POST /layout/plan` takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) changes: Vec<Value>,
    pub(crate) gone: Vec<String>,
    /// The nodes that are to join.
    pub(crate) joiners: Vec<usize>,
}

/// The operator, and what it knows.
pub(crate) struct Operator {
    cluster: Arc<Cluster>,
    formed_of: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Nodes that run, or did, and have asked to be added.
    waiting: BTreeSet<usize>,
    /// The newest epoch that was seen.
    epoch: u64,
    changes: Changes,
    /// How requests to begin a change or to give one up ended.
    answers: BTreeMap<String, usize>,
    /// How long the change under way took at the end, once all else was healed.
    ended_in: Option<Duration>,
}

impl Operator {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        let formed_of = cluster.all().count();
        Self { cluster, formed_of, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How requests ended, by answer.
    pub(crate) fn answers(&self) -> BTreeMap<String, usize> {
        self.state().answers.clone()
    }

    /// The changes that were decided.
    pub(crate) fn changes(&self) -> Changes {
        self.state().changes.clone()
    }

    /// How long the last change took to end, once all faults had.
    pub(crate) fn ended_in(&self) -> Duration {
        self.state().ended_in.unwrap_or_default()
    }

    fn note(&self, answer: String) {
        *self.state().answers.entry(answer).or_default() += 1;
    }

    /// The newest record, which all that follows is about: nodes that were added count from now on, and those
    /// that were removed are stopped. `None` if no node answers, or only ones that lag behind.
    async fn look(&self) -> Option<Value> {
        let shown = self.cluster.newest_layout().await?;
        let epoch = epoch_of(&shown);
        if epoch < self.state().epoch {
            return None;
        }
        self.state().epoch = epoch;
        let named = members_in(&shown);
        let waiting = self.state().waiting.clone();
        for number in waiting {
            let disk = self.cluster.disk_of(number);
            if named.get(&number).is_some_and(|known| Some(known) == disk.as_ref()) {
                self.state().waiting.remove(&number);
                self.cluster.admit(number);
            }
        }
        for number in self.cluster.all().filter(|number| !named.contains_key(number)) {
            self.cluster.bury(number);
        }
        if let Some(number) = self.cluster.all().find(|number| self.cluster.is_awake(*number)) {
            let history = self.cluster.at(number).get("/layout/history").try_answer().await;
            if let Some(history) = history.ok().filter(|answer| answer.status == 200) {
                self.state().changes.take(&history.json());
            }
        }
        Some(shown)
    }

    async fn look_until(&self, deadline: Instant) -> Option<Value> {
        loop {
            match self.look().await {
                Some(shown) => return Some(shown),
                None if Instant::now() >= deadline => return None,
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Members by the record that are not there and will not be.
    fn lost(&self, list: &Value) -> Vec<usize> {
        let there: Vec<usize> = self.cluster.all().collect();
        numbers_in(list).into_iter().filter(|number| !there.contains(number)).collect()
    }

    /// Whether a member is dead for good, as far as can be seen.
    pub(crate) async fn misses_a_node(&self) -> bool {
        match self.look_until(Instant::now() + PATIENCE).await {
            Some(shown) => {
                !self.lost(&shown["members"]).is_empty() || !self.lost(&shown["next"]).is_empty()
            }
            None => true,
        }
    }

    /// Takes a step. Returns whether the cluster agreed.
    pub(crate) async fn carry_out(&self, order: &Order) -> bool {
        let Some(shown) = self.look_until(Instant::now() + PATIENCE).await else { return false };
        let (is_moving, step) = (!shown["next"].is_null(), order.step);
        if is_moving {
            let lost = self.lost(&shown["next"]);
            let gives_up = step == Step::Abort || !lost.is_empty();
            return gives_up && self.abort(&shown, &lost).await;
        }
        match self.wanted(&shown, order) {
            Some(wanted) => self.change(&wanted, order).await,
            None => false,
        }
    }

    /// What to ask for; `None` if the step makes no sense now.
    fn wanted(&self, shown: &Value, order: &Order) -> Option<Wanted> {
        let draw = order.draw;
        // A node that is dead for good comes first: the cluster wants nothing else either.
        if let Some(dead) = self.lost(&shown["members"]).first() {
            return self.replacement(shown, *dead, true);
        }
        let members: Vec<usize> = numbers_in(&shown["members"]);
        let some = members[draw % members.len()];
        let name = format!("n{some}");
        match order.step {
            Step::Join(count) if members.len() + count <= self.formed_of + MORE_MAX => {
                let mut wanted = Wanted::default();
                for _ in 0..count {
                    let number = self.newcomer(shown, &wanted.joiners)?;
                    wanted.changes.push(json!({"op": "add", "name": format!("n{number}")}));
                    wanted.joiners.push(number);
                }
                Some(wanted)
            }
            Step::JoinInVain if members.len() < self.formed_of + MORE_MAX => {
                let number = self.newcomer(shown, &[])?;
                let change = json!({"op": "add", "name": format!("n{number}")});
                Some(Wanted { changes: vec![change], joiners: vec![number], ..Wanted::default() })
            }
            Step::Leave if members.len() >= self.formed_of => {
                let change = json!({"op": "remove", "name": name});
                Some(Wanted { changes: vec![change], ..Wanted::default() })
            }
            Step::Replace => self.replacement(shown, some, false),
            Step::ReplaceDead => {
                self.cluster.bury(some);
                self.replacement(shown, some, true)
            }
            Step::Weigh => {
                let change = json!({"op": "set", "name": name, "weight": 1 + draw / 7 % 3});
                Some(Wanted { changes: vec![change], ..Wanted::default() })
            }
            Step::Rezone => {
                let change =
                    json!({"op": "set", "name": name, "zone": format!("z{}", draw / 7 % 4)});
                Some(Wanted { changes: vec![change], ..Wanted::default() })
            }
            Step::Join(_) | Step::JoinInVain | Step::Leave | Step::Abort => None,
        }
    }

    fn replacement(&self, shown: &Value, old: usize, is_gone: bool) -> Option<Wanted> {
        let new = self.newcomer(shown, &[])?;
        let (old, name) = (format!("n{old}"), format!("n{new}"));
        let change = json!({"op": "replace", "old": old, "new": name});
        let gone = if is_gone { vec![old] } else { Vec::new() };
        Some(Wanted { changes: vec![change], gone, joiners: vec![new] })
    }

    /// A node that asks to be added: one that does already, or a spare one.
    fn newcomer(&self, shown: &Value, but: &[usize]) -> Option<usize> {
        let named = members_in(shown);
        let is_free = |number: &usize| !but.contains(number) && !named.contains_key(number);
        let waiting = self.state().waiting.iter().copied().find(is_free);
        if waiting.is_some() {
            return waiting;
        }
        let waiting = self.state().waiting.clone();
        let mut spares = self.cluster.spares().into_iter().filter(|it| !waiting.contains(it));
        let number = spares.find(is_free)?;
        self.launch(number);
        Some(number)
    }

    /// Starts a spare node, which asks to be added.
    pub(crate) fn launch(&self, number: usize) {
        self.cluster.launch_newcomer(number, &format!("n{number}"));
        self.state().waiting.insert(number);
    }

    /// Has a change begun, and strikes the blow. Returns whether it was accepted.
    pub(crate) async fn change(&self, wanted: &Wanted, order: &Order) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let dead = wanted.joiners.iter().filter(|number| !self.cluster.is_running(**number));
        dead.for_each(|number| self.cluster.launch(*number));
        let mut draw = order.draw;
        let (through, commit) = loop {
            let through = self.cluster.some(draw);
            match self.plan(through, wanted).await {
                Ok(commit) => break (through, commit),
                Err(why) if Instant::now() >= deadline => {
                    self.note(format!("not planned: {why}"));
                    return false;
                }
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
            draw += 1;
        };
        let in_vain = order.step == Step::JoinInVain;
        if in_vain {
            // Its disk never becomes a member that anybody heard of.
            for number in &wanted.joiners {
                self.state().waiting.remove(number);
                self.cluster.bury(*number);
            }
        }
        let asked = self.ask(through, "/layout/commit", commit);
        let (is_accepted, ()) = tokio::join!(asked, self.strike(order, through, wanted));
        drop(self.look_until(Instant::now() + LOOK_EVERY).await);
        is_accepted
    }

    /// What to commit.
    async fn plan(&self, through: usize, wanted: &Wanted) -> Result<Value, String> {
        let Wanted { changes, gone, .. } = wanted;
        let body = json!({"changes": changes, "gone": gone});
        let node = self.cluster.at(through).with_timeout(Duration::from_secs(5));
        let ask = node.post("/layout/plan").header("Content-Type", "application/json");
        let answer = ask.value(body.to_string()).try_answer().await;
        let answer = answer.map_err(|_| "no answer".to_owned())?;
        let plan = answer.json();
        if answer.status != 200 {
            return Err(problem_of(&plan));
        }
        let names = |list: &Value| -> Vec<String> {
            let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter().map(|it| it["name"].as_str().unwrap_or_default().to_owned()).collect()
        };
        let refusals = names(&plan["refusals"]);
        if let Some(refusal) = refusals.first() {
            return Err(refusal.clone());
        }
        Ok(json!({
            "base": plan["base"],
            "result": plan["result"],
            "changes": changes,
            "gone": gone,
            "accept": names(&plan["warnings"]),
        }))
    }

    /// Asks for a step, and notes the answer. Returns whether it was accepted.
    async fn ask(&self, through: usize, path: &str, body: Value) -> bool {
        let node = self.cluster.at(through).with_timeout(Duration::from_secs(15));
        let ask = node.post(path).header("Content-Type", "application/json");
        let answer = ask.value(body.to_string()).try_answer().await;
        let what = if path.contains("abort") { "abort" } else { "commit" };
        let (is_accepted, said) = match answer {
            Ok(answer) if answer.status == 202 => (true, "accepted".to_owned()),
            Ok(answer) => (false, problem_of(&answer.json())),
            Err(_) => (false, "no answer".to_owned()),
        };
        assert_ne!(said, "bad_parameter", "{path} is asked wrongly");
        self.note(format!("{what}: {said}"));
        is_accepted
    }

    /// kill -9 of whom the blow is for. The storm restores it like all others.
    async fn strike(&self, order: &Order, through: usize, wanted: &Wanted) {
        let victim = match order.blow {
            Blow::None => None,
            Blow::Coordinator => Some(through),
            Blow::Joiner => wanted.joiners.first().copied(),
            Blow::First => self.cluster.all().next(),
        };
        let Some(victim) = victim else { return };
        // Sometimes before the record is decided, sometimes while data moves.
        tokio::time::sleep(Duration::from_millis(order.after_ms * order.after_ms / 1500)).await;
        self.cluster.kill(victim);
    }

    /// Gives the change up. Returns whether that was accepted.
    async fn abort(&self, shown: &Value, lost: &[usize]) -> bool {
        let members = numbers_in(&shown["members"]);
        let joiners = lost.iter().filter(|number| !members.contains(number));
        let lost: Vec<String> = joiners.map(|number| format!("n{number}")).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let body = json!({"base": shown["hash"], "lost": lost});
            let through = self.cluster.all().find(|number| self.cluster.is_awake(*number));
            let Some(through) = through else { return false };
            if self.ask(through, "/layout/abort", body).await {
                return true;
            }
            let now = self.look().await;
            let is_same = now.is_none_or(|now| now["hash"] == shown["hash"]);
            // One that is lost may not be seen down yet.
            if lost.is_empty() || !is_same || Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until no change is under way by any member, and no node leaves.
    pub(crate) async fn wait_settled(&self) {
        let what = "the change of the layout ends by itself";
        within(ENDS_WITHIN, what, async || self.settled().await).await;
    }

    async fn settled(&self) -> Option<Value> {
        let shown = self.look().await?;
        let has_ended = shown["phase"] == "stable";
        for number in self.cluster.all() {
            let here = self.cluster.layout_at(number).await?;
            (here["hash"] == shown["hash"]).then_some(())?;
        }
        has_ended.then_some(shown)
    }

    /// Once all faults have ended: waits until the change under way has, and does what only an operator
    /// can, as long as there is something. Then the keys are where the last record has them.
    pub(crate) async fn end(&self) {
        let begun = Instant::now();
        let order = Order { step: Step::Abort, draw: 1, blow: Blow::None, after_ms: 0 };
        loop {
            let Some(shown) = self.look_until(Instant::now() + ENDS_WITHIN).await else { break };
            let is_lost = |name: &str| !self.lost(&shown[name]).is_empty();
            let is_moving = !shown["next"].is_null();
            if begun.elapsed() > ENDS_WITHIN || !(is_lost("members") || is_lost("next")) {
                break;
            }
            if is_moving && !is_lost("next") {
                tokio::time::sleep(LOOK_EVERY).await; // the dead one is being replaced
                continue;
            }
            self.carry_out(&order).await;
        }
        let begun = Instant::now();
        self.wait_settled().await;
        self.state().ended_in = Some(begun.elapsed());
        drop(self.look().await); // for the last steps of the history
        let shown = self.cluster.newest_layout().await.unwrap();
        self.cluster.follow(&shown);
        let waiting = std::mem::take(&mut self.state().waiting);
        waiting.into_iter().for_each(|number| self.cluster.bury(number));
    }
}

/// All nodes that a record names, with their disks.
fn members_in(shown: &Value) -> BTreeMap<usize, String> {
    let lists = ["members", "next", "leaving"].map(|name| &shown[name]);
    // A node that was let go is shown once more, and is no member.
    let all = lists.into_iter().filter_map(Value::as_array).flatten();
    let all = all.filter(|it| it["released"] != true);
    let member = |it: &Value| {
        let number = it["name"].as_str().unwrap()[1..].parse().unwrap();
        (number, it["disk"].as_str().unwrap().to_owned())
    };
    all.map(member).collect()
}

/// The kind of a problem, with what it left behind.
fn problem_of(problem: &Value) -> String {
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let kind = text("type").rsplit(':').next().unwrap_or_default().to_owned();
    match (kind.as_str(), text("outcome").as_str()) {
        ("bad_body", _) => format!("bad_body: {}", text("detail")),
        (_, "") => kind,
        (_, outcome) => format!("{kind}, {outcome}"),
    }
}
