"""The cases of `sdk/conformance`, with both clients."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from anyio.from_thread import start_blocking_portal

import quorate

from .runner import Call, Runner

CASES = Path(__file__).resolve().parents[3] / "conformance"
URLS = [url for url in os.environ.get("QUORATE_URL", "").split(",") if url]


def load() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = []
    for path in sorted(CASES.glob("*.yaml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert set(document) == {"cases"}, f"{path} has more than cases"
        cases += document["cases"]
    names = [case["name"] for case in cases]
    assert len(names) == len(set(names)), "a name is not unique"
    assert cases, f"there are no cases in {CASES}"
    return cases


def has(feature: str) -> bool:
    if feature == "explain":
        return httpx.get(f"{URLS[0]}/kv/b/k?explain=true").status_code != 400
    assert feature == "http_addr", f"unknown feature {feature}"
    nodes = httpx.get(f"{URLS[0]}/cluster").json()["nodes"]
    return all(isinstance(node.get("http_addr"), str) for node in nodes)


@pytest.fixture(params=["sync", "async"])
def flavour(request: pytest.FixtureRequest) -> Iterator[tuple[Callable[..., Any], Call]]:
    if request.param == "sync":
        yield quorate.Client, lambda function: function()
        return
    with start_blocking_portal() as portal:

        def call(function: Callable[[], Any]) -> Any:
            async def run() -> Any:
                result = function()
                return await result if inspect.isawaitable(result) else result

            return portal.call(run)

        yield quorate.AsyncClient, call


@pytest.mark.parametrize("case", load(), ids=lambda case: case["name"])
def test_case(case: dict[str, Any], flavour: tuple[Callable[..., Any], Call]) -> None:
    if case.get("server") != "stub":
        if not URLS:
            pytest.skip("QUORATE_URL is not set: no cluster")
        for feature in case.get("needs", []):
            if not has(feature):
                pytest.skip(f"the cluster has no {feature}")
    make, call = flavour
    runner = Runner(case, URLS, make, call)
    try:
        runner.run()
    finally:
        runner.close()
