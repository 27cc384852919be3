"""A round trip without xxhash, in a process of its own: the import is tried once, at the start."""

# ruff: noqa: E402
from __future__ import annotations

import os
import secrets
import sys

sys.modules["xxhash"] = None  # type: ignore[assignment]  # what an import of a missing module meets

import quorate
from quorate.nodes import can_route


def main() -> None:
    assert not can_route()
    bucket = f"c-{secrets.token_hex(8)}"
    with quorate.Client(os.environ["QUORATE_URL"]) as client:
        client.put(bucket, "k", b"v")
        read = client.get(bucket, "k")
        assert isinstance(read, quorate.Value)
        assert read.value == b"v"
    sys.stdout.write("ok: requests are spread without xxhash\n")


main()
