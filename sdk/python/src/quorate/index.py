"""Entries of values in indexes, and what is asked of an index: their types, and how they are sent. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from .errors import InvalidArgument

Index: TypeAlias = "Mapping[str, str | int | Iterable[str | int]]"
"""Entries to write, by the name of the index: of texts if it ends in `_s`, of 64-bit integers if in `_i`."""
IndexEntries: TypeAlias = "Mapping[str, tuple[str | int, ...]]"
"""The entries of a value that was read, by the name of the index."""

HEADER = "Quorate-Index-"
_NAME = re.compile(r"[a-z0-9_-]{1,62}_[is]")
_NUMBER = re.compile(r"-?[0-9]{1,19}")
_UNESCAPED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "%,")
"""What a value in a header has as it is: visible ASCII but percent signs and commas."""


@dataclass(frozen=True)
class IndexEntry:
    """One hit of a query: a value in the index, and the key that has it."""

    value: str | int
    key: str


@dataclass(frozen=True)
class IndexPage:
    """One page of the entries of an index, ordered by value, then by key."""

    entries: tuple[IndexEntry, ...]
    """At most as many as asked for. There may be none although more follow: `cursor` says so."""
    cursor: str | None
    """Where the next page starts, at any node; `None` after the last."""
    complete: bool
    """False if too few replicas of some part answered, so that entries may be missing."""


def checked(index: Index | None) -> dict[str, list[str | int]]:
    """Return the entries to send, as lists; raises `InvalidArgument`."""
    if not isinstance(index, (Mapping, type(None))):
        raise InvalidArgument("index: must map names of indexes to values")
    found = {}
    for index_name, given in (index or {}).items():
        what = f"index: {name('index', index_name)}"
        if isinstance(given, (bytes, bytearray, memoryview)) or not isinstance(given, (str, int, Iterable)):
            raise InvalidArgument(f"{what}: must be a value or a list of values")
        listed: Iterable[Any] = [given] if isinstance(given, (str, int)) else given
        values = [_value(what, index_name, each) for each in listed]
        if values:
            found[index_name] = values
    return found


def headers(entries: Mapping[str, Sequence[str | int]]) -> list[tuple[str, str]]:
    """Return entries as headers, one for each index."""
    return [
        (f"{HEADER}{index_name}", ", ".join(quote(str(value), safe=_UNESCAPED) for value in values))
        for index_name, values in entries.items()
    ]


def query(
    index: str, eq: str | int | None, from_: str | int | None, to: str | int | None
) -> dict[str, str | int | None]:
    """Return what is asked of an index as parameters; raises `InvalidArgument`."""
    name("index", index)
    if eq is not None and (from_ is not None or to is not None):
        raise InvalidArgument("eq: cannot be given together with from_ or to")
    ends = {"eq": eq, "from_": from_, "to": to}
    return {what.rstrip("_"): None if end is None else _value(what, index, end) for what, end in ends.items()}


def name(what: str, given: str) -> str:
    """Return the name of an index if it is one; raises `InvalidArgument`."""
    if not isinstance(given, str) or not _NAME.fullmatch(given):
        raise InvalidArgument(
            f"{what}: {given!r} is none: 3 to 64 characters of a-z, 0-9, - and _ that end in _s or _i"
        )
    return given


def _value(what: str, index: str, given: object) -> str | int:
    """Return a value in an index as it is sent; raises `InvalidArgument` if it is none."""
    if index.endswith("_i"):
        if not isinstance(given, int) or isinstance(given, bool) or not -(2**63) <= given < 2**63:
            raise InvalidArgument(f"{what}: must be a whole number of 64 bits")
        return int(given)  # of an enumeration the number
    if not isinstance(given, str) or not given:
        raise InvalidArgument(f"{what}: must be text that is not empty")
    try:
        return given.encode().decode()  # of an enumeration the text
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{what}: must be text that can be UTF-8") from error


def of_headers(given: Iterable[tuple[bytes, bytes]]) -> IndexEntries:
    """Read entries from the headers of an answer; raises `ValueError`."""
    found: dict[str, tuple[str | int, ...]] = {}
    for header, text in given:
        lower = header.decode("latin-1").lower()
        if lower.startswith(HEADER.lower()):
            index = lower[len(HEADER) :]
            values = [_of_text(index, each.strip(b" \t")) for each in text.split(b",")]
            found[index] = found.get(index, ()) + tuple(values)
    return found


def _of_text(index: str, text: bytes) -> str | int:
    value = unquote_to_bytes(text).decode()
    return value_of_json(index, int(value) if index.endswith("_i") and _NUMBER.fullmatch(value) else value)


def of_json(found: object) -> IndexEntries:
    """Read the entries of a value from JSON; raises `ValueError`."""
    if not isinstance(found, dict) or not all(isinstance(values, list) for values in found.values()):
        raise ValueError("no lists of values")
    return {index: tuple(value_of_json(index, each) for each in values) for index, values in found.items()}


def value_of_json(index: str, value: object) -> str | int:
    """Return a value in an index; raises `ValueError` if it is none."""
    return _value(name("index", index), index, value)
