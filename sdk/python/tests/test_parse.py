"""Answers of a hostile server: typed errors, whatever it says."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest

import quorate
from quorate import parse, wire
from quorate.parse import Response

REQUEST = wire.get("b", "k", {})
GOOD: dict[str, Any] = {
    "siblings": [
        {
            "dot": "00000000000000ff-1",
            "value": "v",
            "content_type": "a/b",
            "meta": {"a": "1"},
            "index": {"age_i": [-7, 42], "email_s": ["a@x"]},
            "writer": "n1",
            "expires_at": "2126-11-29T18:39:26.123Z",
        },
        {
            "dot": "00000000000000ff-2",
            "value": "/w==",
            "encoding": "base64",
            "content_type": "a/b",
            "meta": {},
        },
        {"dot": "00000000000000ff-3", "deleted": True, "expires_at": "2026-11-29T18:39:26.000Z"},
    ],
    "expires_in_s": 60,
    "keys": ["a", "b"],
    "entries": [{"value": 7, "key": "a"}, {"value": 7, "key": "b"}],
    "cursor": None,
    "complete": True,
    "n": 3,
    "r": "quorum",
    "w": 2,
    "conflicts": "lww",
    "sloppy": True,
    "nodes": ["n1", {"node": "n1", "http_addr": "h:1"}],
    "homes": [[0], [1]],
    "type": "urn:quorate:problem:no_quorum",
    "outcome": "partial",
}


def response(status: int, body: Any, kind: str = "application/json") -> Response:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, [(b"Content-Type", kind.encode()), (b"Quorate-Context", b"ctx")], encoded)


class Nobody:
    """A client that is not asked."""

    def put(self, *_: Any, **__: Any) -> quorate.Written:
        raise AssertionError

    delete = keep = put


def read(given: Response) -> Any:
    return parse.read(REQUEST, given, Nobody())


def test_the_epoch_is_a_number_or_not_there() -> None:
    def said(text: str) -> int | None:
        return parse.epoch(Response(204, [(b"quorate-epoch", text.encode())], b""))

    assert said("7") == 7
    assert [said(text) for text in ("", "-1", "1e3", "x", "9" * 40, "٣")] == [None] * 6
    for layout, epoch in (({"version": 7}, 7), ({"version": -1}, 0), ({"version": 2**70}, 0), (None, 0)):
        body = json.dumps({"nodes": [], "layout": layout}).encode()
        given = Response(200, [(b"content-type", b"application/json")], body)
        assert parse.cluster(given) == parse.Cluster({}, epoch)


PARSERS: list[Callable[[Response], Any]] = [
    read,
    parse.key_page,
    lambda given: parse.index_page("age_i", given),
    parse.properties,
    parse.cluster,
    parse.homes,
    parse.json_object,
    lambda given: parse.outcome(parse.facts(given)),
    lambda given: parse.written(REQUEST, given),
]


def mutated(rng: random.Random, value: Any) -> Any:
    """Return the value with one thing in it replaced by something else."""
    odd: list[Any] = [None, True, -1, 1e308, "", "x", [], {}, [[]], {"dot": 1}, [None], 2**70, "\ud800"]
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(sorted(value))
        return {**value, name: mutated(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], mutated(rng, value[at]), *value[at + 1 :]]
    return rng.choice(odd)


def test_damaged_answers_are_typed_errors_and_never_anything_else() -> None:
    rng = random.Random(7)
    kinds = ["application/json", "application/problem+json", "text/html", ""]
    for _ in range(2000):
        body = json.dumps(mutated(rng, mutated(rng, GOOD))).encode()
        if rng.random() < 0.3:
            body = body[: rng.randrange(len(body) + 1)]
        if rng.random() < 0.2:
            body = bytes(b ^ (rng.randrange(256) if rng.random() < 0.02 else 0) for b in body)
        given = response(rng.choice([200, 300, 404, 503, 418]), body, rng.choice(kinds))
        for parser in PARSERS:
            with contextlib.suppress(quorate.QuorateError):
                parser(given)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"siblings":' * 50_000, b"1" * 10_000, b"\xff\xfe"])
def test_bodies_that_break_parsers(body: bytes) -> None:
    with pytest.raises(quorate.ProtocolError):
        read(response(300, body))
    assert parse.facts(response(503, body, "application/problem+json")).problem is None


def test_siblings_are_read_with_all_that_is_said_of_them() -> None:
    siblings = read(response(300, GOOD))
    assert isinstance(siblings, quorate.Siblings)
    assert [sibling.value for sibling in siblings] == [b"v", b"\xff", b""]
    assert [sibling.deleted for sibling in siblings] == [False, False, True]
    assert (siblings.siblings[0].meta, siblings.siblings[0].writer) == ({"a": "1"}, "n1")
    assert [sibling.index for sibling in siblings] == [{"age_i": (-7, 42), "email_s": ("a@x",)}, {}, {}]
    assert len(siblings.live) == 2
    assert [sibling.expires_at for sibling in siblings] == [
        datetime(2126, 11, 29, 18, 39, 26, 123_000, timezone.utc),
        None,
        datetime(2026, 11, 29, 18, 39, 26, 0, timezone.utc),
    ]


def test_when_a_value_expires_is_a_time_or_not_there() -> None:
    def expires_at(text: str | None) -> datetime | None:
        headers = [(b"Quorate-Context", b"c")]
        if text is not None:
            headers.append((b"Quorate-Expires-At", text.encode()))
        at: datetime | None = read(Response(200, headers, b"")).expires_at
        return at

    assert expires_at("2026-11-29T18:39:26.007Z") == datetime(2026, 11, 29, 18, 39, 26, 7000, timezone.utc)
    assert expires_at(None) is None
    for text in (
        "",
        "soon",
        "2026-11-29T18:39:26Z",
        "2026-02-30T18:39:26.000Z",
        "2026-11-29T18:39:26.123+01:00",
    ):
        with pytest.raises(quorate.ProtocolError):
            expires_at(text)


def test_a_deleted_key_says_whether_its_value_expired() -> None:
    problem = json.dumps({"type": "urn:quorate:problem:key_deleted"}).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"quorate-context", b"c")]
    assert not read(Response(404, headers, problem)).expired
    assert read(Response(404, [*headers, (b"quorate-expired", b"true")], problem)).expired
    assert not read(Response(404, [*headers, (b"quorate-expired", b"no")], problem)).expired


@pytest.mark.parametrize("name", ["expires_in_s", "feed_retention_s"])
def test_times_among_the_properties_of_a_bucket_are_numbers_or_none(name: str) -> None:
    body = {**GOOD, "type": "value"}
    assert getattr(parse.properties(response(200, {**body, name: 70})), name) == 70
    without = {each: value for each, value in body.items() if each != name}
    for given in (without, {**body, name: None}):
        assert getattr(parse.properties(response(200, given)), name) is None
    wrong: list[Any] = ["60", 1.5, True, []]
    for odd in wrong:
        with pytest.raises(quorate.ProtocolError):
            parse.properties(response(200, {**body, name: odd}))


def test_metadata_is_utf8_and_what_is_not_is_replaced() -> None:
    headers = [(b"Quorate-Context", b"c"), (b"QUORATE-META-A", "ü".encode()), (b"quorate-meta-b", b"\xff")]
    value = read(Response(200, headers, b""))
    assert dict(value.meta) == {"a": "ü", "b": "\ufffd"}


def test_a_deleted_key_without_a_context_is_no_answer() -> None:
    problem = json.dumps({"type": "urn:quorate:problem:key_deleted"}).encode()
    with pytest.raises(quorate.ProtocolError):
        read(Response(404, [(b"content-type", b"application/problem+json")], problem))
