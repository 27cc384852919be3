"""The example of the README, run as it stands there."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

import pytest

import quorate

README = Path(__file__).resolve().parents[1] / "README.md"
URLS = os.environ.get("QUORATE_URL", "")


@pytest.mark.skipif(not URLS, reason="QUORATE_URL is not set: no cluster")
def test_the_examples_print_what_the_readme_says(capsys: pytest.CaptureFixture[str]) -> None:
    found = re.findall(r"```python\n(.*?)```.*?```\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 4
    for example, output in found:
        text = example.replace("http://127.0.0.1:7401", URLS)
        for bucket in ("carts", "visits", "tags", "users", "sessions"):
            text = text.replace(f'"{bucket}"', f'"{bucket}-{secrets.token_hex(8)}"')
        exec(compile(text, str(README), "exec"), {"quorate": quorate})  # noqa: S102 (our own text)
        assert capsys.readouterr().out == output
