"""Pages of a feed: what changed keys are now. No I/O."""

from __future__ import annotations

import json
from typing import Any

from . import parse, parse_typed
from .batch import answer_of
from .model import Absent, FeedPage, LargeValue, Siblings, Value, W_co, Writes
from .parse import Response
from .typed import Typed
from .wire import Request

_KINDS: dict[str, parse_typed.Kind[Any]] = {
    kind.name: kind
    for kind in (
        parse_typed.COUNTER,
        parse_typed.SET,
        parse_typed.FLAG,
        parse_typed.MAP,
        parse_typed.REGISTER,
        parse_typed.ESTIMATE,
    )
}


def page(bucket: str, response: Response, client: Writes[W_co]) -> FeedPage[W_co]:
    """Read the answer to `GET /feed/{bucket}`."""
    body = parse.json_object(response)
    changes, cursor, complete = body.get("changes"), body.get("cursor"), body.get("complete")
    if not isinstance(changes, list):
        raise parse.wrong(response, "has no list of changes")
    if not isinstance(cursor, str) or not cursor or not isinstance(complete, bool):
        raise parse.wrong(response, "has no cursor, or does not say whether it is complete")
    return FeedPage(tuple(_change(bucket, response, each, client) for each in changes), cursor, complete)


def _change(
    bucket: str, response: Response, change: Any, client: Writes[W_co]
) -> Value[W_co] | Siblings[W_co] | Absent[W_co] | LargeValue | Typed[Any]:
    """Read a change as the answer to a read of its key."""
    key = change.get("key") if isinstance(change, dict) else None
    if not isinstance(key, str):
        raise parse.wrong(response, "has a change without a key")
    request = Request("GET", "", place=(bucket, key))
    if "bytes" in change:
        return _large(request, response, change)
    if "type" in change:
        return _typed(request, response, change)
    answer = answer_of(response, change)
    if answer.status == 404:
        expired = change.get("expired") is True
        return Absent(*parse.common_of(request, answer, client), deleted=True, expired=expired)
    return parse.read(request, answer, client)


def _large(request: Request, response: Response, change: dict[str, Any]) -> LargeValue:
    answer = answer_of(response, {**change, "value": "", "siblings": None})
    size, count = change["bytes"], parse.count(answer.header("quorate-siblings"))
    if type(size) is not int or answer.status not in {200, 300}:
        raise parse.wrong(response, "has a change without its size")
    return LargeValue(
        *(request.place or ("", "")),
        size,
        siblings=1 if count is None else count,
        etag=answer.header("etag"),
        content_type=answer.header("content-type") if answer.status == 200 else None,
        meta=parse.meta_of(answer),
        expires_at=parse.expires_at_of(answer),
        index=parse.index_of(answer),
    )


def _typed(request: Request, response: Response, change: dict[str, Any]) -> Typed[Any]:
    kind = _KINDS.get(str(change["type"]))
    if kind is None:
        raise parse.wrong(response, "has a change of a type that this client does not know")
    value = json.dumps({name: change[name] for name in ("type", "exists", "value") if name in change})
    answer = answer_of(response, {**change, "value": value, "content_type": "application/json"})
    return parse_typed.typed(request, answer, kind)
