"""The example of the README, run as it stands there."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
URLS = os.environ.get("QUORATE_URL", "")


@pytest.mark.skipif(not URLS, reason="QUORATE_URL is not set: no cluster")
def test_the_example_prints_what_the_readme_says(capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(r"```python\n(.*?)```.*?```\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    example, output = found.groups()
    bucket = f"carts-{secrets.token_hex(8)}"
    example = example.replace("http://127.0.0.1:7401", URLS).replace('"carts"', f'"{bucket}"')
    exec(compile(example, str(README), "exec"), {})  # noqa: S102 (our own text)
    assert capsys.readouterr().out == output
