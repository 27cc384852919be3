"""What several test modules use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conformance.servers import Stub

import quorate


@pytest.fixture
def serve() -> Iterator[Any]:
    """Start clients of servers that give these answers, one after another."""
    opened: list[Any] = []

    def start(*answers: dict[str, Any], **options: Any) -> tuple[quorate.Client, Stub]:
        stub = Stub(list(answers))
        client = quorate.Client(stub.url, discover=False, **options)
        opened.extend([client, stub])
        return client, stub

    yield start
    for each in opened:
        each.close()
