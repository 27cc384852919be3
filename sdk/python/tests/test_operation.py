"""Retries, with a clock that only moves when it is told to, and no network."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

import quorate
from quorate.nodes import Nodes
from quorate.operation import Failure, Policy, Reply, Send, Sleep, call
from quorate.parse import Response
from quorate.wire import Request, WriteOptions, delete, get, put

LOST = Failure("lost", "reset")
UNSENT = Failure("unsent", "refused")
OK = Response(204, (), b"")


def refusal(name: str, status: int = 503, wait_s: int | None = None, **facts: Any) -> Response:
    headers = [(b"content-type", b"application/problem+json")]
    if wait_s is not None:
        headers.append((b"retry-after", str(wait_s).encode()))
    body = {"type": f"urn:quorate:problem:{name}", "status": status, **facts}
    return Response(status, headers, json.dumps(body).encode())


class World:
    """Plays the network: gives the replies in order, and moves the clock when something waits."""

    def __init__(self, urls: int, replies: list[Reply], **policy: Any) -> None:
        self.now = 100.0
        self.nodes = Nodes([f"http://n{at}" for at in range(urls)], random.Random(1))
        self.policy = Policy(now=lambda: self.now, rng=random.Random(2), **policy)
        self.replies = replies
        self.asked: list[str] = []
        self.waits: list[float] = []

    def run(self, request: Request) -> Response:
        deadline = self.now + self.policy.deadline_s
        operation = call(request, self.nodes, self.policy, frozenset({204}), deadline)
        reply: Reply = None
        while True:
            try:
                step = operation.send(reply)
            except StopIteration as end:
                result: Response = end.value
                return result
            if isinstance(step, Sleep):
                self.waits.append(step.seconds)
                self.now += step.seconds
                reply = None
                continue
            assert isinstance(step, Send)
            assert step.timeout_s <= max(0.001, deadline - self.now)
            self.asked.append(step.url)
            reply = self.replies.pop(0)
            if isinstance(reply, Failure) and reply.kind == "timeout":
                self.now += step.timeout_s


WRITE = put("b", "k", b"v", WriteOptions())
READ = get("b", "k", {})


def test_another_node_is_asked_without_waiting_for_the_first() -> None:
    world = World(3, [refusal("overloaded", wait_s=60), UNSENT, OK])
    assert world.run(WRITE) is OK
    assert len(set(world.asked)) == 3
    assert sum(world.waits) < 1


def test_the_only_node_is_left_alone_for_as_long_as_it_asks() -> None:
    world = World(1, [refusal("overloaded", wait_s=3), OK])
    world.run(WRITE)
    assert world.waits[0] >= 3


def test_waits_grow_and_have_a_bound() -> None:
    world = World(1, [LOST] * 40, attempts_max=40, deadline_s=1e6)
    with pytest.raises(quorate.Unreachable):
        world.run(READ)
    assert max(world.waits[:3]) < 0.5
    assert max(world.waits) <= 2.0
    assert len(set(world.waits)) > 30, "they are random"


def test_a_wait_past_the_deadline_ends_the_operation_at_once() -> None:
    world = World(1, [refusal("overloaded", wait_s=60, outcome="not_applied")], deadline_s=10)
    with pytest.raises(quorate.Overloaded) as error:
        world.run(WRITE)
    assert (world.waits, error.value.attempts, error.value.outcome) == ([], 1, "not_applied")


def test_a_dead_node_is_avoided_by_later_operations_and_asked_again_later() -> None:
    world = World(2, [UNSENT, OK, *[OK] * 10])
    world.run(WRITE)
    dead, alive = world.asked
    for _ in range(4):
        world.run(WRITE)
    assert set(world.asked[2:]) == {alive}
    world.now += 60
    for _ in range(4):
        world.run(WRITE)
    assert dead in world.asked[6:]


def test_with_all_nodes_dead_each_is_still_tried() -> None:
    world = World(3, [UNSENT] * 5)
    with pytest.raises(quorate.Unreachable) as error:
        world.run(WRITE)
    assert (len(set(world.asked)), len(world.asked)) == (3, 5)
    assert error.value.outcome == "not_applied"


@pytest.mark.parametrize(
    ("replies", "kind", "outcome"),
    [
        ([UNSENT, UNSENT], quorate.Unreachable, "not_applied"),
        ([LOST, UNSENT], quorate.UnknownOutcome, "unknown"),
        ([UNSENT, LOST], quorate.UnknownOutcome, "unknown"),
        ([LOST, refusal("no_quorum", outcome="partial")], quorate.PartialWrite, "partial"),
        ([refusal("no_quorum", outcome="partial"), LOST], quorate.PartialWrite, "partial"),
        ([refusal("x", outcome="not_applied")] * 2, quorate.ServerError, "not_applied"),
        ([refusal("x")] * 2, quorate.UnknownOutcome, "unknown"),
        ([LOST, refusal("bad_context", 400)], quorate.BadContext, "unknown"),
        ([Failure("timeout", "slow")] * 2, quorate.UnknownOutcome, "unknown"),
        ([Failure("oversized", "long")], quorate.UnknownOutcome, "unknown"),
    ],
)
def test_the_outcome_of_a_write_is_that_of_all_attempts(
    replies: list[Reply], kind: type[quorate.QuorateError], outcome: str
) -> None:
    world = World(2, list(replies), attempts_max=2)
    with pytest.raises(quorate.QuorateError) as error:
        world.run(delete("b", "k", WriteOptions()))
    assert (type(error.value), error.value.outcome) == (kind, outcome)
    assert world.replies == []


def test_a_read_has_no_outcome() -> None:
    world = World(1, [LOST, LOST], attempts_max=2)
    with pytest.raises(quorate.Unreachable) as error:
        world.run(READ)
    assert error.value.outcome is None


def test_a_read_that_runs_out_of_time_says_so() -> None:
    world = World(1, [Failure("timeout", "slow")] * 3, deadline_s=8)
    with pytest.raises(quorate.DeadlineExceeded):
        world.run(READ)


def test_pieces_that_can_be_read_once_are_sent_once() -> None:
    once = put("b", "k", iter([b"v"]), WriteOptions())
    world = World(2, [LOST, OK])
    with pytest.raises(quorate.UnknownOutcome):
        world.run(once)
    world = World(2, [UNSENT, OK])
    assert world.run(once) is OK, "nothing was read of them yet"
    world = World(2, [LOST, OK])
    assert world.run(put("b", "k", lambda: iter([b"v"]), WriteOptions())) is OK


def test_a_node_that_was_removed_is_as_good_as_dead() -> None:
    world = World(2, [refusal("removed", outcome="not_applied"), *[OK] * 5])
    request = put("b", "k", "v", WriteOptions())
    for _ in range(5):
        assert world.run(request) is OK
    removed, member = world.asked[:2]
    assert removed != member
    assert world.asked[1:] == [member] * 5
