"""What stands between a client and a cluster in some cases: a stub, a proxy."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


def value_bytes(value: Any) -> bytes:
    """Return the bytes of a value as the cases write it."""
    if isinstance(value, str):
        return value.encode()
    assert isinstance(value, dict), f"not a value: {value!r}"
    assert len(value) == 1, f"not a value: {value!r}"
    if "base64" in value:
        return base64.b64decode(value["base64"], validate=True)
    count = int(value["pattern"])
    return (bytes(range(251)) * (count // 251 + 1))[:count]


@dataclass
class Sent:
    """One request that the stub was sent."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Server:
    """A listener on a free port, with a thread per connection, until closed."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.closing = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._guarded, args=(connection,), daemon=True).start()

    def _guarded(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the client hung up
            self.serve(connection)

    def serve(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.closing.set()
        # close alone does not wake a thread that is in accept
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


LOOKS = frozenset({"/cluster", "/ring/partitions", "/buckets"})
"""What clients ask to find nodes and ring: answered apart from the script."""
NONE: dict[str, Any] = {"status": 404, "problem": {"type": "no_such_route", "status": 404}}


class Stub(Server):
    """Answers whatever is asked from a script, and `GET /cluster` from another.

    The last answer of each is repeated. Without the other, all is answered from the one.
    """

    def __init__(self, answers: list[dict[str, Any]], cluster: list[dict[str, Any]] | None = None) -> None:
        self.answers = answers
        self.cluster = cluster or []
        self.looks = 0
        self.lock = threading.Lock()
        self.count = 0
        self.sent: list[Sent] = []
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        request = _read_request(connection)
        if request is None:
            return
        with self.lock:
            answer = self._next(request)
        self.closing.wait(answer.get("delay_ms", 0) / 1000)
        if "status" in answer:
            connection.sendall(_render(answer, self.url.removeprefix("http://")))
            _linger(connection)

    def _next(self, request: Sent) -> dict[str, Any]:
        if self.cluster and request.path == "/cluster":
            self.looks += 1
            return self.cluster[min(self.looks, len(self.cluster)) - 1]
        if self.cluster and request.path in LOOKS:
            return NONE
        self.count += 1
        self.sent.append(request)
        return self.answers[min(self.count, len(self.answers)) - 1]

    def take(self) -> list[Sent]:
        """Return the requests since the last call."""
        with self.lock:
            sent, self.sent = self.sent, []
            return sent


def _linger(connection: socket.socket) -> None:
    """Close without a reset, which could overtake the answer."""
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(1)
    while connection.recv(65536):
        pass


def _read_request(connection: socket.socket) -> Sent | None:
    with connection.makefile("rb") as stream:
        start = stream.readline().decode("latin-1").split()
        if len(start) != 3:
            return None
        headers = {}
        while (line := stream.readline().strip()) != b"":
            name, _, text = line.partition(b":")
            headers[name.decode("latin-1").lower()] = text.strip().decode()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while (size := int(stream.readline() or b"0", 16)) > 0:
                body += stream.read(size)
                stream.readline()
        else:
            body = stream.read(int(headers.get("content-length", "0")))
    parts = urlsplit("//host" + start[1])
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Sent(start[0], unquote(parts.path), query, headers, body)


def _render(answer: dict[str, Any], host: str) -> bytes:
    """Return the bytes of an answer, in whose JSON `STUB` is this host."""
    known = {"status", "headers", "body", "json", "problem", "missing_bytes", "delay_ms"}
    assert set(answer) <= known, f"unknown fields in an answer: {set(answer) - known}"
    headers = dict(answer.get("headers", {}))
    if "problem" in answer:
        problem = {**answer["problem"], "type": "urn:quorate:problem:" + answer["problem"]["type"]}
        body = json.dumps(problem).encode()
        headers["Content-Type"] = "application/problem+json"
    elif "json" in answer:
        body = json.dumps(answer["json"]).replace('"STUB"', json.dumps(host)).encode()
    else:
        body = value_bytes(answer.get("body", ""))
    lines = [f"HTTP/1.1 {answer['status']} Stub", *(f"{name}: {text}" for name, text in headers.items())]
    if answer["status"] != 204:
        lines.append(f"Content-Length: {len(body) + answer.get('missing_bytes', 0)}")
    lines += ["Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body


class Proxy(Server):
    """Passes bytes on to a node and back, but loses answers when told to."""

    def __init__(self, target_url: str) -> None:
        parts = urlsplit(target_url)
        self.target = (parts.hostname or "", parts.port or 80)
        self.lock = threading.Lock()
        self.to_lose = 0
        super().__init__()

    def lose(self, count: int) -> None:
        with self.lock:
            self.to_lose = count

    def serve(self, connection: socket.socket) -> None:
        with socket.create_connection(self.target, timeout=10) as node:
            threading.Thread(target=_pump, args=(connection, node), daemon=True).start()
            while piece := node.recv(65536):
                with self.lock:
                    loses = self.to_lose > 0
                    self.to_lose -= 1 if loses else 0
                if loses:
                    connection.shutdown(socket.SHUT_RDWR)
                    return
                connection.sendall(piece)


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # either side hung up
