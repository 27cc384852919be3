"""Answers about typed values, read with the suspicion of `parse`. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import Facts, WrongType
from .parse import Response, count, json_object, wrong
from .typed import Applied, Field, Typed
from .wire import Request

V = TypeVar("V")


@dataclass(frozen=True)
class Kind(Generic[V]):
    """A type, and how its values are read from JSON; `ValueError` for what is none."""

    name: str
    of_json: Callable[[Any], V]


def typed(request: Request, response: Response, kind: Kind[V]) -> Typed[V]:
    """Read the answer to a GET of a typed key, or to a change that gives back the value."""
    bucket, key = request.place or ("", "")
    body = json_object(response)
    has, exists, context = body.get("type"), body.get("exists"), response.header("quorate-context")
    if isinstance(has, str) and has != kind.name:
        facts = Facts(status=response.status, request_id=response.header("x-request-id"))
        raise WrongType(f"bucket {bucket} has values of type {has[:100]}, not {kind.name}", facts=facts)
    if not isinstance(has, str) or not isinstance(exists, bool) or "value" not in body:
        raise wrong(response, "has no typed value")
    if not context:
        raise wrong(response, "has no Quorate-Context")
    try:
        value = kind.of_json(body["value"])
    except ValueError as error:
        raise wrong(response, f"has no value of type {kind.name}: {error}") from error
    request_id = response.header("x-request-id")
    return Typed(bucket, key, value, exists, context, response.header("etag"), request_id)


def applied(request: Request, response: Response, kind: Kind[V]) -> Applied[V]:
    """Read the answer to a change."""
    bucket, key = request.place or ("", "")
    return Applied(
        bucket,
        key,
        acks=count(response.header("quorate-acks")),
        hints=count(response.header("quorate-hints")),
        read=typed(request, response, kind) if response.status == 200 else None,
        request_id=response.header("x-request-id"),
    )


def _total(value: object) -> int:
    if isinstance(value, str) and len(value) < 100 and value.lstrip("-").isdecimal() and value.isascii():
        return int(value)  # beyond 64 bits
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("no whole number")


def _elements(value: object) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("no list of texts")
    return frozenset(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("neither true nor false")  # noqa: TRY004 (one error for all of them)
    return value


def _text(value: object) -> str | None:
    if not (value is None or isinstance(value, str)):
        raise ValueError("no text")
    return value


def _fields(value: object) -> Mapping[str, Field]:
    if not isinstance(value, dict) or not all(isinstance(each, dict) for each in value.values()):
        raise ValueError("no fields")
    return {
        name: Field(
            _text(each.get("register_lww")), _flag(each.get("flag", False)), _elements(each.get("set", []))
        )
        for name, each in value.items()
    }


def _estimate(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("no count")
    return value


COUNTER = Kind("counter", _total)
SET = Kind("set", _elements)
FLAG = Kind("flag", _flag)
MAP = Kind("map", _fields)
REGISTER = Kind("register_lww", _text)
ESTIMATE = Kind("hll", _estimate)
