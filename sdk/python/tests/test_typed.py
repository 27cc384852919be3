"""Typed values: what is sent, what is refused, and what hostile answers come to."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import anyio
import pytest
from conformance.servers import Stub

import quorate
from quorate import parse_typed, typed, wire
from quorate.parse import Response

KINDS: list[tuple[parse_typed.Kind[Any], Any]] = [
    (parse_typed.COUNTER, 5),
    (parse_typed.SET, ["a", "b"]),
    (parse_typed.FLAG, True),
    (parse_typed.MAP, {"name": {"register_lww": "Ann", "flag": True}, "tags": {"set": ["x"]}}),
    (parse_typed.REGISTER, "text"),
    (parse_typed.ESTIMATE, 7),
]
REQUEST = wire.typed_get("b", "k", {})
DONE = {"status": 204, "headers": {"Quorate-Acks": "2"}}


def shown(kind: str, value: Any) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", "Quorate-Context": "c1", "ETag": '"e1"'}
    return {"status": 200, "headers": headers, "json": {"type": kind, "value": value, "exists": True}}


def response(body: Any) -> Response:
    headers = [(b"Content-Type", b"application/json"), (b"Quorate-Context", b"c1")]
    return Response(200, headers, body if isinstance(body, bytes) else json.dumps(body).encode())


def test_a_read_removes_with_its_context(serve: Any) -> None:
    client, stub = serve(shown("set", ["a", "b"]), DONE, shown("flag", True), DONE, shown("map", {}), DONE)
    cart = client.set("b", "k").get(r="all")
    assert (cart.value, cart.exists, cart.etag) == ({"a", "b"}, True, '"e1"')
    assert cart.remove("a", w=3).acks == 2
    client.flag("b", "k").get().disable()
    client.map("b", "k").get().update(remove=["old"], remove_from={"tags": ["x"]}, disable=["on"])
    sent = stub.take()
    assert [each.method for each in sent] == ["GET", "POST"] * 3
    assert all(each.headers["quorate-context"] == "c1" for each in sent[1::2])
    assert (sent[0].query, sent[1].query) == ({"r": "all"}, {"w": "3"})
    assert [json.loads(each.body) for each in sent[1::2]] == [
        {"remove": ["a"]},
        {"enable": False},
        {"update": {"on": {"flag": False}, "tags": {"set": {"remove": ["x"]}}}, "remove": ["old"]},
    ]


def test_the_asynchronous_client_does_the_same() -> None:
    stub = Stub([shown("set", ["a"]), DONE, shown("counter", 7)])

    async def work() -> None:
        async with quorate.AsyncClient(stub.url, discover=False) as client:
            seen = await client.set("b", "k").get()
            await seen.remove("a")
            applied = await client.counter("b", "k").increment(5, return_body=True)
            assert applied.read is not None
            assert (applied.read.value, applied.context) == (7, "c1")

    try:
        anyio.run(work)
        _, removed, added = stub.take()
    finally:
        stub.close()
    assert (removed.headers["quorate-context"], removed.path) == ("c1", "/types/b/k")
    assert (added.query, added.body) == ({"return_body": "true"}, b'{"increment": 5}')


def test_a_change_with_its_value_is_a_context(serve: Any) -> None:
    client, stub = serve(shown("set", ["a"]), DONE, DONE)
    cart = client.set("b", "k")
    cart.change(remove=["a"], context=cart.add("a", return_body=True))
    with pytest.raises(quorate.InvalidArgument, match="return_body"):
        cart.change(remove=["a"], context=cart.add("b"))
    assert stub.take()[1].headers["quorate-context"] == "c1"


def test_what_cannot_be_meant_is_refused(serve: Any) -> None:
    client, stub = serve(DONE)
    for wrong in (1.5, "1", True, 2**63, None):
        with pytest.raises(quorate.InvalidArgument):
            client.counter("b", "k").increment(wrong)
    for change in (
        {"remove": ["f"]},
        {"disable": ["f"]},
        {"remove_from": {"f": ["x"]}},
        {"add": {"f": "text"}},
        {"enable": "f"},
        {"enable": ["f"], "disable": ["f"]},
        {"assign": {"f": 7}},
    ):
        with pytest.raises(quorate.InvalidArgument):
            client.map("b", "k").update(**change)
    for element in (7, "\ud800", ["a"]):
        with pytest.raises(quorate.InvalidArgument):
            client.set("b", "k").add(element)
    assert not stub.take()


@pytest.mark.parametrize(("kind", "value"), KINDS, ids=lambda it: getattr(it, "name", ""))
def test_values_are_read_as_their_type(kind: Any, value: Any) -> None:
    read = parse_typed.typed(REQUEST, response({"type": kind.name, "value": value, "exists": True}), kind)
    assert (read.bucket, read.key, read.context) == ("b", "k", "c1")
    with pytest.raises(quorate.WrongType, match="list"):
        parse_typed.typed(REQUEST, response({"type": "list", "value": [], "exists": True}), kind)


def test_damaged_answers_are_typed_errors_and_never_anything_else() -> None:
    rng = random.Random(7)
    odd: list[Any] = [None, True, -1, 1.5, 1e308, "", "-", "²", "9" * 9999, [], {}, [[]], {"flag": 1}, 2**70]
    for _ in range(3000):
        kind, value = rng.choice(KINDS)
        body: Any = {"type": kind.name, "value": value, "exists": True}
        body[rng.choice(sorted(body))] = rng.choice(odd)
        if isinstance(value, dict) and rng.random() < 0.5:
            body["value"] = {"name": {rng.choice(["register_lww", "flag", "set"]): rng.choice(odd)}}
        encoded = json.dumps(body).encode()
        if rng.random() < 0.2:
            encoded = encoded[: rng.randrange(len(encoded))]
        with contextlib.suppress(quorate.QuorateError):
            parse_typed.typed(REQUEST, response(encoded), kind)


def test_totals_have_all_their_digits() -> None:
    def total(value: Any) -> int:
        body = {"type": "counter", "value": value, "exists": True}
        return parse_typed.typed(REQUEST, response(body), parse_typed.COUNTER).value

    assert total(2**64 - 1) == 2**64 - 1
    assert total(str(-(2**80))) == -(2**80)


def test_properties_that_were_read_can_be_set() -> None:
    request = wire.set_bucket("b", {"type": "set", "conflicts": "merged", "n": 3})
    assert json.loads(request.body) == {"type": "set", "n": 3}  # type: ignore[arg-type]
    assert typed.removes({"remove": ["a"]})
    assert not typed.removes({"add": ["a"]})
