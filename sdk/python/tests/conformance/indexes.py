"""Steps on index entries, and questions to an index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import quorate

QUESTION = {"index", "eq", "from", "to", "limit"}
OPS: dict[str, set[str]] = {"list_index": QUESTION | {"cursor"}, "all_index": QUESTION}
Entries = Mapping[str, list[Any]]


def entries(given: Entries) -> dict[str, list[Any]]:
    """Return entries, as the cases write them, as the client takes them."""
    return {name: [value(name, each) for each in values] for name, values in given.items()}


def value(index: str, given: Any) -> Any:
    """Return a value in an index. An integer may be written as text."""
    is_number = index.endswith("_i") and re.fullmatch(r"-?[0-9]+", str(given))
    return int(given) if is_number else given


def question(step: dict[str, Any]) -> dict[str, Any]:
    names = {"eq": "eq", "from": "from_", "to": "to"}
    return {own: value(step["index"], step[name]) for name, own in names.items() if name in step}


@contextmanager
def noted_pages(client: Any) -> Iterator[list[quorate.IndexPage]]:
    """Note the pages that an iterator asks for: itself it does not tell whether they were complete."""
    core, pages = client._core, []

    def noted(*args: Any) -> Any:
        pages.append((yield from ask(*args)))
        return pages[-1]

    ask, core.index_page = core.index_page, noted
    try:
        yield pages
    finally:
        core.index_page = ask


def shown(read: Any) -> dict[str, list[Any]]:
    return {name: list(values) for name, values in read.index.items()}


def all_shown(siblings: Any) -> list[str]:
    return in_any_order(shown(sibling) for sibling in siblings.live)


def in_any_order(found: Any) -> list[str]:
    return sorted(json.dumps(each, sort_keys=True) for each in found)


def hits(page: quorate.IndexPage) -> list[list[Any]]:
    return [[entry.value, entry.key] for entry in page.entries]


def wanted_hits(page: quorate.IndexPage, wanted: list[list[Any]]) -> list[list[Any]]:
    """Return the expected entries in the form of those that are there."""
    index = "_i" if any(isinstance(entry.value, int) for entry in page.entries) else "_s"
    return [[value(index, each), key] for each, key in wanted]
