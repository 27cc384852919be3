"""The asynchronous client: as the synchronous one, with `await`. Runs on asyncio and on trio."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import anyio
import httpx

from . import transport, wire
from .aio_handles import AsyncCounter, AsyncEstimate, AsyncFlag, AsyncMap, AsyncRegister, AsyncSet
from .batch import BatchOperation, BatchOptions, BatchResult
from .client import cut_short
from .core import Core, check_page
from .errors import InvalidArgument
from .index import IndexEntry, IndexPage
from .model import (
    Absent,
    BucketProperties,
    Change,
    ContextLike,
    DeleteOptions,
    FeedPage,
    GetOptions,
    KeepOptions,
    KeyPage,
    PutOptions,
    Sibling,
    Siblings,
    Source,
    Value,
    WaitOptions,
    Written,
)
from .nodes import Node
from .operation import Failure, Operation, Reply, Send, Sleep
from .wire import WriteOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")
_W: TypeAlias = Coroutine[Any, Any, Written]


class AsyncValueStream:
    """The one value of a key, read in pieces: iterate over it, once, inside its `async with` block."""

    def __init__(self, head: Value[_W], response: httpx.Response) -> None:
        self.head = head
        """Everything but the value: context, entity tag, content type, metadata."""
        self._response = response

    @property
    def context(self) -> str | None:
        """What this read saw, for the next write."""
        return self.head.context

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response.aiter_raw():
                yield piece
        except httpx.HTTPError as error:
            raise cut_short(error) from error
        except httpx.StreamError as error:
            raise InvalidArgument("the value can be read only once, inside its async with block") from error

    async def read(self) -> bytes:
        """Return the whole value."""
        return b"".join([piece async for piece in self])


class AsyncClient:
    """A client of one cluster. Close it, or use `async with`.

    `urls`: one or more nodes, with commas or as a list. With `discover` the others are found through
    `GET /cluster`, and with the extra `quorate[routing]` each request goes to a node that stores its key.
    `deadline_s`: how long one operation may take in all, retries included. `attempts_max`: how often it is
    tried at most. `attempt_timeout_s`: how long a node may be silent before the next attempt; longer than the
    server's own time-out (5 s), so that the server can still say what became of a write.
    """

    def __init__(
        self,
        urls: str | Iterable[str],
        *,
        token: str | None = None,
        deadline_s: float = 15.0,
        attempts_max: int = 5,
        attempt_timeout_s: float = 7.0,
        discover: bool = True,
        value_bytes_max: int = transport.VALUE_BYTES_MAX,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self._core = Core(
            urls,
            token=token,
            deadline_s=deadline_s,
            attempts_max=attempts_max,
            attempt_timeout_s=attempt_timeout_s,
            discover=discover,
        )
        self._bytes_max = value_bytes_max
        self._http = httpx.AsyncClient(**transport.options(verify))

    async def get(
        self, bucket: str, key: str, **options: Unpack[GetOptions]
    ) -> Value[_W] | Siblings[_W] | Absent[_W]:
        """Read a key: its value, several siblings, or nothing. Write through the result to replace it."""
        return await self._run(self._core.get(bucket, key, options, self))

    async def wait(
        self,
        bucket: str,
        key: str,
        *,
        context: ContextLike | None = None,
        wait_ms: int = 30_000,
        **options: Unpack[WaitOptions],
    ) -> Value[_W] | Siblings[_W] | Absent[_W] | None:
        """Wait for something of a key that `context`, a read of it, has not seen, and read the key.

        A write, a delete and the end of a value are something new; the answer comes as soon as there is any,
        at once if there is already, and is `None` if there is none for `wait_ms` (1 to 60,000). Without a
        context all that is there is new, and `Absent` says that there is nothing. `wait_ms` is added to
        `deadline_s` and to `attempt_timeout_s`. Not for values with a type.
        """
        return await self._run(self._core.wait((bucket, key), context, wait_ms, options, self))

    @asynccontextmanager
    async def open(
        self, bucket: str, key: str, **options: Unpack[GetOptions]
    ) -> AsyncIterator[AsyncValueStream | Siblings[_W] | Absent[_W]]:
        """Read a key whose value may be large: as `get`, but a single value is read in pieces."""
        read, response = await self._run(self._core.open(bucket, key, options, self))
        if not isinstance(read, Value):
            yield read
            return
        try:
            yield AsyncValueStream(read, response)
        finally:
            await response.aclose()

    async def put(
        self,
        bucket: str,
        key: str,
        value: Source,
        *,
        context: ContextLike | None = None,
        **options: Unpack[PutOptions],
    ) -> Written:
        """Write a value. It replaces what `context` saw; without a context it replaces nothing.

        A value can also be an iterable of bytes, which is sent in pieces and, as it can be read only once,
        never repeated; or a function that returns such an iterable for each attempt.
        """
        return await self._run(self._core.put(bucket, key, value, context, options))

    async def delete(
        self, bucket: str, key: str, *, context: ContextLike | None = None, **options: Unpack[DeleteOptions]
    ) -> Written:
        """Delete what `context` saw; without a context, what a read shows now."""
        request = wire.delete(bucket, key, WriteOptions(context, **options))
        return await self._run(self._core.write(request))

    async def keep(
        self, siblings: Siblings[Any], sibling: Sibling, **options: Unpack[KeepOptions]
    ) -> Written:
        """Resolve a conflict by keeping one of its siblings as it is."""
        request = wire.keep(siblings, sibling, WriteOptions(siblings, **options))
        return await self._run(self._core.write(request))

    async def update(
        self,
        bucket: str,
        key: str,
        change: Callable[[Value[_W] | Siblings[_W] | Absent[_W]], Change],
        **options: Unpack[KeepOptions],
    ) -> Written | None:
        """Read, let `change` say what to write, and write it; again if another write came in between.

        `change` returns a value, `NewValue`, one of the siblings, `DELETE`, or `None` to leave the key as it
        is. It may be called several times. A value keeps the content type, metadata and index entries of what
        it replaces, but not its lifetime: that is `expires_in`, or the bucket's.
        Two updates through different nodes can still meet: then the key has siblings, none is lost.
        """
        return await self._run(self._core.update(bucket, key, change, self, options))

    async def batch(
        self, operations: Iterable[BatchOperation], **options: Unpack[BatchOptions]
    ) -> list[BatchResult[_W]]:
        """Carry out many operations (`BatchGet`, `BatchPut`, `BatchDelete`, `BatchChange`) together.

        The results are in the order of the operations: each what the operation gives alone, or the error that
        it would raise, which is not raised. They run side by side, in no order, and some may fail. More than
        1,000 operations, or 4 MiB, are sent as several requests, each of which may take `deadline_s`. Raises
        `InvalidArgument`, and sends nothing, if any operation is wrong.
        """
        return await self._run(self._core.batch(operations, options, self))

    def counter(self, bucket: str, key: str) -> AsyncCounter:
        """Return a counter: a key of a bucket of type `counter`. Nothing is sent yet."""
        return AsyncCounter(self._core, self._run, bucket, key)

    def set(self, bucket: str, key: str) -> AsyncSet:
        """Return a set: a key of a bucket of type `set`. Nothing is sent yet."""
        return AsyncSet(self._core, self._run, bucket, key)

    def flag(self, bucket: str, key: str) -> AsyncFlag:
        """Return a flag: a key of a bucket of type `flag`. Nothing is sent yet."""
        return AsyncFlag(self._core, self._run, bucket, key)

    def map(self, bucket: str, key: str) -> AsyncMap:
        """Return a map: a key of a bucket of type `map`. Nothing is sent yet."""
        return AsyncMap(self._core, self._run, bucket, key)

    def register(self, bucket: str, key: str) -> AsyncRegister:
        """Return a register: a key of a bucket of type `register_lww`. Nothing is sent yet."""
        return AsyncRegister(self._core, self._run, bucket, key)

    def estimate(self, bucket: str, key: str) -> AsyncEstimate:
        """Return an estimate: a key of a bucket of type `hll`. Nothing is sent yet."""
        return AsyncEstimate(self._core, self._run, bucket, key)

    async def list_keys(
        self, bucket: str, *, prefix: str = "", limit: int | None = None, cursor: str | None = None
    ) -> KeyPage:
        """Return one page of live keys in order (at most 1000; the server's default is 100)."""
        return await self._run(self._core.key_page(bucket, prefix, limit, cursor))

    async def keys(
        self, bucket: str, *, prefix: str = "", page_size: int = 1000, allow_incomplete: bool = False
    ) -> AsyncIterator[str]:
        """Iterate over all live keys in order. Raises `IncompleteListing` unless that is allowed."""
        cursor = None
        while True:
            page = await self.list_keys(bucket, prefix=prefix, limit=page_size, cursor=cursor)
            check_page(page, cursor, allow_incomplete=allow_incomplete)
            for key in page.keys:
                yield key
            cursor = page.cursor
            if cursor is None:
                return

    async def index_page(
        self,
        bucket: str,
        index: str,
        *,
        eq: str | int | None = None,
        from_: str | int | None = None,
        to: str | int | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> IndexPage:
        """Return one page of the keys that have an entry in an index, ordered by value, then by key.

        `eq`: entries with this value; or `from_` and `to`, the first and the last value, both of which belong
        to the range and may be left out. Texts if the name of the index ends in `_s`, numbers if in `_i`.
        `limit`: the most entries, up to 1000; the server's default is 100. `cursor`: that of a page before of
        the same query. A page may have no entries although more follow: its cursor is `None` after the last.
        """
        request = wire.index(bucket, index, eq=eq, from_=from_, to=to, limit=limit, cursor=cursor)
        return await self._run(self._core.index_page(index, request))

    async def index(
        self,
        bucket: str,
        index: str,
        *,
        eq: str | int | None = None,
        from_: str | int | None = None,
        to: str | int | None = None,
        page_size: int = 1000,
        allow_incomplete: bool = False,
    ) -> AsyncIterator[IndexEntry]:
        """Iterate over all entries of a query, as `IndexEntry`; arguments as for `index_page`.

        A key with several such values comes once with each. What changes meanwhile may be seen or not; what
        is there all the time is seen. Raises `IncompleteListing` unless that is allowed.
        """
        cursor = None
        while True:
            page = await self.index_page(
                bucket, index, eq=eq, from_=from_, to=to, limit=page_size, cursor=cursor
            )
            check_page(page, cursor, allow_incomplete=allow_incomplete)
            for entry in page.entries:
                yield entry
            cursor = page.cursor
            if cursor is None:
                return

    async def feed_page(
        self,
        bucket: str,
        *,
        start: str,
        prefix: str = "",
        limit: int | None = None,
        wait_ms: int | None = None,
    ) -> FeedPage[_W]:
        """Return one page of the changes of a bucket with `feed_retention_s`, after `start`.

        `start`: `"now"` (what is written from now on), `"oldest"` (all that is kept), or the cursor of a page
        before or of `CursorExpired`, with the same `prefix`. `limit`: the most changes, up to 1000; the
        server's default is 100. `wait_ms` (1 to 60,000): how long to wait for a change if there is none; it
        is added to `deadline_s` and to `attempt_timeout_s`. A page that fails at one node is asked for at
        another. Raises `CursorExpired` if changes were missed, and `NoFeed`.
        """
        request = wire.feed(bucket, start, prefix, limit, wait_ms)
        return await self._run(self._core.feed_page(bucket, request, self))

    async def feed(
        self,
        bucket: str,
        *,
        start: str,
        prefix: str = "",
        limit: int | None = None,
        wait_ms: int = 20_000,
    ) -> AsyncIterator[FeedPage[_W]]:
        """Follow the changes of a bucket, page by page and without end; arguments as for `feed_page`.

        A change is what the key is now: states in between may be missing, and a state may come again. Store
        the cursor of a page after its changes have been processed, and start there after a failure: then each
        is processed at least once. After `wait_ms` without a change there is a page without changes, whose
        cursor is to be stored too: one that is not renewed expires. With `"now"` the first page comes at
        once: its cursor is where the feed begins. An error ends the iteration.
        """
        if start == "now":
            page = await self.feed_page(bucket, start=start, prefix=prefix, limit=limit)
            yield page
            start = page.cursor
        while True:
            page = await self.feed_page(bucket, start=start, prefix=prefix, limit=limit, wait_ms=wait_ms)
            yield page
            start = page.cursor

    async def get_bucket(self, bucket: str) -> BucketProperties:
        """Return the properties of a bucket."""
        return await self._run(self._core.properties(wire.get_bucket(bucket)))

    async def set_bucket(self, bucket: str, **properties: Any) -> BucketProperties:
        """Set properties: those of `BucketProperties`. Those not given follow the defaults.

        A bucket gets a type while it has no keys (else `BucketNotEmpty`), and keeps it (else `WrongType`).
        """
        return await self._run(self._core.properties(wire.set_bucket(bucket, properties)))

    async def reset_bucket(self, bucket: str) -> None:
        """Let all properties of a bucket follow the defaults again. Its keys stay."""
        await self._run(self._core.reset_bucket(bucket))

    async def explanation(self, explain_id: str) -> dict[str, Any]:
        """Return the trace of a request made with `explain=True`; `NotFound` if it is no longer kept."""
        return await self._run(self._core.explanation(explain_id))

    async def nodes(self) -> list[Node]:
        """Look up the nodes of the cluster and return those known."""
        await self._run(self._core.look_up())
        return self._core.nodes.all()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _run(self, operation: Operation[T]) -> T:
        reply: Reply = None
        while True:
            try:
                step = operation.send(reply)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            if isinstance(step, Sleep):
                await anyio.sleep(step.seconds)
                reply = None
            else:
                reply = await self._send(step)

    async def _send(self, send: Send) -> Reply:
        with anyio.move_on_after(send.left_s):
            return await self._exchange(send)
        return Failure("timeout", "the answer did not arrive in time")

    async def _exchange(self, send: Send) -> Reply:
        deadline = time.monotonic() + send.left_s
        request = transport.build(self._http, send, self._core.headers, is_async=True)
        try:
            response = await self._http.send(request, stream=True)
        except httpx.LocalProtocolError as error:
            raise InvalidArgument(f"the request cannot be sent: {error}") from error
        except httpx.HTTPError as error:
            return transport.failure(error)
        if transport.is_stream(send, response):
            return transport.opened(response)
        reader = transport.Reader(response, deadline, self._bytes_max)
        try:
            async for piece in response.aiter_raw():
                if not reader.take(piece):
                    break
        except httpx.HTTPError as error:
            reader.stopped = transport.failure(error)
        finally:
            await response.aclose()
        result = reader.result()
        return (
            Failure("lost", result.detail)
            if isinstance(result, Failure) and result.kind == "unsent"
            else result
        )
