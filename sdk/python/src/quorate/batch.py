"""Batches: their operations, the documents that carry them, and their results. No I/O."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from . import index as indexes
from . import parse, parse_typed, wire
from .errors import InvalidArgument, QuorateError
from .index import Index
from .model import Absent, ContextLike, Lifetime, Siblings, Value, W_co, Writes, Written
from .parse import Response
from .parse_typed import Kind
from .typed import Applied
from .wire import Request, WriteOptions

if TYPE_CHECKING:
    from .model import Count

OPERATIONS_MAX = 1000
"""How many operations one request carries at most."""
BYTES_MAX = 4 << 20
"""About how long one request is at most; a longer operation goes alone."""
_MEMBERS = {
    "Content-Type": "content_type",
    "Quorate-Context": "context",
    "If-Match": "if_match",
    "If-None-Match": "if_none_match",
    "Idempotency-Key": "idempotency_key",
}
"""The headers of a request that are members of an operation."""
_HEADERS = {
    "context": "quorate-context",
    "etag": "etag",
    "siblings_count": "quorate-siblings",
    "acks": "quorate-acks",
    "hints": "quorate-hints",
    "content_type": "content-type",
    "expires_at": "quorate-expires-at",
}
"""The members of a result that are headers of an answer."""
_NO_VALUE: Kind[Any] = Kind("", lambda value: value)
"""For changes, of which a batch does not give back the value."""


class BatchOptions(TypedDict, total=False):
    """Options of all operations of a batch that take them. What is not given follows the bucket."""

    r: Count | None
    """How many replicas must answer a read."""
    w: Count | None
    """How many nodes must have stored a write."""
    n: int | None
    """How many home replicas are asked; at most the bucket's n."""
    sloppy: bool | None
    """Whether fallbacks count."""
    timeout_ms: int | None
    """How long the server may take for an operation."""


@dataclass(frozen=True)
class BatchGet:
    """Read a key."""

    bucket: str
    key: str


@dataclass(frozen=True)
class BatchPut:
    """Write a value; options as for `Client.put`, but without metadata, which a batch cannot write."""

    bucket: str
    key: str
    value: bytes | bytearray | memoryview | str
    _: KW_ONLY
    context: ContextLike | None = None
    expires_in: Lifetime | None = None
    content_type: str | None = None
    if_absent: bool = False
    if_present: bool = False
    if_match: str | Value[Any] | Siblings[Any] | Written | None = None
    idempotency_key: str | None = None
    index: Index | None = None


@dataclass(frozen=True)
class BatchDelete:
    """Delete a key; options as for `Client.delete`."""

    bucket: str
    key: str
    _: KW_ONLY
    context: ContextLike | None = None
    if_present: bool = False
    if_match: str | Value[Any] | Siblings[Any] | Written | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True)
class BatchChange:
    """Change a typed value."""

    bucket: str
    key: str
    operation: Mapping[str, Any]
    """As in the HTTP API: `{"increment": 5}`, `{"add": ["new"]}`, `{"enable": True}`; see docs/types.md."""
    _: KW_ONLY
    context: ContextLike | None = None
    """What was seen; what removes needs it."""
    idempotency_key: str | None = None


BatchOperation: TypeAlias = "BatchGet | BatchPut | BatchDelete | BatchChange"
BatchResult: TypeAlias = "Value[W_co] | Siblings[W_co] | Absent[W_co] | Written | Applied[Any] | QuorateError"
"""What an operation gives alone: a read, `Written`, `Applied`; or the error that it would raise."""


@dataclass(frozen=True)
class Item:
    """One operation of a batch: the request that it stands for, and its part of the document."""

    request: Request
    json: bytes
    is_change: bool = False

    @property
    def accepts(self) -> frozenset[int]:
        """The statuses that are no error."""
        return frozenset({204} if self.request.is_write else {200, 300, 404})

    def result(
        self, answer: Response | QuorateError, client: Writes[W_co]
    ) -> Value[W_co] | Siblings[W_co] | Absent[W_co] | Written | Applied[Any] | QuorateError:
        """Read an answer."""
        if isinstance(answer, QuorateError):
            return answer
        try:
            if self.is_change:
                return parse_typed.applied(self.request, answer, _NO_VALUE)
            if self.request.is_write:
                return parse.written(self.request, answer)
            return parse.read(self.request, answer, client)
        except QuorateError as error:
            return error


def items(operations: Iterable[BatchOperation]) -> list[Item]:
    """Check operations as if each were sent alone; raises `InvalidArgument` that names the wrong one."""
    checked = []
    for at, operation in enumerate(operations):
        try:
            checked.append(_item(operation))
        except InvalidArgument as error:
            raise InvalidArgument(f"operations[{at}]: {error}") from error
    return checked


def _item(operation: BatchOperation) -> Item:
    if not isinstance(operation, (BatchGet, BatchPut, BatchDelete, BatchChange)):
        raise InvalidArgument("must be a BatchGet, BatchPut, BatchDelete or BatchChange")
    bucket, key = operation.bucket, operation.key
    if isinstance(operation, BatchGet):
        return _with_json("get", wire.get(bucket, key, {}), {})
    if isinstance(operation, BatchChange):
        return _change(operation)
    options = WriteOptions(
        operation.context,
        if_present=operation.if_present,
        if_match=operation.if_match,
        idempotency_key=operation.idempotency_key,
        if_absent=isinstance(operation, BatchPut) and operation.if_absent,
        expires_in=operation.expires_in if isinstance(operation, BatchPut) else None,
    )
    if isinstance(operation, BatchDelete):
        return _with_json("delete", wire.delete(bucket, key, options), {})
    if not isinstance(operation.value, (bytes, bytearray, memoryview, str)):
        raise InvalidArgument("value: must be bytes or text; a batch is not sent in pieces")
    request = wire.put(bucket, key, operation.value, options, content_type=operation.content_type)
    body = request.body if isinstance(request.body, bytes) else b""
    members = _value(body)
    lifetime = dict(request.headers).get("Quorate-Expires-In")
    if lifetime is not None:
        members["expires_in"] = lifetime if lifetime == "never" else int(lifetime)
    index = indexes.checked(operation.index)
    return _with_json("put", request, {**members, "index": index} if index else members)


def _change(change: BatchChange) -> Item:
    try:
        operation = json.loads(json.dumps(change.operation))
        place, idempotency = (change.bucket, change.key), change.idempotency_key
        request = wire.change(place, operation, {"idempotency_key": idempotency}, change.context)
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument("operation: must be a document as in the HTTP API") from error
    return _with_json("change", request, {"operation": operation}, is_change=True)


def _value(body: bytes) -> dict[str, Any]:
    try:
        return {"value": body.decode()}
    except UnicodeDecodeError:
        return {"value": base64.b64encode(body).decode(), "encoding": "base64"}


def _with_json(op: str, request: Request, members: Mapping[str, Any], *, is_change: bool = False) -> Item:
    bucket, key = request.place or ("", "")
    document = {"op": op, "bucket": bucket, "key": key, **members}
    for name, text in request.headers:
        if name in _MEMBERS and not (is_change and name == "Content-Type"):
            document[_MEMBERS[name]] = text
    encoded = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    try:
        return Item(request, encoded.encode(), is_change)
    except UnicodeEncodeError as error:
        raise InvalidArgument("must be text that can be UTF-8") from error


def parts(all_items: Sequence[Item]) -> Iterator[list[Item]]:
    """Split a batch into as many as have to be sent."""
    part: list[Item] = []
    size = 0
    for item in all_items:
        if part and (len(part) == OPERATIONS_MAX or size + len(item.json) > BYTES_MAX):
            yield part
            part, size = [], 0
        part.append(item)
        size += len(item.json) + 1
    if part:
        yield part


def request_of(sent: Sequence[Item], options: BatchOptions) -> Request:
    """`POST /batch`."""
    body = b'{"operations":[' + b",".join(item.json for item in sent) + b"]}"
    is_write = any(item.request.is_write for item in sent)
    headers = (("Content-Type", "application/json"),)
    return Request("POST", "/batch" + wire.query_of(**options), headers, body, is_write=is_write)


def answers(reply: Response, count: int) -> list[Response]:
    """Read the results as the answers that each operation alone would have got."""
    listed = parse.json_object(reply).get("results")
    if not isinstance(listed, list) or len(listed) != count:
        raise parse.wrong(reply, f"has not {count} results")
    return [answer_of(reply, each) for each in listed]


def answer_of(reply: Response, result: Any) -> Response:
    """Read one result as the answer that its operation alone would have got."""
    status = result.get("status") if isinstance(result, dict) else None
    if type(status) is not int:
        raise parse.wrong(reply, "has a result without a status")
    headers = [(b"x-request-id", text.encode()) for text in (reply.header("x-request-id"),) if text]
    if result.get("expired") is True:
        headers.append((b"quorate-expired", b"true"))
    for member, name in _HEADERS.items():
        value = result.get(member)
        if type(value) in (str, int):
            headers.append((name.encode(), str(value).encode(errors="replace")))
    headers += _meta(reply, result.get("meta", {}))
    entries = parse.index_of_json(reply, result.get("index", {}))
    headers += [(name.encode(), text.encode()) for name, text in indexes.headers(entries)]
    body = b""
    if "problem" in result:
        body = json.dumps(result["problem"]).encode()
        headers.append((b"content-type", b"application/problem+json"))
    elif status == 300:
        body = json.dumps({"siblings": result.get("siblings")}).encode()
        headers.append((b"content-type", b"application/json"))
    elif status == 200:
        try:
            body = parse.content_of(result.get("value"), result.get("encoding"))
        except (AttributeError, TypeError, ValueError) as error:
            raise parse.wrong(reply, "has a result with a value that cannot be decoded") from error
    return Response(status, headers, body)


def _meta(reply: Response, meta: Any) -> list[tuple[bytes, bytes]]:
    """Return the metadata of a value as headers."""
    if not isinstance(meta, dict) or not all(isinstance(text, str) for text in meta.values()):
        raise parse.wrong(reply, "has a result with metadata that is no text")
    return [
        (f"quorate-meta-{name}".encode(errors="replace"), text.encode(errors="replace"))
        for name, text in meta.items()
    ]
