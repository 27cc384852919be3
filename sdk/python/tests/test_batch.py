"""Batches: how they are split, sent and repeated, and what hostile answers come to."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest
from conformance.servers import Stub

import quorate
from quorate import BatchChange, BatchDelete, BatchGet, BatchPut, batch
from quorate.parse import Response

JSON = {"Content-Type": "application/json"}
WRITTEN = {"status": 204, "context": "c", "siblings_count": 1, "acks": 2, "hints": 0}
BUSY = {"status": 503, "problem": {"type": "urn:quorate:problem:overloaded", "outcome": "not_applied"}}
NOTHING = {"status": 404, "problem": {"type": "urn:quorate:problem:key_not_found"}}


def answer(*results: Any) -> dict[str, Any]:
    return {"status": 200, "headers": {**JSON, "X-Request-Id": "r1"}, "json": {"results": list(results)}}


def sent_operations(stub: Stub) -> list[list[dict[str, Any]]]:
    return [json.loads(each.body)["operations"] for each in stub.take()]


def test_results_are_what_the_operations_alone_give(serve: Any) -> None:
    value = {"status": 200, "value": "2 apples", "content_type": "a/b", "context": "c1", "etag": '"e"'}
    value["meta"] = {"By": "mé"}
    done = {"status": 204, "headers": {"Quorate-Siblings": "1"}}
    client, stub = serve(
        answer(WRITTEN, value, NOTHING, {"status": 204, "acks": 2}, BUSY), done, attempts_max=1
    )
    results = client.batch(
        [
            BatchPut("carts", "alice", "2 äpfel", expires_in=timedelta(minutes=1)),
            BatchGet("carts", "bob"),
            BatchGet("carts", "eve"),
            BatchChange("visits", "home", {"increment": 2**62}),
            BatchDelete("carts", "dan", if_present=True),
        ],
        w="all",
    )
    written, read, absent, applied, busy = results
    assert isinstance(written, quorate.Written)
    assert (written.bucket, written.key, written.siblings, written.request_id) == ("carts", "alice", 1, "r1")
    assert isinstance(read, quorate.Value)
    assert (read.key, read.text, read.content_type, read.etag) == ("bob", "2 apples", "a/b", '"e"')
    assert read.meta == {"by": "mé"}
    assert isinstance(absent, quorate.Absent)
    assert isinstance(applied, quorate.Applied)
    assert (applied.key, applied.acks, applied.read) == ("home", 2, None)
    assert isinstance(busy, quorate.Overloaded)
    assert (busy.outcome, busy.attempts, busy.request_id) == ("not_applied", 1, "r1")
    read.put("3 apples", if_match=read)
    sent, put = stub.take()
    assert (sent.method, sent.path, sent.query) == ("POST", "/batch", {"w": "all"})
    assert (put.path, put.headers["quorate-context"], put.headers["if-match"]) == (
        "/kv/carts/bob",
        "c1",
        '"e"',
    )


def test_an_operation_is_the_request_that_it_stands_for(serve: Any) -> None:
    client, stub = serve(answer(*[WRITTEN] * 3))
    client.batch(
        [BatchPut("b", "k", "ü"), BatchPut("b", "k", b"\xff\0"), BatchDelete("b", "k", if_match='"e"')]
    )
    text, octets, delete = sent_operations(stub)[0]
    keys = {each.pop("idempotency_key") for each in (text, octets, delete)}
    assert len(keys) == 3
    place = {"bucket": "b", "key": "k"}
    assert text == {"op": "put", **place, "value": "ü", "content_type": "text/plain; charset=utf-8"}
    assert octets == {
        "op": "put",
        **place,
        "value": "/wA=",
        "encoding": "base64",
        "content_type": "application/octet-stream",
    }
    assert delete == {"op": "delete", **place, "if_match": '"e"'}


def test_what_was_refused_for_the_moment_is_sent_again_alone(serve: Any) -> None:
    unknown = {"status": 503, "problem": {"type": "urn:quorate:problem:no_quorum", "outcome": "unknown"}}
    wrong = {"status": 409, "problem": {"type": "urn:quorate:problem:wrong_type"}}
    client, stub = serve(answer(WRITTEN, BUSY, wrong, unknown), answer(WRITTEN, BUSY), answer(BUSY))
    results = client.batch([BatchPut("b", str(at), b"v") for at in range(4)])
    kinds = [type(each) for each in results]
    assert kinds == [quorate.Written, quorate.Written, quorate.WrongType, quorate.UnknownOutcome]
    assert [getattr(each, "attempts", None) for each in results] == [None, None, 1, 5]
    sent = sent_operations(stub)
    assert [[each["key"] for each in part] for part in sent] == [
        ["0", "1", "2", "3"],
        ["1", "3"],
        *[["3"]] * 3,
    ]
    assert len({part[-1]["idempotency_key"] for part in sent}) == 1


def test_a_batch_that_was_lost_is_repeated_under_the_same_keys(serve: Any) -> None:
    client, stub = serve({}, answer(WRITTEN, NOTHING))
    written, read = client.batch([BatchPut("b", "k", b"v", idempotency_key="mine"), BatchGet("b", "k")])
    assert isinstance(written, quorate.Written)
    assert isinstance(read, quorate.Absent)
    first, second = sent_operations(stub)
    assert first == second
    assert first[0]["idempotency_key"] == "mine"


def test_a_batch_is_split_by_number_and_by_length(serve: Any) -> None:
    client, stub = serve(*[answer(*[NOTHING] * count) for count in (1000, 1000, 1)])
    assert len(client.batch(BatchGet("b", str(at)) for at in range(2001))) == 2001
    assert [len(part) for part in sent_operations(stub)] == [1000, 1000, 1]
    half = b"x" * (batch.BYTES_MAX // 2 - 1000)
    client, stub = serve(*[answer(*[WRITTEN] * count) for count in (2, 1, 1, 1)])
    values = [half, half, half, b"x" * (batch.BYTES_MAX + 1), b"small"]
    results = client.batch([BatchPut("b", str(at), value) for at, value in enumerate(values)])
    assert [getattr(each, "key", each) for each in results] == ["0", "1", "2", "3", "4"]
    assert [len(part) for part in sent_operations(stub)] == [2, 1, 1, 1]


def test_one_part_that_fails_is_not_the_others(serve: Any) -> None:
    refused = {"status": 403, "problem": {"type": "forbidden"}}
    client, _ = serve(refused, answer(NOTHING))
    results = client.batch(BatchGet("b", str(at)) for at in range(1001))
    assert {type(each) for each in results[:1000]} == {quorate.BadRequest}
    assert isinstance(results[1000], quorate.Absent)


def test_a_batch_of_nothing_sends_nothing(serve: Any) -> None:
    client, stub = serve(answer())
    assert client.batch([]) == []
    assert not stub.take()


WRONG: list[Callable[[], Any]] = [
    lambda: BatchGet("b", ""),
    lambda: BatchGet("", "k"),
    lambda: BatchGet("b", "\ud800"),
    lambda: BatchPut("b", "k", iter([b"v"])),  # type: ignore[arg-type]
    lambda: BatchPut("b", "k", "\ud800"),
    lambda: BatchPut("b", "k", b"", expires_in=0),
    lambda: BatchPut("b", "k", b"", if_absent=True, if_present=True),
    lambda: BatchPut("b", "k", b"", content_type="ü"),
    lambda: BatchPut("b", "k", b"", index={"age_i": "old"}),
    lambda: BatchDelete("b", "k", context="a\nb"),
    lambda: BatchChange("b", "k", {"remove": ["a"]}),
    lambda: BatchChange("b", "k", {"update": 5}),
    lambda: BatchChange("b", "k", {"increment": object()}),
    lambda: BatchChange("b", "k", {"add": ["\ud800"]}),
    lambda: BatchChange("b", "k", None),  # type: ignore[arg-type]
    lambda: "b/k",
]


@pytest.mark.parametrize("make", WRONG, ids=range(len(WRONG)))
def test_a_wrong_operation_is_named_and_nothing_is_sent(serve: Any, make: Callable[[], Any]) -> None:
    client, stub = serve(answer(WRITTEN))
    with pytest.raises(quorate.InvalidArgument, match=r"operations\[1\]"):
        client.batch([BatchGet("b", "k"), make()])
    assert not stub.take()


def test_the_asynchronous_client_does_the_same() -> None:
    stub = Stub([answer(WRITTEN, {"status": 200, "value": "v", "context": "c1"}), {"status": 204}])

    async def work() -> None:
        async with quorate.AsyncClient(stub.url, discover=False) as client:
            written, read = await client.batch([BatchPut("b", "a", b"v"), BatchGet("b", "k")], r=1)
            assert isinstance(written, quorate.Written)
            assert isinstance(read, quorate.Value)
            await read.put("w")

    try:
        anyio.run(work)
        sent, put = stub.take()
    finally:
        stub.close()
    assert (sent.path, sent.query) == ("/batch", {"r": "1"})
    assert put.headers["quorate-context"] == "c1"


def test_damaged_answers_are_typed_errors_and_never_anything_else(serve: Any) -> None:
    rng = random.Random(7)
    odd: list[Any] = [None, True, -1, 1e308, "", "\ud800", "\n", [], {}, [[]], {"type": 1}, 2**70]
    items = batch.items(
        [BatchPut("b", "k", b"v"), BatchGet("b", "k"), BatchChange("b", "k", {"increment": 1})]
    )
    good = [
        WRITTEN,
        {"status": 200, "value": "/w==", "encoding": "base64", "content_type": "a/b", "context": "c"},
        {"status": 200, "value": "v", "context": "c", "meta": {"by": "mé"}, "index": {"a_i": [1]}},
        {"status": 300, "context": "c", "siblings": [{"dot": "d", "value": "v"}]},
        {**BUSY, "expires_at": "2126-11-29T18:39:26.123Z"},
        {
            "status": 404,
            "context": "c",
            "expired": True,
            "problem": {"type": "urn:quorate:problem:key_deleted"},
        },
    ]
    client, _ = serve()
    for _ in range(3000):
        results = [dict(rng.choice(good)) for _ in range(3)]
        damaged = rng.choice(results)
        damaged[rng.choice([*damaged, "status", "value", "problem"])] = rng.choice(odd)
        body = json.dumps({"results": results if rng.random() < 0.9 else rng.choice(odd)}).encode()
        reply = Response(200, [(b"content-type", b"application/json")], body)
        with contextlib.suppress(quorate.ProtocolError):
            for item, each in zip(items, batch.answers(reply, 3), strict=True):
                item.result(each, client)
