"""Both clients against servers that do one thing each: streams, updates, deadlines, threads."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from conformance.servers import Server, Stub

import quorate

VALUE = {"status": 200, "headers": {"Quorate-Context": "c1", "ETag": '"e1"'}, "body": "one"}
DONE = {"status": 204, "headers": {"Quorate-Context": "c2", "Quorate-Siblings": "1"}}
CHANGED = {"status": 412, "problem": {"type": "condition_failed", "status": 412}}
CONFLICT = {
    "status": 300,
    "headers": {"Quorate-Context": "c3", "ETag": '"e3-json"', "Content-Type": "application/json"},
    "json": {"siblings": [{"dot": "d-1", "value": "a", "meta": {}}, {"dot": "d-2", "deleted": True}]},
}


def test_update_begins_again_when_another_write_came_in_between(serve: Any) -> None:
    client, stub = serve(VALUE, CHANGED, {**VALUE, "body": "two"}, DONE)
    seen = []

    def change(read: object) -> str:
        assert isinstance(read, quorate.Value)
        seen.append(read.text)
        return read.text + "!"

    assert client.update("b", "k", change).siblings == 1
    assert seen == ["one", "two"]
    sent = stub.take()
    assert [each.body for each in sent] == [b"", b"one!", b"", b"two!"]
    assert sent[1].headers["if-match"] == '"e1"'
    assert sent[1].headers["quorate-context"] == "c1"
    assert sent[1].headers["idempotency-key"] != sent[3].headers["idempotency-key"]


def test_update_does_not_change_twice_what_may_have_been_applied(serve: Any) -> None:
    client, stub = serve(VALUE, {}, CHANGED)
    with pytest.raises(quorate.ConditionFailed) as error:
        client.update("b", "k", lambda _: "x")
    assert error.value.outcome == "unknown"
    assert len(stub.take()) == 3


def test_update_gives_up_in_the_end(serve: Any) -> None:
    client, stub = serve(*[VALUE, CHANGED] * 20)
    with pytest.raises(quorate.ConditionFailed):
        client.update("b", "k", lambda _: "x")
    assert len(stub.take()) == 20


def test_update_that_changes_nothing_writes_nothing(serve: Any) -> None:
    client, stub = serve(VALUE)
    assert client.update("b", "k", lambda _: None) is None
    assert [each.method for each in stub.take()] == ["GET"]


@pytest.mark.parametrize(
    ("decision", "method", "headers"),
    [
        (quorate.DELETE, "DELETE", {}),
        (quorate.NewValue("v", "a/b", {"m": "1"}), "PUT", {"content-type": "a/b", "quorate-meta-m": "1"}),
        (b"v", "PUT", {"content-type": "application/octet-stream"}),
    ],
)
def test_a_resolver_decides(serve: Any, decision: Any, method: str, headers: dict[str, str]) -> None:
    client, stub = serve(CONFLICT, DONE)
    siblings = client.get("b", "k")
    assert isinstance(siblings, quorate.Siblings)
    siblings.resolve(lambda _: decision, w="all")
    sent = stub.take()[1]
    assert (sent.method, sent.headers["quorate-context"], sent.query) == (method, "c3", {"w": "all"})
    assert {name: sent.headers[name] for name in headers} == headers


def test_what_a_resolver_or_a_change_writes_has_a_lifetime_but_not_a_delete(serve: Any) -> None:
    client, stub = serve(CONFLICT, *[DONE] * 5, VALUE, DONE, VALUE, DONE, VALUE, DONE)
    siblings = client.get("b", "k")
    kept, deleted = siblings
    for decision in ("v", quorate.NewValue("v", expires_in="never"), kept, deleted, quorate.DELETE):
        siblings.resolve(lambda _, decision=decision: decision, expires_in=60)
    for decision in ("v", quorate.NewValue("v", expires_in=5), quorate.DELETE):
        client.update("b", "k", lambda _, decision=decision: decision, expires_in=60)
    sent = [each for each in stub.take() if each.method != "GET"]
    lifetimes = [each.headers.get("quorate-expires-in") for each in sent]
    assert lifetimes == ["60", "never", "60", None, None, "60", "5", None]


def test_keeping_a_deleted_sibling_deletes(serve: Any) -> None:
    client, stub = serve(CONFLICT, DONE, DONE)
    siblings = client.get("b", "k")
    siblings.keep(siblings.siblings[1])
    siblings.keep(siblings.siblings[0])
    _, deleted, kept = stub.take()
    assert deleted.method == "DELETE"
    assert (kept.method, kept.path, kept.body) == ("POST", "/siblings/b/k", b'{"keep": "d-1"}')


def test_a_streamed_value_that_ends_early_is_an_error(serve: Any) -> None:
    client, _ = serve({**VALUE, "missing_bytes": 5})
    with client.open("b", "k") as read:
        assert read.context == "c1"
        with pytest.raises(quorate.Unreachable, match="ended early"):
            read.read()


def test_a_stream_is_read_once_and_inside_its_block(serve: Any) -> None:
    client, _ = serve(VALUE)
    with client.open("b", "k") as read:
        assert read.read() == b"one"
        with pytest.raises(quorate.InvalidArgument):
            read.read()
    with client.open("b", "k") as read:
        pass
    with pytest.raises(quorate.InvalidArgument):
        read.read()


def test_an_async_stream() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"o"
        yield b"ne"

    async def main() -> None:
        stub = Stub([DONE, VALUE, {**VALUE, "missing_bytes": 5}])
        async with quorate.AsyncClient(stub.url, discover=False) as client:
            await client.put("b", "k", pieces())
            async with client.open("b", "k") as read:
                assert isinstance(read, quorate.AsyncValueStream)
                assert await read.read() == b"one"
            async with client.open("b", "k") as read:
                assert isinstance(read, quorate.AsyncValueStream)
                with pytest.raises(quorate.Unreachable):
                    await read.read()
        assert stub.take()[0].body == b"one"
        stub.close()

    anyio.run(main)
    anyio.run(main, backend="trio")


def test_the_error_of_a_source_is_the_callers(serve: Any) -> None:
    client, _ = serve(DONE)

    def broken() -> Iterator[bytes]:
        yield b"x"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        client.put("b", "k", broken())
    for wrong in (["text"], [7], lambda: 7):
        with pytest.raises(quorate.InvalidArgument):
            client.put("b", "k", wrong)
    assert client.put("b", "k", [b"a", b"", b"b"]).siblings == 1


def test_an_answer_over_the_bound_is_not_read(serve: Any) -> None:
    client, stub = serve({**VALUE, "body": {"pattern": 100_000}}, value_bytes_max=50_000)
    with pytest.raises(quorate.ProtocolError, match="longer than 50000"):
        client.get("b", "k")
    assert len(stub.take()) == 1, "a longer answer would be as long again"


class Trickle(Server):
    """Sends a whole head, then a byte at a time, for ever."""

    def serve(self, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nQuorate-Context: c\r\nContent-Length: 100000\r\n\r\n")
        while not self.closing.wait(0.02):
            connection.sendall(b"x")


def test_an_answer_that_trickles_ends_at_the_deadline() -> None:
    server = Trickle()
    started = time.monotonic()
    client = quorate.Client(server.url, discover=False, deadline_s=0.5)
    with client, pytest.raises(quorate.DeadlineExceeded):
        client.get("b", "k")
    assert time.monotonic() - started < 3
    server.close()


class Raw(Server):
    """Sends the same bytes to everyone, whatever is asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(self.answer)


HEAD = b"HTTP/1.1 200 OK\r\nQuorate-Context: c\r\n"
NO_HTTP = [
    b"",
    b"garbage\r\n\r\n",
    b"\x16\x03\x01\x02\x00" * 100,
    b"HTTP/1.1 OK\r\n\r\n",
    b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nQuorate-Context: c\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    HEAD + b"Content-Length: -1\r\n\r\n",
    HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx",
    HEAD + b"X: " + b"y" * 2_000_000 + b"\r\n\r\n",
    HEAD + b"X: y\r\n" * 100_000,
    HEAD + b"no colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nQuorate-Context: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 300 X\r\nQuorate-Context: c\r\nContent-Type: application/json\r\n"
    b"Content-Encoding: gzip\r\nContent-Length: 8\r\n\r\nnot gzip",
]


def read_in_pieces(client: quorate.Client) -> None:
    with client.open("b", "k") as read:
        if isinstance(read, quorate.ValueStream):
            read.read()


@pytest.mark.parametrize("answer", NO_HTTP, ids=range(len(NO_HTTP)))
def test_what_is_not_http_is_a_typed_error(answer: bytes) -> None:
    server = Raw(answer)
    settings: dict[str, Any] = {"discover": False, "deadline_s": 3, "attempts_max": 2}
    with quorate.Client(server.url, **settings) as client:
        with pytest.raises(quorate.QuorateError):
            client.get("b", "k")
        with pytest.raises(quorate.QuorateError):
            read_in_pieces(client)
        if b" 204 " not in answer:
            with pytest.raises(quorate.UnknownOutcome):
                client.put("b", "k", b"v")

    async def main() -> None:
        async with quorate.AsyncClient(server.url, **settings) as client:
            with pytest.raises(quorate.QuorateError):
                await client.get("b", "k")

    anyio.run(main)
    server.close()


def test_a_client_is_used_from_several_threads(serve: Any) -> None:
    client, stub = serve(VALUE)
    with ThreadPoolExecutor(8) as pool:
        reads = list(pool.map(lambda at: client.get("b", str(at)), range(80)))
    assert {read.key for read in reads} == {str(at) for at in range(80)}
    assert len(stub.take()) == 80


def json_answer(body: Any) -> dict[str, Any]:
    kind = "body" if isinstance(body, str) else "json"
    return {"status": 200, "headers": {"Content-Type": "application/json"}, kind: body}


def test_the_nodes_found_are_asked() -> None:
    other = Stub([VALUE])
    address = other.url.removeprefix("http://")
    nodes = [{"node": "n1", "http_addr": None}, {"node": "n2", "http_addr": address}, 7]
    seed = Stub([json_answer({"nodes": nodes})])
    with quorate.Client(seed.url) as client:
        for _ in range(3):
            assert isinstance(client.get("b", "k"), quorate.Value)
    assert [each.path for each in other.take()] == ["/kv/b/k"] * 3
    assert [each.path for each in seed.take()] == ["/cluster", "/ring/partitions"], "once, not each time"
    seed.close()
    other.close()


def test_a_node_that_lags_behind_is_not_believed_if_another_knows_more() -> None:
    other = Stub([VALUE])
    address = other.url.removeprefix("http://")

    def knows(epoch: int, *names: str) -> dict[str, Any]:
        nodes = [{"node": name, "http_addr": address} for name in names]
        return json_answer({"nodes": nodes, "layout": {"version": epoch, "hash": "0"}})

    behind, ahead = Stub([knows(1, "n1")]), Stub([knows(2, "n1", "n2")])
    with quorate.Client([behind.url, ahead.url]) as client:
        client._core.nodes.heard(2, 0.0)
        client.get("b", "k")
        assert [node.name for node in client._core.nodes.all()] == ["n1", "n2"]
        assert client._core.nodes.epoch == 2
    with quorate.Client([behind.url]) as client:
        client._core.nodes.heard(2, 0.0)
        client.get("b", "k")
        assert client._core.nodes.epoch == 1, "the cluster may have been formed afresh"
    for stub in (other, behind, ahead):
        stub.close()


@pytest.mark.parametrize("body", ["<p>", '{"nodes": 7}', '{"nodes": [', '{"nodes": []}'])
def test_nonsense_about_nodes_leaves_the_client_with_those_it_has(body: str) -> None:
    seed = Stub([json_answer(body), VALUE])
    with quorate.Client(seed.url) as client:
        assert isinstance(client.get("b", "k"), quorate.Value)
    seed.close()


@pytest.mark.parametrize(
    "wrong",
    [{"deadline_s": 0}, {"attempts_max": 0}, {"token": "a b"}, {"attempt_timeout_s": float("nan")}],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(quorate.InvalidArgument):
        quorate.Client("http://127.0.0.1:1", **wrong)
