"""What must come of a step, and what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import quorate

from . import indexes, typed
from .servers import Sent, value_bytes


@dataclass
class Result:
    """What came of a step."""

    value: Any = None
    error: quorate.QuorateError | None = None
    took_ms: float = 0
    sent: list[Sent] = field(default_factory=list)
    looks: int = 0
    """How often the stub was asked about the cluster, since the case began."""


@dataclass
class Streamed:
    """A read whose value came in pieces, put together again."""

    head: quorate.Value[Any]
    value: bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.head, name)


def error_class(error: quorate.QuorateError) -> str:
    """Return the neutral name of an error's class: `NoQuorum` is `no_quorum`."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
    return {"protocol_error": "protocol", "deadline_exceeded": "deadline"}.get(name, name)


def kind_of(value: Any) -> str:
    if isinstance(value, quorate.Absent):
        return "deleted" if value.deleted else "absent"
    if isinstance(value, quorate.Siblings):
        return "siblings"
    if isinstance(value, (quorate.Value, Streamed)):
        return "value"
    if isinstance(value, quorate.LargeValue):
        return "large"
    if isinstance(value, (quorate.Typed, quorate.Applied)):
        return "typed" if isinstance(value, quorate.Typed) else "applied"
    return "written" if isinstance(value, quorate.Written) else type(value).__name__


ACTUAL: dict[str, Callable[[Result], Any]] = {
    "kind": lambda result: kind_of(result.value),
    "value": lambda result: result.value.value,
    "content_type": lambda result: result.value.content_type,
    "meta": lambda result: dict(result.value.meta),
    "index": lambda result: indexes.shown(result.value),
    "indexes": lambda result: indexes.all_shown(result.value),
    "entries": lambda result: indexes.hits(result.value),
    "values": lambda result: sorted(sibling.value for sibling in result.value.live),
    "content_types": lambda result: sorted(sibling.content_type for sibling in result.value.live),
    "deletes": lambda result: len(result.value) - len(result.value.live),
    "expires": lambda result: result.value.expires_at is not None,
    "expires_at": lambda result: rfc3339(result.value.expires_at),
    "expiring": lambda result: sum(each.expires_at is not None for each in result.value),
    "expired": lambda result: getattr(result.value, "expired", None),
    "has_context": lambda result: result.value.context is not None,
    "siblings": lambda result: result.value.siblings,
    "keys": lambda result: keys_of(result.value),
    "unchanged": lambda result: result.value is None,
    "bytes": lambda result: result.value.size,
    "complete": lambda result: result.value.complete,
    "has_cursor": lambda result: result.value.cursor is not None,
    "typed_value": lambda result: typed.shown(result.value),
    "exists": lambda result: getattr(result.value, "read", result.value).exists,
    "explained": lambda result: result.value.explain_id is not None,
}
OF_ERRORS: dict[str, Callable[[quorate.QuorateError], Any]] = {
    "error": error_class,
    "resync": lambda error: getattr(error, "resync", None),
    "problem": lambda error: error.problem,
    "status": lambda error: error.status,
    "parameter": lambda error: error.parameter,
    "header": lambda error: error.header,
    "outcome": lambda error: error.outcome,
    "retry_after_ms": lambda error: (
        None if error.retry_after_s is None else round(error.retry_after_s * 1000)
    ),
}


WANTED: dict[str, Callable[[Any, Any], Any]] = {
    "value": lambda wanted, _: value_bytes(wanted),
    "values": lambda wanted, _: sorted(value_bytes(each) for each in wanted),
    "content_types": lambda wanted, _: sorted(wanted),
    "index": lambda wanted, _: indexes.entries(wanted),
    "indexes": lambda wanted, _: indexes.in_any_order(map(indexes.entries, wanted)),
    "entries": lambda wanted, page: indexes.wanted_hits(page, wanted),
    "keys": lambda wanted, page: sorted(wanted) if isinstance(page, quorate.FeedPage) else wanted,
    "typed_value": lambda wanted, read: (
        int(wanted) if isinstance(wanted, str) and typed.is_total(read) else wanted
    ),
}
"""What is expected, in the form of what is there."""


def keys_of(page: Any) -> list[str]:
    if isinstance(page, quorate.FeedPage):
        return sorted(change.key for change in page)
    return list(page.keys)


def rfc3339(at: datetime) -> str:
    assert at.tzinfo is timezone.utc
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _left_s(result: Result) -> float | None:
    """Return how long the value that was read will still live."""
    at: datetime | None = getattr(result.value, "expires_at", None)
    return None if at is None else (at - datetime.now(timezone.utc)).total_seconds()


def mismatches(expect: dict[str, Any], result: Result) -> list[str]:
    """Return what is not as expected."""
    if (result.error is not None) != ("error" in expect):
        return [f"expected {expect.get('error', 'no error')}"]
    wrong = []
    for name, expected in expect.items():
        actual, wanted = _compared(name, expected, result)
        if actual != wanted:
            wrong.append(f"{name}: expected {str(wanted)[:200]}, got {str(actual)[:200]}")
    return wrong


def _compared(name: str, wanted: Any, result: Result) -> tuple[Any, Any]:
    """Return what is there and what should be, in the same form."""
    if name == "cursor":
        return getattr(result.error or result.value, "cursor", None), wanted
    if name in OF_ERRORS:
        assert result.error is not None, f"{name} is expected of an error"
        return OF_ERRORS[name](result.error), wanted
    if name in WANTED:
        wanted = WANTED[name](wanted, result.value)
    if name in ACTUAL:
        return ACTUAL[name](result), wanted
    return _bounded(name, wanted, result)


def _bounded(name: str, wanted: Any, result: Result) -> tuple[Any, Any]:
    left_s = _left_s(result)
    limits: dict[str, Callable[[], tuple[Any, Any]]] = {
        "acks_min": lambda: (max(result.value.acks or 0, wanted), result.value.acks),
        "nodes_min": lambda: (max(len(result.value), wanted), len(result.value)),
        "took_ms_min": lambda: (max(result.took_ms, wanted), result.took_ms),
        "took_ms_max": lambda: (min(result.took_ms, wanted), result.took_ms),
        "looks_min": lambda: (max(result.looks, wanted), result.looks),
        "looks_max": lambda: (min(result.looks, wanted), result.looks),
        "expires_in_s_min": lambda: (left_s is not None and left_s >= wanted, True),
        "expires_in_s_max": lambda: (left_s is not None and left_s <= wanted, True),
        "changes_max": lambda: (min(len(result.value), wanted), len(result.value)),
        "entries_max": lambda: (min(len(result.value.entries), wanted), len(result.value.entries)),
        "changes": lambda: (_of_changes(result.value, wanted), {key: [] for key in wanted}),
        "results": lambda: (_of_each(result.value, wanted), [[]] * len(wanted)),
        "properties": lambda: ({key: getattr(result.value, key) for key in wanted}, wanted),
        "one_idempotency_key": lambda: (_has_one_key(result.sent), wanted),
        "sent": lambda: ([_as_expected(*pair) for pair in zip(result.sent, wanted, strict=False)], wanted),
    }
    assert name in limits, f"unknown expectation {name}"
    if name == "sent":
        assert len(result.sent) == len(wanted), f"{len(result.sent)} requests were sent, not {len(wanted)}"
    return limits[name]()


def _of_each(results: list[Any], wanted: list[dict[str, Any]]) -> list[list[str]]:
    """Return what is not as expected, of each result of a batch."""
    assert len(results) == len(wanted), f"{len(results)} results, not {len(wanted)}"
    shown = [
        Result(error=each) if isinstance(each, quorate.QuorateError) else Result(value=each)
        for each in results
    ]
    return [mismatches(*pair) for pair in zip(wanted, shown, strict=True)]


def _of_changes(page: Any, wanted: dict[str, Any]) -> dict[str, list[str]]:
    """Return what is not as expected, of each change on a page."""
    keys = [change.key for change in page]
    assert len(keys) == len(set(keys)), f"a key is twice on a page: {keys}"
    return {
        change.key: mismatches(wanted[change.key], Result(value=change))
        if change.key in wanted
        else ["is not expected"]
        for change in page
    }


def _has_one_key(sent: list[Sent]) -> bool:
    keys = [each.headers.get("idempotency-key") for each in sent]
    return None not in keys and len(set(keys)) == 1


def _as_expected(sent: Sent, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the request in the form of its expectation, with only what that names."""
    shown: dict[str, Any] = {}
    for name, expected in wanted.items():
        actual = json.loads(sent.body) if name == "json" else getattr(sent, name)
        if name == "headers":
            given = {key: actual.get(key) for key in expected}
            actual = {key: "*" if expected[key] == "*" and text else text for key, text in given.items()}
        shown[name] = actual.decode() if name == "body" else actual
    return shown
