"""The example of the README, run as it stands there."""

from __future__ import annotations

import os
import re
import secrets
import time
from pathlib import Path

import pytest

import quorate

README = Path(__file__).resolve().parents[1] / "README.md"
URLS = os.environ.get("QUORATE_URL", "")


@pytest.mark.skipif(not URLS, reason="QUORATE_URL is not set: no cluster")
def test_the_examples_print_what_the_readme_says(capsys: pytest.CaptureFixture[str]) -> None:
    found = re.findall(r"```python\n(.*?)```.*?```\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 6
    orders = _followed_bucket()
    for example, output in found:
        text = example.replace("http://127.0.0.1:7401", URLS)
        for bucket in ("carts", "visits", "tags", "users", "sessions", "accounts"):
            text = text.replace(f'"{bucket}"', f'"{bucket}-{secrets.token_hex(8)}"')
        text = text.replace('"orders"', f'"{orders}"')
        exec(compile(text, str(README), "exec"), {"quorate": quorate})  # noqa: S102 (our own text)
        assert capsys.readouterr().out == output


def _followed_bucket() -> str:
    """Return a bucket of whose feed all nodes know."""
    bucket = f"orders-{secrets.token_hex(8)}"
    deadline = time.monotonic() + 20
    for url in URLS.split(","):
        with quorate.Client(url, discover=False) as client:
            client.set_bucket(bucket, feed_retention_s=86_400)
            while not client.feed_page(bucket, start="now").complete:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    return bucket
