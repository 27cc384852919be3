"""Requests, built and checked before anything is sent. No I/O."""

from __future__ import annotations

import base64
import json
import math
import re
import secrets
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeAlias
from urllib.parse import quote

from . import index as indexes
from .errors import InvalidArgument
from .index import Index
from .model import (
    Absent,
    ContextLike,
    Count,
    GetOptions,
    Lifetime,
    Sibling,
    Siblings,
    Source,
    Value,
    WaitOptions,
    Written,
)
from .typed import ChangeOptions, TypedDeleteOptions, TypedGetOptions, removes

Body: TypeAlias = "bytes | Iterable[bytes] | AsyncIterable[bytes]"

OCTETS = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"
LIFETIME_S_MAX = 3_162_240_000
"""100 years."""
WAIT_MS_MAX = 60_000
"""How long a node waits at most."""
_ACCEPT = ("Accept", "application/json, */*;q=0.5")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VISIBLE = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Request:
    """One request, without the node that it goes to."""

    method: str
    target: str
    """Path and query, encoded."""
    headers: tuple[tuple[str, str], ...] = ()
    body: Body | Callable[[], Any] = b""
    is_write: bool = False
    place: tuple[str, str] | None = None
    """Bucket and key, for the choice of a node that stores the key."""
    streams: bool = False
    """Whether the value of the answer is to be left unread."""
    once: bool = False
    """Whether it must not be sent again once it may have been carried out."""
    wait_ms: int | None = None
    """How long the node may wait for something new before it answers, beyond what it takes."""

    @property
    def wait_s(self) -> float:
        """How long the node may wait, in seconds."""
        return (self.wait_ms or 0) / 1000

    def waiting(self, left_s: float) -> Request:
        """Return the request as an attempt sends it: one that waits does so no longer than `left_s`."""
        if self.wait_ms is None:
            return self
        wait_ms = max(1, min(self.wait_ms, math.ceil(left_s * 1000)))
        mark = "&" if "?" in self.target else "?"
        return replace(self, target=f"{self.target}{mark}wait_ms={wait_ms}", wait_ms=wait_ms)

    @property
    def repeatable(self) -> bool:
        """Whether it can be sent more than once."""
        if self.once:
            return False
        return isinstance(self.body, bytes) or callable(self.body)


@dataclass(frozen=True)
class WriteOptions:
    """The options of a write: those of `model.PutOptions` that most writes can have, and the context."""

    context: ContextLike | None = None
    if_absent: bool = False
    if_present: bool = False
    if_match: str | Value[Any] | Siblings[Any] | Written | None = None
    w: Count | None = None
    n: int | None = None
    sloppy: bool | None = None
    timeout_ms: int | None = None
    explain: bool = False
    idempotency_key: str | None = None
    expires_in: Lifetime | None = None


def get(bucket: str, key: str, options: GetOptions, *, streams: bool = False) -> Request:
    """`GET /kv/{bucket}/{key}`."""
    explain = options.get("explain") or None
    target = _key_path("kv", bucket, key) + query_of(**_of_read(options), explain=explain)
    return Request("GET", target, (_ACCEPT,), place=(bucket, key), streams=streams)


def wait(bucket: str, key: str, context: ContextLike | None, wait_ms: int, options: WaitOptions) -> Request:
    """`GET /kv/{bucket}/{key}?wait_ms=`."""
    target = _key_path("kv", bucket, key) + query_of(**_of_read(options))
    text = _context_text(context)
    seen = () if text is None else (("Quorate-Context", text),)
    waits = _wait_ms(wait_ms)
    return Request("GET", target, (_ACCEPT, *seen), place=(bucket, key), wait_ms=waits)


def feed(bucket: str, start: str, prefix: str, limit: int | None, wait_ms: int | None) -> Request:
    """`GET /feed/{bucket}`."""
    if not isinstance(start, str) or not start:
        raise InvalidArgument("start: must be 'now', 'oldest' or a cursor")
    target = f"/feed/{_segment('bucket', bucket)}"
    target += query_of(prefix=prefix or None, cursor=start, limit=limit)
    return Request("GET", target, wait_ms=None if wait_ms is None else _wait_ms(wait_ms))


def _of_read(options: WaitOptions) -> dict[str, Any]:
    return {name: options.get(name) for name in ("r", "n", "sloppy", "timeout_ms")}


def _wait_ms(given: int) -> int:
    if type(given) is not int or not 0 < given <= WAIT_MS_MAX:
        raise InvalidArgument(f"wait_ms: must be a whole number of milliseconds from 1 to {WAIT_MS_MAX}")
    return given


def put(
    bucket: str,
    key: str,
    value: Source,
    options: WriteOptions,
    *,
    content_type: str | None = None,
    meta: Mapping[str, str] | None = None,
    content_encoding: str | None = None,
    index: Index | None = None,
) -> Request:
    """`PUT /kv/{bucket}/{key}`."""
    headers = [("Content-Type", _header_text("content_type", content_type or _type_of(value)))]
    if content_encoding is not None:
        headers.append(("Content-Encoding", _header_text("content_encoding", content_encoding)))
    headers += _meta(meta or {}) + indexes.headers(indexes.checked(index))
    target = _key_path("kv", bucket, key)
    return _write(
        method="PUT", path=target, place=(bucket, key), options=options, headers=headers, body=_body(value)
    )


def delete(bucket: str, key: str, options: WriteOptions) -> Request:
    """`DELETE /kv/{bucket}/{key}`."""
    path = _key_path("kv", bucket, key)
    return _write(method="DELETE", path=path, place=(bucket, key), options=options, headers=[], body=b"")


def keep(siblings: Siblings[Any], sibling: Sibling, options: WriteOptions) -> Request:
    """`POST /siblings/{bucket}/{key}` with the dot to keep."""
    bucket, key = siblings.bucket, siblings.key
    body = json.dumps({"keep": sibling.dot}).encode()
    headers = [("Content-Type", "application/json")]
    path = _key_path("siblings", bucket, key)
    return _write(method="POST", path=path, place=(bucket, key), options=options, headers=headers, body=body)


def typed_get(bucket: str, key: str, options: TypedGetOptions) -> Request:
    """`GET /types/{bucket}/{key}`."""
    target = _key_path("types", bucket, key) + query_of(**options)
    return Request("GET", target, place=(bucket, key))


def change(
    place: tuple[str, str],
    operation: Mapping[str, Any],
    options: ChangeOptions,
    context: ContextLike | None,
    *,
    once: bool = False,
) -> Request:
    """`POST /types/{bucket}/{key}`."""
    if context is None and removes(operation):
        raise InvalidArgument("context: what removes needs one; read, and change what was read")
    bucket, key = place
    rest: dict[str, Any] = dict(options)
    also = {"return_body": True} if rest.pop("return_body", False) else {}
    headers = [("Content-Type", "application/json")]
    request = _write(
        method="POST",
        path=_key_path("types", bucket, key),
        place=place,
        options=WriteOptions(context, **rest),
        headers=headers,
        body=json.dumps(operation).encode(),
        also=also,
    )
    return replace(request, once=once)


def typed_delete(bucket: str, key: str, context: ContextLike | None, options: TypedDeleteOptions) -> Request:
    """`DELETE /types/{bucket}/{key}`."""
    path = _key_path("types", bucket, key)
    write = WriteOptions(context, **options)
    return _write(method="DELETE", path=path, place=(bucket, key), options=write, headers=[], body=b"")


def keys(bucket: str, prefix: str, limit: int | None, cursor: str | None) -> Request:
    """`GET /keys/{bucket}`."""
    query = query_of(prefix=prefix or None, limit=limit, cursor=cursor)
    return Request("GET", f"/keys/{_segment('bucket', bucket)}{query}")


def index(
    bucket: str,
    name: str,
    *,
    eq: str | int | None,
    from_: str | int | None,
    to: str | int | None,
    limit: int | None,
    cursor: str | None,
) -> Request:
    """`GET /index/{bucket}/{index}`."""
    query = query_of(**indexes.query(name, eq, from_, to), limit=limit, cursor=cursor)
    return Request("GET", f"/index/{_segment('bucket', bucket)}/{name}{query}")


def get_bucket(bucket: str) -> Request:
    """`GET /buckets/{bucket}`."""
    return Request("GET", f"/buckets/{_segment('bucket', bucket)}")


def set_bucket(bucket: str, properties: Mapping[str, Any]) -> Request:
    """`PUT /buckets/{bucket}`: a change to the same properties may be repeated."""
    given = dict(properties)
    if given.get("conflicts") == "merged":  # what only answers say, of a bucket with a type
        del given["conflicts"]
    try:
        body = json.dumps(given).encode()
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"properties: cannot be JSON: {error}") from error
    headers = (("Content-Type", "application/json"),)
    target = f"/buckets/{_segment('bucket', bucket)}"
    return Request("PUT", target, headers, body, is_write=True)


def reset_bucket(bucket: str) -> Request:
    """`DELETE /buckets/{bucket}`."""
    return Request("DELETE", f"/buckets/{_segment('bucket', bucket)}", is_write=True)


def explanation(explain_id: str) -> Request:
    """`GET /explain/{id}`."""
    return Request("GET", f"/explain/{_segment('id', explain_id)}")


def _write(
    *,
    method: str,
    path: str,
    place: tuple[str, str],
    options: WriteOptions,
    headers: list[tuple[str, str]],
    body: Body | Callable[[], Any],
    also: Mapping[str, Any] | None = None,
) -> Request:
    query = query_of(
        w=options.w,
        n=options.n,
        sloppy=options.sloppy,
        timeout_ms=options.timeout_ms,
        explain=options.explain or None,
        **(also or {}),
    )
    context = _context_text(options.context)
    if context is not None:
        headers.append(("Quorate-Context", context))
    headers += _condition(options)
    if options.expires_in is not None:
        headers.append(("Quorate-Expires-In", _lifetime(options.expires_in)))
    headers.append(("Idempotency-Key", _idempotency_key(options.idempotency_key)))
    return Request(method, path + query, tuple(headers), body, is_write=True, place=place)


def _idempotency_key(given: str | None) -> str:
    if given is None:
        return secrets.token_urlsafe(18)
    if not _VISIBLE.fullmatch(given) or len(given) > 255:
        raise InvalidArgument("idempotency_key: must be 1 to 255 visible ASCII characters")
    return given


def _lifetime(given: Lifetime) -> str:
    """Return a lifetime in whole seconds. A value lives no shorter than was asked for."""
    if given == "never":
        return "never"
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= LIFETIME_S_MAX:
        raise InvalidArgument(
            f"expires_in: must be 'never', or seconds (a timedelta), more than 0 and up to {LIFETIME_S_MAX}"
        )
    return str(math.ceil(seconds))


def _condition(options: WriteOptions) -> list[tuple[str, str]]:
    given = [options.if_absent, options.if_present, options.if_match is not None]
    if sum(given) > 1:
        raise InvalidArgument("only one of if_absent, if_present and if_match can be given")
    if options.if_absent:
        return [("If-None-Match", "*")]
    if options.if_present:
        return [("If-Match", "*")]
    match = options.if_match
    if match is None:
        return []
    etag = match if isinstance(match, str) else match.etag
    if etag is None:
        raise InvalidArgument("if_match: this answer has no entity tag; read the key again")
    return [("If-Match", _header_text("if_match", etag))]


def _context_text(context: ContextLike | None) -> str | None:
    if context is None:
        return None
    if isinstance(context, str):
        return _header_text("context", context)
    if context.context is not None:
        return _header_text("context", context.context)
    if isinstance(context, Absent):
        return None  # never written: there is nothing to replace
    raise InvalidArgument(
        "context: this answer has none (a write that left other siblings, a change without return_body);"
        " read the key again"
    )


def _type_of(value: Source) -> str:
    return TEXT if isinstance(value, str) else OCTETS


def _body(value: Source) -> Body | Callable[[], Any]:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument("value: must be text that can be UTF-8") from error
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (bytes, Iterable, AsyncIterable)) or callable(value):
        return value
    raise InvalidArgument(f"value: must be bytes, text, or pieces of bytes, not {type(value).__name__}")


def _meta(meta: Mapping[str, str]) -> list[tuple[str, str]]:
    headers = []
    for name, value in meta.items():
        if not _TOKEN.fullmatch(name):
            raise InvalidArgument(f"meta: {name!r} cannot be part of a header's name")
        headers.append((f"Quorate-Meta-{name}", _header_text(f"meta: {name}", value, unicode=True)))
    return headers


def _header_text(what: str, text: str, *, unicode: bool = False) -> str:
    """Return text fit for a header: it arrives as it is, and cannot begin another header."""
    if not isinstance(text, str):
        raise InvalidArgument(f"{what}: must be text")
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in text):
        raise InvalidArgument(f"{what}: must be without control characters")
    if not unicode and not text.isascii():
        raise InvalidArgument(f"{what}: must be ASCII")
    if text != text.strip(" "):
        raise InvalidArgument(f"{what}: must not begin or end with a space, which headers lose")
    return text


def _key_path(route: str, bucket: str, key: str) -> str:
    if key == "":
        raise InvalidArgument("key: must not be empty")
    return f"/{route}/{_segment('bucket', bucket)}/{_segment('key', key)}"


def _segment(what: str, text: str) -> str:
    """Return one path segment. Dots are escaped where the segment would otherwise be a step up."""
    try:
        if what == "bucket" and text == "":
            raise InvalidArgument("bucket: must not be empty")
        escaped = quote(text, safe="")
    except (UnicodeEncodeError, TypeError) as error:
        raise InvalidArgument(f"{what}: must be text that can be UTF-8") from error
    return escaped.replace(".", "%2E") if text in {".", ".."} else escaped


def query_of(**parameters: Any) -> str:
    """Return a query string of what is given."""
    pairs = []
    for name, value in parameters.items():
        if value is None:
            continue
        text = ("true" if value else "false") if isinstance(value, bool) else str(value)
        pairs.append(f"{name}={quote(text, safe='')}")
    return "?" + "&".join(pairs) if pairs else ""


def decode_base64(text: str) -> bytes:
    """Decode strictly; raises `ValueError`."""
    return base64.b64decode(text, validate=True)
