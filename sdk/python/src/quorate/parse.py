"""Answers, read with suspicion: what no Quorate node would say is a `ProtocolError`. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from . import index
from .errors import Facts, NotFound, Outcome, ProtocolError
from .index import IndexEntries, IndexEntry, IndexPage
from .model import (
    Absent,
    BucketProperties,
    KeyPage,
    Sibling,
    Siblings,
    Value,
    W_co,
    Writes,
    Written,
)
from .wire import OCTETS, Request, decode_base64

_PROBLEM = "urn:quorate:problem:"
_META = "quorate-meta-"
_COUNT = re.compile(r"[0-9]{1,9}")
_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})\.([0-9]{3})Z")
_RETRY_AFTER_S_MAX = 10.0**6


@dataclass(frozen=True)
class Response:
    """An answer. `body` is empty if it was left unread or could not be read whole."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    is_whole: bool = True
    live: Any = None
    """The open answer, if its value was left unread."""

    def header(self, name: str) -> str | None:
        """Return the first header of this name, in lower case; `None` if it is not UTF-8."""
        wanted = name.encode()
        for given, value in self.headers:
            if given.lower() == wanted:
                return _utf8(value)
        return None

    @property
    def media_type(self) -> str:
        """The media type without parameters, in lower case; empty if not given."""
        return (self.header("content-type") or "").split(";")[0].strip().lower()


def read(
    request: Request, response: Response, client: Writes[W_co]
) -> Value[W_co] | Siblings[W_co] | Absent[W_co]:
    """Read the answer to a GET of a key."""
    common = common_of(request, response, client)
    context = common[2]
    if response.status == 404:
        given = facts(response)
        name = given.problem
        if name == "key_not_found":
            return Absent(*common, deleted=False)
        if name == "key_deleted" and context is not None:
            return Absent(*common, deleted=True, expired=response.header("quorate-expired") == "true")
        if name is not None and name != "key_deleted":
            raise NotFound(f"{name}: {given.detail}", facts=given)
        raise wrong(response, "says 404 without a problem that explains it")
    if context is None:
        raise wrong(response, "has no Quorate-Context")
    if response.status == 300:
        return Siblings(*common, siblings=_siblings(response))
    if response.status != 200:
        raise wrong(response, "has a status that a read does not have")
    return Value(
        *common,
        value=response.body,
        content_type=response.header("content-type") or OCTETS,
        meta=meta_of(response),
        content_encoding=response.header("content-encoding"),
        content_language=response.header("content-language"),
        content_disposition=response.header("content-disposition"),
        last_modified=response.header("last-modified"),
        expires_at=expires_at_of(response),
        index=index_of(response),
    )


def common_of(
    request: Request, response: Response, client: Writes[W_co]
) -> tuple[str, str, str | None, str | None, str | None, str | None, Writes[W_co]]:
    """Return what every read of a key has: the first fields of each class of reads."""
    bucket, key = request.place or ("", "")
    return (
        bucket,
        key,
        response.header("quorate-context") or None,
        response.header("etag"),
        response.header("x-request-id"),
        response.header("quorate-explain"),
        client,
    )


def written(request: Request, response: Response) -> Written:
    """Read the answer to a write of a key."""
    bucket, key = request.place or ("", "")
    return Written(
        bucket,
        key,
        context=response.header("quorate-context") or None,
        etag=response.header("etag"),
        siblings=count(response.header("quorate-siblings")),
        acks=count(response.header("quorate-acks")),
        hints=count(response.header("quorate-hints")),
        explain_id=response.header("quorate-explain"),
        request_id=response.header("x-request-id"),
    )


def key_page(response: Response) -> KeyPage:
    """Read the answer to `GET /keys/{bucket}`."""
    body = json_object(response)
    keys, cursor, complete = body.get("keys"), body.get("cursor"), body.get("complete")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise wrong(response, "has no list of keys")
    if not (cursor is None or isinstance(cursor, str)) or not isinstance(complete, bool):
        raise wrong(response, "has no cursor, or does not say whether it is complete")
    return KeyPage(tuple(keys), cursor, complete)


def index_page(name: str, response: Response) -> IndexPage:
    """Read the answer to `GET /index/{bucket}/{index}`."""
    body = json_object(response)
    listed, cursor, complete = body.get("entries"), body.get("cursor"), body.get("complete")
    if not isinstance(listed, list):
        raise wrong(response, "has no list of entries")
    if not (cursor is None or isinstance(cursor, str)) or not isinstance(complete, bool):
        raise wrong(response, "has no cursor, or does not say whether it is complete")
    entries = []
    for each in listed:
        key = each.get("key") if isinstance(each, dict) else None
        if not isinstance(key, str):
            raise wrong(response, "has an entry without a key")
        try:
            entries.append(IndexEntry(index.value_of_json(name, each.get("value")), key))
        except ValueError as error:
            raise wrong(response, f"has an entry without a value: {error}") from error
    return IndexPage(tuple(entries), cursor, complete)


def properties(response: Response) -> BucketProperties:
    """Read the answer to `GET` or `PUT /buckets/{bucket}`."""
    body = json_object(response)
    n, r, w = body.get("n"), body.get("r"), body.get("w")
    conflicts, sloppy, kind = body.get("conflicts"), body.get("sloppy"), body.get("type", "value")
    lifetime, retention = body.get("expires_in_s"), body.get("feed_retention_s")
    counts = all(isinstance(it, (int, str)) and not isinstance(it, bool) for it in (r, w))
    if not (
        isinstance(n, int) and counts and isinstance(conflicts, str) and isinstance(sloppy, bool)
    ) or not isinstance(kind, str):
        raise wrong(response, "has no bucket properties")
    for name, seconds in (("expires_in_s", lifetime), ("feed_retention_s", retention)):
        if not (seconds is None or type(seconds) is int):
            raise wrong(response, f"has a bucket property {name} that is no number")
    return BucketProperties(n, r, w, conflicts, sloppy, kind, lifetime, retention)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Cluster:
    """What a node knows of the cluster."""

    addresses: dict[str, str]
    """The client address of each node that advertises one, by name."""
    epoch: int
    """The epoch of the layout that it follows; 0 if it does not say."""


def cluster(response: Response) -> Cluster:
    """Read `GET /cluster`."""
    body = json_object(response)
    nodes, layout = body.get("nodes"), body.get("layout")
    if not isinstance(nodes, list):
        raise wrong(response, "has no list of nodes")
    found = {}
    for node in nodes:
        name, address = (node.get("node"), node.get("http_addr")) if isinstance(node, dict) else (None, None)
        if isinstance(name, str) and isinstance(address, str) and address:
            found[name] = address
    version = layout.get("version") if isinstance(layout, dict) else None
    return Cluster(found, (count(str(version)) or 0) if type(version) is int else 0)


def epoch(response: Response) -> int | None:
    """Return the epoch of the layout that the node follows, if it says."""
    return count(response.header("quorate-epoch"))


@dataclass(frozen=True)
class Homes:
    """Which nodes store the keys of each partition, in order of preference."""

    nodes: tuple[str, ...]
    homes: tuple[tuple[int, ...], ...]

    def of(self, partition: int) -> tuple[str, ...]:
        """Return the names of the home replicas of a partition."""
        return tuple(self.nodes[place] for place in self.homes[partition])

    @property
    def bits(self) -> int:
        """How many of a hash's highest bits are the partition."""
        return len(self.homes).bit_length() - 1


def homes(response: Response) -> Homes:
    """Read `GET /ring/partitions`."""
    body = json_object(response)
    nodes, lists = body.get("nodes"), body.get("homes")
    if not isinstance(nodes, list) or not all(isinstance(node, str) for node in nodes):
        raise wrong(response, "has no list of nodes")
    if not isinstance(lists, list) or not lists or len(lists) & (len(lists) - 1):
        raise wrong(response, "has no list of partitions, or not a power of two of them")
    for places in lists:
        if not isinstance(places, list) or not all(type(it) is int and 0 <= it < len(nodes) for it in places):
            raise wrong(response, "has a partition whose nodes are not in the list")
    return Homes(tuple(nodes), tuple(tuple(places) for places in lists))


def facts(response: Response) -> Facts:
    """Read an error answer. What cannot be read is left out."""
    found: dict[str, Any] = {}
    if response.is_whole and response.media_type == "application/problem+json":
        try:
            parsed = json.loads(response.body)
        except (ValueError, RecursionError):
            parsed = None
        found = parsed if isinstance(parsed, dict) else {}
    kind = found.get("type")
    is_ours = isinstance(kind, str) and kind.startswith(_PROBLEM) and len(kind) > len(_PROBLEM)
    return Facts(
        problem=str(kind)[len(_PROBLEM) :] if is_ours else None,
        status=response.status,
        title=_text(found, "title"),
        detail=_text(found, "detail"),
        members=found,
        retry_after_s=_retry_after_s(response.header("retry-after")),
        request_id=response.header("x-request-id"),
    )


def outcome(given: Facts) -> Outcome:
    """Return what one failed attempt at a write may have left behind."""
    said = given.members.get("outcome")
    known: tuple[Outcome, ...] = ("not_applied", "partial", "unknown")
    for outcome_ in known:
        if said == outcome_:
            return outcome_
    return "not_applied" if 400 <= (given.status or 0) < 500 else "unknown"


def _siblings(response: Response) -> tuple[Sibling, ...]:
    listed = json_object(response).get("siblings")
    if not isinstance(listed, list) or not listed:
        raise wrong(response, "has no list of siblings")
    return tuple(_sibling(response, each) for each in listed)


def _sibling(response: Response, fields: Any) -> Sibling:
    if not isinstance(fields, dict) or not isinstance(fields.get("dot"), str):
        raise wrong(response, "has a sibling without a dot")
    writer, at = _text(fields, "writer"), _text(fields, "written_at")
    expires_at = _expires_at(response, fields.get("expires_at"))
    if fields.get("deleted") is True:
        return Sibling(fields["dot"], b"", deleted=True, writer=writer, written_at=at, expires_at=expires_at)
    value, meta = fields.get("value"), fields.get("meta", {})
    if not isinstance(value, str) or not isinstance(meta, dict):
        raise wrong(response, "has a sibling without a value")
    if not all(isinstance(text, str) for text in meta.values()):
        raise wrong(response, "has a sibling with metadata that is no text")
    try:
        content = content_of(value, fields.get("encoding"))
    except ValueError as error:
        raise wrong(response, f"has a sibling with a value that cannot be decoded: {error}") from error
    return Sibling(
        fields["dot"],
        content,
        content_type=_text(fields, "content_type") or OCTETS,
        meta=meta,
        content_encoding=_text(fields, "content_encoding"),
        content_language=_text(fields, "content_language"),
        content_disposition=_text(fields, "content_disposition"),
        writer=writer,
        written_at=at,
        expires_at=expires_at,
        index=index_of_json(response, fields.get("index", {})),
    )


def expires_at_of(response: Response) -> datetime | None:
    """Return when the value of an answer expires, if it does."""
    return _expires_at(response, response.header("quorate-expires-at"))


def _expires_at(response: Response, text: object) -> datetime | None:
    """Read a time, in RFC 3339 with milliseconds, if there is one."""
    if text is None:
        return None
    found = _TIME.fullmatch(text) if isinstance(text, str) else None
    try:
        seconds = datetime.fromisoformat(found[1]) if found else None
    except ValueError:
        seconds = None
    if found is None or seconds is None:
        raise wrong(response, "has a time of expiry that is none")
    return seconds.replace(microsecond=int(found[2]) * 1000, tzinfo=timezone.utc)


def content_of(value: str, encoding: object) -> bytes:
    """Return the bytes of a value in JSON; raises `ValueError`."""
    if encoding is None:
        return value.encode()
    if encoding == "base64":
        return decode_base64(value)
    raise ValueError(f"encoding {encoding!r} is unknown")


def meta_of(response: Response) -> Mapping[str, str]:
    """Return the metadata of a value, by name."""
    meta = {}
    for name, value in response.headers:
        lower = name.lower()
        if lower.startswith(_META.encode()):
            meta[lower[len(_META) :].decode("latin-1")] = value.decode(errors="replace")
    return meta


def index_of(response: Response) -> IndexEntries:
    """Return the index entries of a value."""
    try:
        return index.of_headers(response.headers)
    except ValueError as error:
        raise wrong(response, f"has index entries that are none: {error}") from error


def index_of_json(response: Response, found: object) -> IndexEntries:
    """Return the index entries of a value in JSON."""
    try:
        return index.of_json(found)
    except ValueError as error:
        raise wrong(response, f"has index entries that are none: {error}") from error


def json_object(response: Response) -> dict[str, Any]:
    """Read an answer whose body is a JSON object."""
    if response.media_type != "application/json":
        raise wrong(response, "is not JSON")
    try:
        body = json.loads(response.body)
    except (ValueError, RecursionError) as error:
        raise wrong(response, f"is not readable JSON: {error}") from error
    if not isinstance(body, dict):
        raise wrong(response, "is not a JSON object")
    return body


def wrong(response: Response, what: str) -> ProtocolError:
    """Return the error for an answer that no node gives."""
    status = response.status
    facts_ = Facts(status=status, request_id=response.header("x-request-id"))
    return ProtocolError(f"the answer (status {status}) {what}; is this a Quorate node?", facts=facts_)


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) else None


def count(text: str | None) -> int | None:
    """Return a header's number, if it is one."""
    return int(text) if text is not None and _COUNT.fullmatch(text) else None


def _retry_after_s(text: str | None) -> float | None:
    """Only seconds: a date would depend on two clocks."""
    seconds = count(text)
    return None if seconds is None else min(float(seconds), _RETRY_AFTER_S_MAX)


def _utf8(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
