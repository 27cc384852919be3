"""One operation: which requests to send, when to repeat them, and what comes of it.

An operation is a generator that yields what is to be done (`Send`, `Sleep`) and is sent what came of it.
The synchronous and the asynchronous client only differ in how they do it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar

from . import batch, parse
from .batch import Item
from .errors import (
    DeadlineExceeded,
    Facts,
    Outcome,
    ProtocolError,
    QuorateError,
    UnknownOutcome,
    Unreachable,
    class_of,
)
from .errors import PartialWrite as _PartialWrite
from .nodes import Node, Nodes, can_route
from .parse import Response
from .wire import Request

BACKOFF_S = 0.05
BACKOFF_S_MAX = 2.0
LOOK_UP_S_MAX = 1.0
"""How long the nodes may be looked up, at most a quarter of the time there is."""
LOOK_UP_NODES_MAX = 3
"""How many nodes are asked, if those before have not heard of the last change of the layout."""
REMOVED = "removed"
"""The problem of a node that is no member of the cluster any more."""
_FINAL_NAMES = frozenset({"internal", "disk_full", "buckets_full"})


@dataclass(frozen=True)
class Send:
    """Send a request to a node and give back the `Response`, or the `Failure`."""

    url: str
    request: Request
    timeout_s: float
    """How long the node may be silent, beyond what the request lets it wait."""
    left_s: float
    """How long all of it may take."""


@dataclass(frozen=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Failure:
    """There is no whole answer, or none that can be read. `unsent`: not even the request left."""

    kind: Literal["unsent", "lost", "timeout", "oversized", "unreadable"]
    detail: str

    @property
    def is_final(self) -> bool:
        """Whether another answer would be the same."""
        return self.kind in {"oversized", "unreadable"}


Step: TypeAlias = "Send | Sleep"
Reply: TypeAlias = "Response | Failure | None"
T = TypeVar("T")
Operation: TypeAlias = Generator[Step, Reply, T]


@dataclass
class Policy:
    """How long and how often to try. Times in seconds, by a monotonic clock."""

    deadline_s: float = 15.0
    attempts_max: int = 5
    attempt_timeout_s: float = 7.0
    """Longer than the server's own time-out, so that it can say what became of a write."""
    now: Callable[[], float] = time.monotonic
    rng: random.Random = field(default_factory=random.Random)

    def backoff_s(self, attempt: int) -> float:
        """Return a random wait before the attempt after this one (from 1)."""
        return self.rng.uniform(0, min(BACKOFF_S * 2.0 ** min(attempt, 16), BACKOFF_S_MAX))


class _Record:
    """What has become of one operation so far."""

    def __init__(self, *, is_write: bool) -> None:
        self.is_write = is_write
        self.attempts = 0
        self.outcome: Outcome = "not_applied"
        self.last: Facts = Facts()
        self.message = ""
        self.kind: type[QuorateError] = DeadlineExceeded

    def add_outcome(self, outcome: Outcome) -> None:
        """`partial` is known, so it outweighs `unknown`."""
        if outcome == "partial" or (outcome == "unknown" and self.outcome == "not_applied"):
            self.outcome = outcome

    def add_failure(self, node: Node, failure: Failure) -> None:
        self.attempts += 1
        if failure.kind != "unsent":
            self.add_outcome("unknown")
        self.last = Facts()
        self.message = f"{node.url}: {failure.detail}"
        self.kind = DeadlineExceeded if failure.kind == "timeout" else Unreachable
        if failure.is_final:
            self.kind = ProtocolError

    def add_refusal(self, facts: Facts) -> None:
        self.attempts += 1
        self.add_outcome(parse.outcome(facts))
        self.last = facts
        self.message = _describe(facts)
        self.kind = class_of(facts)

    def error(self) -> QuorateError:
        """Return the last error, in the class that the outcome of all attempts asks for."""
        kind, final = self.kind, 400 <= (self.last.status or 0) < 500 and self.last.status not in {408, 429}
        if self.is_write and not final:
            if self.outcome == "partial":
                kind = _PartialWrite
            elif self.outcome == "unknown":
                kind = UnknownOutcome
        outcome = self.outcome if self.is_write else None
        return kind(self.message, facts=self.last, outcome=outcome, attempts=self.attempts)


class _Attempts:
    """Which nodes one request was sent to, and how long it may still go on."""

    def __init__(self, nodes: Nodes, policy: Policy, deadline: float) -> None:
        self.nodes = nodes
        self.policy = policy
        self.deadline = deadline
        self.tried: list[Node] = []

    def left_s(self) -> float:
        return self.deadline - self.policy.now()

    @property
    def is_last(self) -> bool:
        return len(self.tried) >= self.policy.attempts_max or self.left_s() <= 0

    def begin(self, request: Request) -> Operation[Node | None]:
        """Choose a node, and wait as long as has to be; `None` if there is not so much time."""
        now = self.policy.now()
        place, is_write = request.place, request.is_write
        node = self.nodes.pick(place, is_write=is_write, tried=self.tried, now=now)
        if self.tried:
            wait_s = self.policy.backoff_s(len(self.tried))
            if node in self.tried:
                wait_s = max(wait_s, node.busy_until - self.policy.now())
            if wait_s >= self.left_s():
                return None
            yield Sleep(wait_s)
        self.tried.append(node)
        return node

    def send(self, node: Node, request: Request) -> Operation[Response | Failure]:
        """Send the request. What a failure says of the node is noted."""
        left_s = max(0.001, self.left_s())
        if len(self.tried) > 1:
            request = request.waiting(left_s - self.policy.deadline_s)
        else:
            request = request.waiting(request.wait_s)
        reply = yield Send(node.url, request, min(self.policy.attempt_timeout_s, left_s), left_s)
        if isinstance(reply, Response):
            self.nodes.heard(parse.epoch(reply), self.policy.now())
            return reply
        failure = reply or Failure("lost", "there is no answer")
        if not failure.is_final:
            self.nodes.failed(node, self.policy.now())
        return failure

    def note_refusal(self, node: Node, facts: Facts) -> None:
        """Note what a refusal says of the node."""
        if facts.problem == REMOVED:  # as good as dead, until it answers otherwise
            self.nodes.failed(node, self.policy.now())
        else:
            self.nodes.answered(node)
        if _may_repeat(facts) and facts.retry_after_s is not None:
            self.nodes.busy(node, self.policy.now() + facts.retry_after_s)


def call(
    request: Request, nodes: Nodes, policy: Policy, accepts: frozenset[int], deadline: float
) -> Operation[Response]:
    """Send a request until there is an answer with a status in `accepts`, and return that.

    404 is handed back if accepted: the caller has to tell an absent key from other answers.
    """
    attempts, record = _Attempts(nodes, policy, deadline), _Record(is_write=request.is_write)
    while True:
        node = yield from attempts.begin(request)
        if node is None:
            raise record.error()
        reply = yield from attempts.send(node, request)
        if isinstance(reply, Failure):
            record.add_failure(node, reply)
            may_repeat = not reply.is_final and (request.repeatable or reply.kind == "unsent")
        elif reply.status in accepts:
            nodes.answered(node)
            return reply
        else:
            facts = parse.facts(reply)
            attempts.note_refusal(node, facts)
            record.add_refusal(facts)
            left_nothing = request.once and parse.outcome(facts) == "not_applied"
            may_repeat = _may_repeat(facts) and (request.repeatable or left_nothing)
        if not may_repeat or attempts.is_last:
            raise record.error()


def call_batch(
    items: Sequence[Item], options: batch.BatchOptions, nodes: Nodes, policy: Policy, deadline: float
) -> Operation[list[Response | QuorateError]]:
    """Send operations as one request until each has an answer or an error, and return those in order.

    Those that were refused for the moment are sent again, as they would be alone. What becomes of the request
    becomes of each operation in it.
    """
    attempts = _Attempts(nodes, policy, deadline)
    records = [_Record(is_write=item.request.is_write) for item in items]
    answers: dict[int, Response] = {}
    left = list(range(len(items)))
    while left:
        request = batch.request_of([items[at] for at in left], options)
        node = yield from attempts.begin(request)
        if node is None:
            break
        reply = yield from attempts.send(node, request)
        again = []
        for at, each in zip(left, _each(reply, len(left), attempts, node), strict=True):
            if isinstance(each, Failure):
                records[at].add_failure(node, each)
                may_repeat = not each.is_final
            elif each.status in items[at].accepts:
                answers[at] = each
                continue
            else:
                facts = parse.facts(each)
                records[at].add_refusal(facts)
                may_repeat = _may_repeat(facts)
            if may_repeat:
                again.append(at)
        left = again
        if attempts.is_last:
            break
    return [answers[at] if at in answers else record.error() for at, record in enumerate(records)]


def _each(
    reply: Response | Failure, count: int, attempts: _Attempts, node: Node
) -> Sequence[Response | Failure]:
    """Return what the reply to a batch is for each of its operations."""
    if isinstance(reply, Failure):
        return [reply] * count
    if reply.status >= 400:
        attempts.note_refusal(node, parse.facts(reply))
        return [reply] * count
    attempts.nodes.answered(node)
    try:
        if reply.status != 200:
            raise parse.wrong(reply, "has a status that a batch does not have")
        return batch.answers(reply, count)
    except ProtocolError as error:
        return [Failure("unreadable", str(error))] * count


def look_up(nodes: Nodes, policy: Policy) -> Operation[None]:
    """Look the nodes up if it is time. A failure changes nothing: the nodes known are still good."""
    if not nodes.claim_refresh(policy.now()):
        return
    timeout_s = min(LOOK_UP_S_MAX, policy.deadline_s / 4)
    told = yield from _ask_about_cluster(nodes, policy, timeout_s)
    if told is None or not told[1].addresses:
        return
    node, found = told
    homes = None
    if can_route():
        ring = yield Send(node.url, Request("GET", "/ring/partitions"), timeout_s, timeout_s)
        with suppress(ProtocolError):
            homes = parse.homes(ring) if isinstance(ring, Response) and ring.status == 200 else None
    nodes.discovered(found.addresses, homes, policy.now(), found.epoch)


def _ask_about_cluster(
    nodes: Nodes, policy: Policy, timeout_s: float
) -> Operation[tuple[Node, parse.Cluster] | None]:
    """Ask nodes in turn until one has heard of the last change of the layout.

    If none has, the one that knows most is believed: the cluster may have been formed afresh.
    """
    tried: list[Node] = []
    best: tuple[Node, parse.Cluster] | None = None
    while len(tried) < LOOK_UP_NODES_MAX:
        node = nodes.pick(None, is_write=False, tried=tried, now=policy.now())
        if node in tried:
            break
        tried.append(node)
        reply = yield Send(node.url, Request("GET", "/cluster"), timeout_s, timeout_s)
        if not isinstance(reply, Response):
            nodes.failed(node, policy.now())
            break
        try:
            found = parse.cluster(reply) if reply.status == 200 else None
        except ProtocolError:
            found = None
        if found is None:
            break
        if best is None or found.epoch > best[1].epoch:
            best = (node, found)
        if found.epoch >= nodes.epoch:
            break
    return best


def _may_repeat(facts: Facts) -> bool:
    status = facts.status or 0
    return status in {408, 429} or (
        500 <= status < 600 and status != 507 and facts.problem not in _FINAL_NAMES
    )


def _describe(facts: Facts) -> str:
    if facts.problem is None:
        return f"status {facts.status} without a readable problem"
    return f"{facts.problem}: {facts.detail or facts.title or 'no detail'}"
