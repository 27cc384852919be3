"""Requests: what is escaped, what is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from quorate import InvalidArgument, Lifetime, Written, wire
from quorate.wire import WriteOptions

PLAIN = WriteOptions()


@pytest.mark.parametrize("key", ["a/b", "..", ".", "a b+c", "100%", "ü/日本", "?#&=", "\t\n", "/", "a/../b"])
def test_a_key_is_one_segment_that_decodes_to_itself(key: str) -> None:
    target = wire.get("b", key, {}).target
    parts = urlsplit(target)
    assert target.isascii()
    assert parts.path.count("/") == 3
    assert unquote(parts.path) == f"/kv/b/{key}"
    assert parts.path.rsplit("/", 1)[1] not in {".", ".."}, "a URL library would take that for a step"
    assert not parts.query
    assert not parts.fragment


def test_options_become_parameters() -> None:
    target = wire.get(
        "b", "k", {"r": "all", "n": 2, "sloppy": False, "timeout_ms": 9, "explain": True}
    ).target
    assert target == "/kv/b/k?r=all&n=2&sloppy=false&timeout_ms=9&explain=true"
    assert wire.get("b", "k", {"explain": False, "r": None}).target == "/kv/b/k"


def test_every_write_has_an_idempotency_key_of_its_own() -> None:
    keys = {dict(wire.delete("b", "k", PLAIN).headers)["Idempotency-Key"] for _ in range(100)}
    assert len(keys) == 100


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"content_type": "a\r\nX: y"}, "content_type"),
        ({"content_type": "ü"}, "content_type"),
        ({"content_encoding": "gzip "}, "content_encoding"),
        ({"meta": {"": "x"}}, "meta"),
        ({"meta": {"a:b": "x"}}, "meta"),
        ({"meta": {"a": "x\0"}}, "meta: a"),
        ({"meta": {"a": 7}}, "meta: a"),
    ],
)
def test_what_is_no_header_is_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidArgument, match=what):
        wire.put("b", "k", b"", PLAIN, **options)


@pytest.mark.parametrize(
    "options",
    [
        WriteOptions(if_absent=True, if_present=True),
        WriteOptions(if_absent=True, if_match='"e"'),
        WriteOptions(idempotency_key=""),
        WriteOptions(idempotency_key="a b"),
        WriteOptions(idempotency_key="k" * 256),
        WriteOptions(context="a\nb"),
        WriteOptions(context=Written("b", "k", None, None, 2, 2, 0)),
        WriteOptions(if_match=Written("b", "k", None, None, 2, 2, 0)),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: WriteOptions) -> None:
    with pytest.raises(InvalidArgument):
        wire.put("b", "k", b"", options)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (1, "1"),
        (3_162_240_000, "3162240000"),
        (60.0, "60"),
        (0.001, "1"),
        (1.5, "2"),
        (timedelta(minutes=1.5), "90"),
        (timedelta(microseconds=1), "1"),
        ("never", "never"),
    ],
)
def test_a_lifetime_is_sent_in_whole_seconds_and_no_shorter(given: Lifetime, sent: str) -> None:
    headers = dict(wire.put("b", "k", b"", WriteOptions(expires_in=given)).headers)
    assert headers["Quorate-Expires-In"] == sent
    assert "Quorate-Expires-In" not in dict(wire.put("b", "k", b"", PLAIN).headers)


@pytest.mark.parametrize(
    "given",
    [
        *(0, -1, 3_162_240_001, 3_162_240_000.5, 1e308, float("inf"), float("nan"), True, "60", "Never", ""),
        *(timedelta(0), timedelta(seconds=-1), timedelta.max, b"never", [60]),
    ],
)
def test_a_lifetime_that_is_none_is_refused(given: Any) -> None:
    with pytest.raises(InvalidArgument, match="expires_in"):
        wire.put("b", "k", b"", WriteOptions(expires_in=given))


@pytest.mark.parametrize(("bucket", "key"), [("", "k"), ("b", ""), ("b", "\ud800"), ("b", None)])
def test_names_that_are_none_are_refused(bucket: str, key: Any) -> None:
    with pytest.raises(InvalidArgument):
        wire.get(bucket, key, {})


@pytest.mark.parametrize("value", [7, None, object(), "\ud800"])
def test_values_that_are_none_are_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument):
        wire.put("b", "k", value, PLAIN)


def test_text_is_sent_as_text_and_bytes_as_bytes() -> None:
    text, octets = wire.put("b", "k", "ü", PLAIN), wire.put("b", "k", bytearray(b"\xff"), PLAIN)
    assert (text.body, dict(text.headers)["Content-Type"]) == (b"\xc3\xbc", wire.TEXT)
    assert (octets.body, dict(octets.headers)["Content-Type"]) == (b"\xff", wire.OCTETS)
