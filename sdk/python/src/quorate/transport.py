"""What both HTTP drivers share: requests for httpx, and its errors in our words."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from .errors import InvalidArgument
from .operation import Failure, Send
from .parse import Response

ERROR_BYTES_MAX = 64 * 1024
"""No problem is longer than this; what is longer is not read."""
VALUE_BYTES_MAX = 256 * 1024 * 1024
"""The longest answer that is read into memory, unless the client is told otherwise."""
_POOL = httpx.Limits(max_connections=256, max_keepalive_connections=64, keepalive_expiry=60.0)

UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def options(verify: ssl.SSLContext | bool) -> dict[str, Any]:
    """Return the settings of the httpx client: no proxies of the environment, no redirects, no cookies."""
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    plain = {"trust_env": False, "follow_redirects": False, "cookies": cookies}
    return {"limits": _POOL, "verify": verify, **plain}


def build(
    http: httpx.Client | httpx.AsyncClient, send: Send, headers: dict[str, str], *, is_async: bool
) -> httpx.Request:
    """Build the request for httpx; raises `InvalidArgument` for what it cannot send."""
    raw = [(name.encode(), value.encode()) for name, value in (*headers.items(), *send.request.headers)]
    body = send.request.body
    source = body() if callable(body) else body
    content: Any = source
    if not isinstance(source, bytes):
        if isinstance(source, AsyncIterable) and is_async:
            content = _async_pieces(source)
        elif isinstance(source, Iterable) and not isinstance(source, str):
            content = _as_async(source) if is_async else _pieces(source)
        else:
            raise InvalidArgument(f"value: cannot be sent in pieces: {type(source).__name__}")
    try:
        return http.build_request(
            send.request.method,
            send.url + send.request.target,
            headers=raw,
            content=content if content != b"" or send.request.method in {"PUT", "POST"} else None,
            timeout=httpx.Timeout(send.timeout_s, read=send.timeout_s + send.request.wait_s),
        )
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidArgument(f"the request cannot be sent: {error}") from error


def _checked(piece: object) -> bytes:
    if not isinstance(piece, bytes):
        raise InvalidArgument(f"value: a piece must be bytes, not {type(piece).__name__}")
    return piece


def _pieces(source: Iterable[object]) -> Iterator[bytes]:
    for piece in source:
        yield _checked(piece)


async def _async_pieces(source: AsyncIterable[object]) -> AsyncIterator[bytes]:
    async for piece in source:
        yield _checked(piece)


async def _as_async(source: Iterable[object]) -> AsyncIterator[bytes]:
    for piece in source:
        yield _checked(piece)


def failure(error: httpx.HTTPError) -> Failure:
    """Say in our words why there is no answer."""
    detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, UNSENT):
        return Failure("unsent", detail)
    return Failure("timeout" if isinstance(error, httpx.TimeoutException) else "lost", detail)


@dataclass
class Reader:
    """Takes the pieces of one answer's body, within a bound on bytes and on time."""

    response: httpx.Response
    deadline: float
    bytes_max: int
    size: int = 0

    def __post_init__(self) -> None:
        self.pieces: list[bytes] = []
        self.is_error = self.response.status_code >= 400
        if self.is_error:
            self.bytes_max = ERROR_BYTES_MAX
        self.stopped: Failure | None = None

    def take(self, piece: bytes) -> bool:
        """Add a piece; `False` if no more is wanted."""
        self.size += len(piece)
        if self.size > self.bytes_max:
            self.stopped = Failure("oversized", f"the answer is longer than {self.bytes_max} bytes")
        elif time.monotonic() > self.deadline:
            self.stopped = Failure("timeout", "the answer did not arrive in time")
        else:
            self.pieces.append(piece)
        return self.stopped is None

    def result(self) -> Response | Failure:
        """Return the answer. An error whose body is not whole is still that error."""
        if self.stopped is None:
            return Response(self.response.status_code, self.response.headers.raw, b"".join(self.pieces))
        if self.is_error:
            return Response(self.response.status_code, self.response.headers.raw, b"", is_whole=False)
        return self.stopped


def is_stream(send: Send, response: httpx.Response) -> bool:
    """Whether the body is a value, which the caller will read."""
    return send.request.streams and response.status_code == 200 and "quorate-context" in response.headers


def opened(response: httpx.Response) -> Response:
    """Return an answer whose body is still to be read."""
    return Response(response.status_code, response.headers.raw, b"", live=response)
