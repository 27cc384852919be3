"""Feeds and waits: what is sent, how it is repeated, and what hostile answers come to."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import anyio
import pytest
from conformance.servers import Stub

import quorate
from quorate import feed, wire
from quorate.parse import Response

JSON = {"Content-Type": "application/json"}
DELETED = {"key": "k", "status": 404, "deleted": True, "context": "c1"}
EXPIRED = {
    "status": 410,
    "problem": {"type": "cursor_expired", "status": 410, "cursor": "new", "resync": "/keys/b"},
}
NOTHING_NEW = {"status": 304, "headers": {"Quorate-Context": "c1"}}


def page(cursor: str, *changes: dict[str, Any], complete: bool = True, **more: Any) -> dict[str, Any]:
    shown = {"bucket": "b", "changes": list(changes), "cursor": cursor, "complete": complete}
    return {"status": 200, "headers": {**JSON, "X-Request-Id": "r1"}, "json": shown, **more}


def test_a_change_is_what_a_read_gives_and_is_written_through(serve: Any) -> None:
    text = {"key": "a", "status": 200, "value": "one", "context": "c1", "etag": '"e"'}
    large = {"key": "l", "status": 200, "bytes": 70_000, "content_type": "a/b", "meta": {"m": "1"}}
    flag = {"key": "f", "status": 200, "type": "flag", "exists": True, "value": True, "context": "c2"}
    done = {"status": 204, "headers": {"Quorate-Siblings": "1"}}
    client, stub = serve(page("C1", text, large, flag, DELETED), done, done)
    found = client.feed_page("b", start="oldest")
    assert (len(found), found.cursor, found.complete) == (4, "C1", True)
    a, l, f, k = found  # noqa: E741 (named as the keys)
    assert isinstance(a, quorate.Value)
    assert (a.bucket, a.key, a.text, a.etag, a.request_id) == ("b", "a", "one", '"e"', "r1")
    assert l == quorate.LargeValue("b", "l", 70_000, content_type="a/b", meta={"m": "1"})
    assert isinstance(f, quorate.Typed)
    assert (f.key, f.value, f.context) == ("f", True, "c2")
    assert isinstance(k, quorate.Absent)
    assert (k.key, k.deleted, k.expired) == ("k", True, False)
    a.put("two", if_match=a)
    client.flag("b", "f").disable(context=f)
    _, put, disable = stub.take()
    assert (put.path, put.headers["quorate-context"], put.headers["if-match"]) == ("/kv/b/a", "c1", '"e"')
    assert (disable.path, disable.headers["quorate-context"]) == ("/types/b/f", "c2")


def test_a_feed_goes_from_page_to_page_until_an_error(serve: Any) -> None:
    client, stub = serve(page("C1"), page("C2", DELETED), EXPIRED, page("C3"))
    pages = client.feed("b", start="now", prefix="p", limit=3, wait_ms=400)
    assert [next(pages).cursor, next(pages).cursor] == ["C1", "C2"]
    with pytest.raises(quorate.CursorExpired) as error:
        next(pages)
    assert (error.value.cursor, error.value.resync, error.value.outcome) == ("new", "/keys/b", None)
    assert next(client.feed("b", start=error.value.cursor)).cursor == "C3"
    rest = {"prefix": "p", "limit": "3"}
    assert [each.query for each in stub.take()] == [
        {"cursor": "now", **rest},
        {"cursor": "C1", **rest, "wait_ms": "400"},
        {"cursor": "C2", **rest, "wait_ms": "400"},
        {"cursor": "new", "wait_ms": "20000"},
    ]


def test_the_asynchronous_client_does_the_same() -> None:
    stub = Stub([page("C1"), page("C2", DELETED), page("C3"), NOTHING_NEW])

    async def work() -> list[str]:
        async with quorate.AsyncClient(stub.url, discover=False) as client:
            cursors = []
            async for each in client.feed("b", start="now", wait_ms=400):
                cursors.append(each.cursor)
                if len(each):
                    break
            cursors.append((await client.feed_page("b", start=cursors[-1])).cursor)
            assert await client.wait("b", "k", context="c1", wait_ms=300) is None
            return cursors

    try:
        assert anyio.run(work) == ["C1", "C2", "C3"]
        queries = [each.query for each in stub.take()]
    finally:
        stub.close()
    assert queries == [
        {"cursor": "now"},
        {"cursor": "C1", "wait_ms": "400"},
        {"cursor": "C2"},
        {"wait_ms": "300"},
    ]


def test_another_node_is_asked_with_the_same_cursor_and_what_is_left_of_the_wait() -> None:
    lost, other = Stub([{"delay_ms": 400}]), Stub([page("C2")])
    try:
        with quorate.Client([lost.url, other.url], discover=False) as client:
            while not (first := lost.take()):
                assert client.feed_page("b", start="C1", wait_ms=1000).cursor == "C2"
                second = other.take()
    finally:
        lost.close()
        other.close()
    assert [each.query for each in first] == [{"cursor": "C1", "wait_ms": "1000"}]
    left_ms = int(second[0].query.pop("wait_ms"))
    assert second[0].query == {"cursor": "C1"}
    assert 1 <= left_ms <= 600


def test_a_wait_is_no_silence_but_what_is_beyond_it_is(serve: Any) -> None:
    late = {**page("C1"), "delay_ms": 600}
    client, _ = serve(late, {**NOTHING_NEW, "delay_ms": 600}, late, attempt_timeout_s=0.3, deadline_s=0.4)
    assert client.feed_page("b", start="now", wait_ms=1000).cursor == "C1"
    assert client.wait("b", "k", context="c1", wait_ms=1000) is None
    with pytest.raises(quorate.DeadlineExceeded):
        client.feed_page("b", start="now", wait_ms=50)


def test_a_wait_gives_what_a_read_gives(serve: Any) -> None:
    value = {"status": 200, "headers": {"Quorate-Context": "c1"}, "body": "one"}
    never = {"status": 404, "problem": {"type": "key_not_found", "status": 404}}
    client, stub = serve(never, value, NOTHING_NEW)
    absent = client.get("b", "k")
    read = client.wait("b", "k", context=absent)
    assert isinstance(read, quorate.Value)
    assert read.text == "one"
    assert client.wait("b", "k", context=read, wait_ms=50, r=1, timeout_ms=700) is None
    _, first, second = stub.take()
    assert (first.query, first.headers.get("quorate-context")) == ({"wait_ms": "30000"}, None)
    assert second.query == {"r": "1", "timeout_ms": "700", "wait_ms": "50"}
    assert second.headers["quorate-context"] == "c1"


@pytest.mark.parametrize("wait_ms", [0, -1, 60_001, 1.5, True, "100"])
def test_waits_that_are_none_are_refused(serve: Any, wait_ms: Any) -> None:
    client, stub = serve(NOTHING_NEW)
    with pytest.raises(quorate.InvalidArgument, match="wait_ms"):
        client.wait("b", "k", wait_ms=wait_ms)
    with pytest.raises(quorate.InvalidArgument, match="wait_ms"):
        client.feed_page("b", start="now", wait_ms=wait_ms)
    with pytest.raises(quorate.InvalidArgument, match="start"):
        client.feed_page("b", start="")
    assert not stub.take()


def test_what_a_later_attempt_waits_is_at_least_a_moment() -> None:
    request = wire.feed("b", "C", "", None, 500)
    assert [request.waiting(left_s).wait_ms for left_s in (-3.0, 0.0, 0.2501, 0.5, 9.0)] == [
        *(1, 1, 251, 500, 500)
    ]
    assert request.waiting(9.0).target == "/feed/b?cursor=C&wait_ms=500"
    assert wire.wait("b", "k", None, 20, {}).waiting(1.0).target == "/kv/b/k?wait_ms=20"
    plain = wire.get("b", "k", {})
    assert plain.waiting(9.0) is plain


def test_damaged_pages_are_typed_errors_and_never_anything_else(serve: Any) -> None:
    rng = random.Random(7)
    odd: list[Any] = [None, True, -1, 1e308, "", "\ud800", "\n", [], {}, [[]], {"type": 1}, 2**70]
    good = [
        {"key": "a", "status": 200, "value": "/w==", "encoding": "base64", "context": "c"},
        {"key": "b", "status": 200, "value": "v", "context": "c", "meta": {"by": "mé"}, "etag": '"e"'},
        {"key": "c", "status": 300, "context": "c", "siblings": [{"dot": "d", "value": "v"}]},
        {"key": "d", "status": 200, "bytes": 70_000, "expires_at": "2126-11-29T18:39:26.123Z"},
        {"key": "i", "status": 200, "value": "v", "context": "c", "index": {"a_i": [1], "b_s": ["x"]}},
        {"key": "e", "status": 200, "type": "set", "exists": True, "value": ["a"], "context": "c"},
        {**DELETED, "expired": True},
    ]
    client, _ = serve()
    for _ in range(3000):
        changes = [dict(rng.choice(good)) for _ in range(3)]
        damaged = rng.choice(changes)
        damaged[rng.choice([*damaged, "status", "value", "type", "bytes"])] = rng.choice(odd)
        shown = {"changes": changes, "cursor": "C", "complete": True}
        if rng.random() < 0.2:
            shown[rng.choice([*shown])] = rng.choice(odd)
        reply = Response(200, [(b"content-type", b"application/json")], json.dumps(shown).encode())
        with contextlib.suppress(quorate.ProtocolError):
            feed.page("b", reply, client)
