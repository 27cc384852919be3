"""What both clients do, as operations. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from . import batch, feed, parse, parse_typed, wire
from .batch import BatchOperation, BatchOptions
from .errors import (
    ConditionFailed,
    CursorExpired,
    IncompleteListing,
    InvalidArgument,
    ProtocolError,
    QuorateError,
)
from .index import IndexPage
from .model import (
    Absent,
    BucketProperties,
    Change,
    ContextLike,
    Delete,
    FeedPage,
    GetOptions,
    KeepOptions,
    KeyPage,
    NewValue,
    PutOptions,
    Sibling,
    Siblings,
    Source,
    Value,
    W_co,
    WaitOptions,
    Writes,
    Written,
)
from .nodes import Nodes, parse_urls
from .operation import Operation, Policy, call, call_batch, look_up
from .parse_typed import Kind
from .typed import Applied, ChangeOptions, Typed, TypedGetOptions
from .wire import Request, WriteOptions

V = TypeVar("V")

__version__ = "0.1.0"
UPDATE_ROUNDS_MAX = 10
_READ = frozenset({200, 300, 404})
_WAITED = _READ | {304}
_WRITTEN = frozenset({204})
_OK = frozenset({200})


class Core:
    """The state of one client: its nodes and its policy."""

    def __init__(
        self,
        urls: str | Iterable[str],
        *,
        token: str | None,
        deadline_s: float,
        attempts_max: int,
        attempt_timeout_s: float,
        discover: bool,
    ) -> None:
        for name, seconds in (("deadline_s", deadline_s), ("attempt_timeout_s", attempt_timeout_s)):
            if not 0 < seconds < 1e9:
                raise InvalidArgument(f"{name}: must be a positive number of seconds")
        if attempts_max < 1:
            raise InvalidArgument("attempts_max: must be 1 or more")
        self.nodes = Nodes(parse_urls(urls))
        self.policy = Policy(deadline_s, attempts_max, attempt_timeout_s)
        self.discovers = discover
        self.headers = {"User-Agent": f"quorate-python/{__version__}", "Accept-Encoding": "identity"}
        if token is not None:
            if not token or not all("!" <= c <= "~" for c in token):
                raise InvalidArgument("token: must be visible ASCII characters")
            self.headers["Authorization"] = f"Bearer {token}"

    def _call(self, request: Request, accepts: frozenset[int]) -> Operation[parse.Response]:
        deadline = self.policy.now() + self.policy.deadline_s + request.wait_s
        if self.discovers:
            yield from look_up(self.nodes, self.policy)
        return (yield from call(request, self.nodes, self.policy, accepts, deadline))

    def get(
        self, bucket: str, key: str, options: GetOptions, client: Writes[W_co]
    ) -> Operation[Value[W_co] | Siblings[W_co] | Absent[W_co]]:
        """Read a key."""
        request = wire.get(bucket, key, options)
        return parse.read(request, (yield from self._call(request, _READ)), client)

    def wait(
        self,
        place: tuple[str, str],
        context: ContextLike | None,
        wait_ms: int,
        options: WaitOptions,
        client: Writes[W_co],
    ) -> Operation[Value[W_co] | Siblings[W_co] | Absent[W_co] | None]:
        """Read a key once there is something that the context has not seen."""
        request = wire.wait(*place, context, wait_ms, options)
        response = yield from self._call(request, _WAITED)
        return None if response.status == 304 else parse.read(request, response, client)

    def feed_page(self, bucket: str, request: Request, client: Writes[W_co]) -> Operation[FeedPage[W_co]]:
        """Read one page of changes."""
        try:
            response = yield from self._call(request, _OK)
        except CursorExpired as error:
            if error.cursor:
                raise
            raise ProtocolError(f"{error}, without a cursor to go on with", facts=error.facts) from error
        return feed.page(bucket, response, client)

    def open(
        self, bucket: str, key: str, options: GetOptions, client: Writes[W_co]
    ) -> Operation[tuple[Value[W_co] | Siblings[W_co] | Absent[W_co], Any]]:
        """Read a key, but leave a single value unread: then the open answer comes with it."""
        request = wire.get(bucket, key, options, streams=True)
        response = yield from self._call(request, _READ)
        return parse.read(request, response, client), response.live

    def put(
        self, bucket: str, key: str, value: Source, context: ContextLike | None, options: PutOptions
    ) -> Operation[Written]:
        """Write a value."""
        rest: dict[str, Any] = dict(options)
        content_type, meta = rest.pop("content_type", None), rest.pop("meta", None)
        encoding, index = rest.pop("content_encoding", None), rest.pop("index", None)
        request = wire.put(
            bucket,
            key,
            value,
            WriteOptions(context, **rest),
            content_type=content_type,
            meta=meta,
            content_encoding=encoding,
            index=index,
        )
        return self.write(request)

    def write(self, request: Request) -> Operation[Written]:
        """Carry out a write of a key."""
        return parse.written(request, (yield from self._call(request, _WRITTEN)))

    def batch(
        self, operations: Iterable[BatchOperation], options: BatchOptions, client: Writes[W_co]
    ) -> Operation[list[Value[W_co] | Siblings[W_co] | Absent[W_co] | Written | Applied[Any] | QuorateError]]:
        """Carry out many operations, in as few requests as can be."""
        results = []
        for part in list(batch.parts(batch.items(operations))):
            deadline = self.policy.now() + self.policy.deadline_s
            if self.discovers:
                yield from look_up(self.nodes, self.policy)
            answers = yield from call_batch(part, options, self.nodes, self.policy, deadline)
            results += [item.result(answer, client) for item, answer in zip(part, answers, strict=True)]
        return results

    def typed_get(
        self, bucket: str, key: str, kind: Kind[V], options: TypedGetOptions
    ) -> Operation[Typed[V]]:
        """Read a typed value."""
        request = wire.typed_get(bucket, key, options)
        return parse_typed.typed(request, (yield from self._call(request, _OK)), kind)

    def change(
        self,
        place: tuple[str, str],
        kind: Kind[V],
        operation: Mapping[str, Any],
        options: ChangeOptions,
        context: ContextLike | None,
        *,
        once: bool,
    ) -> Operation[Applied[V]]:
        """Change a typed value."""
        request = wire.change(place, operation, options, context, once=once)
        accepts = _OK if options.get("return_body") else _WRITTEN
        return parse_typed.applied(request, (yield from self._call(request, accepts)), kind)

    def update(
        self,
        bucket: str,
        key: str,
        change: Callable[[Value[W_co] | Siblings[W_co] | Absent[W_co]], Change],
        client: Writes[W_co],
        options: KeepOptions,
    ) -> Operation[Written | None]:
        """Read, change, write back, and begin again if another write came in between."""
        if options.get("idempotency_key") is not None:
            raise InvalidArgument("idempotency_key: each round of an update is a write of its own")
        rounds = 0
        while True:
            read = yield from self.get(bucket, key, {}, client)
            decision = change(read)
            if decision is None:
                return None
            rounds += 1
            try:
                return (yield from self.write(_changed(read, decision, options)))
            except ConditionFailed as error:
                # If an earlier attempt may have been applied, changing again could change twice.
                if error.outcome != "not_applied" or rounds >= UPDATE_ROUNDS_MAX:
                    raise

    def key_page(self, bucket: str, prefix: str, limit: int | None, cursor: str | None) -> Operation[KeyPage]:
        """Read one page of keys."""
        return parse.key_page((yield from self._call(wire.keys(bucket, prefix, limit, cursor), _OK)))

    def index_page(self, index: str, request: Request) -> Operation[IndexPage]:
        """Read one page of an index."""
        return parse.index_page(index, (yield from self._call(request, _OK)))

    def properties(self, request: Request) -> Operation[BucketProperties]:
        """Read or set the properties of a bucket."""
        return parse.properties((yield from self._call(request, _OK)))

    def reset_bucket(self, bucket: str) -> Operation[None]:
        """Forget the properties of a bucket."""
        yield from self._call(wire.reset_bucket(bucket), _WRITTEN)

    def explanation(self, explain_id: str) -> Operation[dict[str, Any]]:
        """Read the explanation of a request."""
        request = wire.explanation(explain_id)
        return parse.json_object((yield from self._call(request, _OK)))

    def look_up(self) -> Operation[None]:
        """Look the nodes up, whether it is time or not."""
        self.nodes.expire()
        yield from look_up(self.nodes, self.policy)


def check_page(page: KeyPage | IndexPage, cursor: str | None, *, allow_incomplete: bool) -> None:
    """Raise unless a listing may go on after this page, which was asked for with `cursor`."""
    if not page.complete and not allow_incomplete:
        what = "keys" if isinstance(page, KeyPage) else "entries"
        raise IncompleteListing(f"too few replicas of some partition answered: {what} may be missing")
    if page.cursor is not None and page.cursor == cursor:
        raise ProtocolError("the listing does not advance: the server gave the same cursor again")


def _changed(
    read: Value[W_co] | Siblings[W_co] | Absent[W_co], decision: Change, options: KeepOptions
) -> Request:
    """Return the write of a change, on the condition that nothing else was written meanwhile."""
    plain = WriteOptions(read, **options)
    is_absent = isinstance(read, Absent)
    guarded = replace(plain, if_absent=is_absent, if_match=None if isinstance(read, Absent) else read)
    if isinstance(decision, Sibling) and isinstance(read, Siblings) and not decision.deleted:
        return wire.keep(read, decision, plain)  # guarded by its context; it takes no other condition
    if isinstance(decision, (Delete, Sibling)):
        return wire.delete(read.bucket, read.key, replace(plain if is_absent else guarded, expires_in=None))
    if isinstance(decision, NewValue):
        new = decision
        if new.expires_in is not None:
            guarded = replace(guarded, expires_in=new.expires_in)
    elif isinstance(read, Value):
        new = NewValue(decision, read.content_type, read.meta, index=read.index)  # type: ignore[arg-type]
    else:
        new = NewValue(decision)  # type: ignore[arg-type]
    return wire.put(
        read.bucket,
        read.key,
        new.value,
        guarded,
        content_type=new.content_type,
        meta=new.meta,
        index=new.index,
    )
