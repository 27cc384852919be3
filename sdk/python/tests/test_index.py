"""Index entries and questions to an index: what is sent, what is refused, what hostile answers come to."""

from __future__ import annotations

import json
from enum import Enum, IntEnum
from typing import Any

import anyio
import pytest
from conformance.servers import Stub

import quorate
from quorate import IndexEntry, index, wire
from quorate.wire import WriteOptions

JSON = {"Content-Type": "application/json"}
DONE = {"status": 204, "headers": {"Quorate-Context": "c2", "Quorate-Siblings": "1"}}
HEADERS = {"Quorate-Context": "c1", "ETag": '"e1"', "Content-Type": "a/b"}
VALUE = {
    "status": 200,
    "headers": {**HEADERS, "Quorate-Index-Email_s": "a%2Cb, caf%C3%A9", "Quorate-Index-age_i": "-7, 42"},
    "body": "one",
}
ENTRIES = {"email_s": ("a,b", "café"), "age_i": (-7, 42)}
SIBLINGS = [{"dot": "d-1", "value": "a", "index": {"age_i": [7]}}, {"dot": "d-2", "value": "b"}]
CONFLICT = {
    "status": 300,
    "headers": {"Quorate-Context": "c3", **JSON},
    "json": {"siblings": SIBLINGS},
}
SMALL = -(2**63)
LARGE = 2**63 - 1


class Level(IntEnum):
    HIGH = 3


class City(str, Enum):
    BONN = "Bonn"


def page(cursor: str | None, *entries: tuple[Any, str], complete: bool = True) -> dict[str, Any]:
    listed = [{"value": value, "key": key} for value, key in entries]
    shown = {"bucket": "b", "index": "age_i", "entries": listed, "cursor": cursor, "complete": complete}
    return {"status": 200, "headers": JSON, "json": shown}


def sent_headers(given: Any) -> dict[str, str]:
    headers = wire.put("b", "k", b"", WriteOptions(), index=given).headers
    return {name: text for name, text in headers if name.startswith(index.HEADER)}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"email_s": "a@x"}, {"email_s": "a@x"}),
        ({"email_s": ["b@x", "a@x", "b@x"], "age_i": 42}, {"email_s": "b@x, a@x, b@x", "age_i": "42"}),
        ({"x-1_2_i": (each for each in (LARGE, SMALL))}, {"x-1_2_i": f"{LARGE}, {SMALL}"}),
        ({"a_s": ["a,b", "5%", " ü ", "~!?", "\n"]}, {"a_s": "a%2Cb, 5%25, %20%C3%BC%20, ~!?, %0A"}),
        ({"a_i": Level.HIGH, "b_s": City.BONN}, {"a_i": "3", "b_s": "Bonn"}),
        ({"a_s": [], "b_i": ()}, {}),
        ({}, {}),
        (None, {}),
    ],
)
def test_each_index_is_one_header(given: Any, sent: dict[str, str]) -> None:
    assert sent_headers(given) == {f"Quorate-Index-{name}": text for name, text in sent.items()}


@pytest.mark.parametrize(
    ("given", "what"),
    [
        *(
            ({name: "v"}, "index: ")
            for name in ("email", "_s", "a.b_s", "Email_s", "a_s\r\nx_s", "ü_s", "", 7)
        ),
        ({"a" * 63 + "_s": "v"}, "index: "),
        *(
            ({"a_s": value}, "index: a_s: ")
            for value in ("", ["a", ""], 7, [7], b"a", None, "\ud800", [["a"]])
        ),
        *(
            ({"a_i": value}, "index: a_i: ")
            for value in ("7", 7.0, True, [True], b"7", 2**63, SMALL - 1, None)
        ),
        ("email_s", "index: must map"),
        ([("email_s", "a@x")], "index: must map"),
    ],
)
def test_entries_that_are_none_are_refused(given: Any, what: str) -> None:
    with pytest.raises(quorate.InvalidArgument, match=what):
        sent_headers(given)


@pytest.mark.parametrize(
    ("name", "asked", "query"),
    [
        ("email_s", {}, ""),
        ("email_s", {"eq": "ü/&"}, "?eq=%C3%BC%2F%26"),
        ("age_i", {"from_": SMALL, "to": 0}, f"?from={SMALL}&to=0"),
        ("age_i", {"eq": 0, "limit": 7, "cursor": "C/1"}, "?eq=0&limit=7&cursor=C%2F1"),
    ],
)
def test_a_question_is_one_request(name: str, asked: Any, query: str) -> None:
    none = {"eq": None, "from_": None, "to": None, "limit": None, "cursor": None}
    assert wire.index("a/b", name, **{**none, **asked}).target == f"/index/a%2Fb/{name}{query}"


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("email", {"eq": "a"}),
        ("Email_s", {"eq": "a"}),
        ("../keys_s", {}),
        ("email_s", {"eq": "a", "from_": "a"}),
        ("email_s", {"eq": "a", "to": "b"}),
        ("email_s", {"eq": 7}),
        ("email_s", {"from_": ""}),
        ("age_i", {"eq": "7"}),
        ("age_i", {"to": True}),
        ("age_i", {"from_": 2**63}),
    ],
)
def test_questions_that_are_none_are_refused(serve: Any, name: str, asked: Any) -> None:
    client, stub = serve(page(None))
    with pytest.raises(quorate.InvalidArgument):
        client.index_page("b", name, **asked)
    with pytest.raises(quorate.InvalidArgument):
        next(client.index("b", name, **asked))
    assert not stub.take()


def test_an_index_is_read_to_its_end_also_over_pages_without_entries(serve: Any) -> None:
    pages = (page("C1", (SMALL, "a"), (7, "b")), page("C2"), page(None, (7, "c"), (LARGE, "a")))
    client, stub = serve(*pages, page("C1", (7, "b")))
    found = list(client.index("b", "age_i", from_=SMALL, to=LARGE, page_size=2))
    assert found == [IndexEntry(*each) for each in ((SMALL, "a"), (7, "b"), (7, "c"), (LARGE, "a"))]
    one = client.index_page("b", "age_i", eq=7, limit=1, cursor="C0")
    assert one == quorate.IndexPage((IndexEntry(7, "b"),), "C1", complete=True)
    asked = {"from": str(SMALL), "to": str(LARGE), "limit": "2"}
    sent = stub.take()
    assert {(each.method, each.path) for each in sent} == {("GET", "/index/b/age_i")}
    assert [each.query for each in sent] == [
        asked,
        {**asked, "cursor": "C1"},
        {**asked, "cursor": "C2"},
        {"eq": "7", "limit": "1", "cursor": "C0"},
    ]


def test_a_page_that_is_not_complete_is_an_error_unless_that_is_allowed(serve: Any) -> None:
    pages = (page("C1", (1, "a"), complete=False), page(None, (2, "a")))
    client, _ = serve(*pages, pages[0])
    assert [each.value for each in client.index("b", "age_i", allow_incomplete=True)] == [1, 2]
    with pytest.raises(quorate.IncompleteListing, match="entries may be missing"):
        next(client.index("b", "age_i"))
    assert not client.index_page("b", "age_i").complete


def test_an_index_that_does_not_advance_is_an_error(serve: Any) -> None:
    client, stub = serve(page("C1"))
    with pytest.raises(quorate.ProtocolError, match="does not advance"):
        list(client.index("b", "age_i"))
    assert len(stub.take()) == 2


def test_the_asynchronous_client_does_the_same() -> None:
    stub = Stub([page("C1", (1, "a")), page("C2"), page(None, (2, "a"), complete=False), DONE, VALUE])

    async def work() -> list[IndexEntry]:
        async with quorate.AsyncClient(stub.url, discover=False) as client:
            found = client.index("b", "age_i", from_=1, page_size=2, allow_incomplete=True)
            entries = [each async for each in found]
            await client.put("b", "k", "v", index={"age_i": [1]})
            read = await client.get("b", "k")
            assert isinstance(read, quorate.Value)
            assert read.index == ENTRIES
            return entries

    try:
        assert anyio.run(work) == [IndexEntry(1, "a"), IndexEntry(2, "a")]
        *asked, put, _ = stub.take()
    finally:
        stub.close()
    assert [each.query.get("cursor") for each in asked] == [None, "C1", "C2"]
    assert put.headers["quorate-index-age_i"] == "1"


def test_what_copies_a_value_keeps_its_entries(serve: Any) -> None:
    new = quorate.NewValue("v", index={"age_i": 1})
    client, stub = serve(*[VALUE, DONE] * 4, CONFLICT, *[DONE] * 3)
    client.update("b", "k", lambda read: read.text + "!")
    client.update("b", "k", lambda _: quorate.NewValue("v"))
    client.update("b", "k", lambda _: new)
    read = client.get("b", "k")
    assert read.index == ENTRIES
    read.put("v")
    siblings = client.get("b", "k")
    assert [sibling.index for sibling in siblings] == [{"age_i": (7,)}, {}]
    for decision in ("v", new, siblings.siblings[0]):
        siblings.resolve(lambda _, decision=decision: decision)
    written = [each for each in stub.take() if each.method != "GET"]
    texts = ("quorate-index-email_s", "quorate-index-age_i")
    assert [tuple(each.headers.get(text) for text in texts) for each in written] == [
        ("a%2Cb, caf%C3%A9", "-7, 42"),
        (None, None),
        (None, "1"),
        (None, None),
        (None, None),
        (None, "1"),
        (None, None),
    ]
    assert (written[-1].method, written[-1].path) == ("POST", "/siblings/b/k")


def test_a_batch_writes_and_reads_entries(serve: Any) -> None:
    read = {
        "status": 200,
        "value": "v",
        "context": "c",
        "index": {"age_i": [SMALL, LARGE], "a_s": ["a,b", "%41"]},
    }
    conflict = {"status": 300, "context": "c", "siblings": SIBLINGS}
    results = {"results": [{"status": 204}, {"status": 204}, read, conflict]}
    client, stub = serve({"status": 200, "headers": JSON, "json": results})
    _, _, value, siblings = client.batch(
        [
            quorate.BatchPut("b", "k", "v", index={"email_s": "ü,%", "age_i": [LARGE, 1], "a_s": []}),
            quorate.BatchPut("b", "k", "v", index={}),
            quorate.BatchGet("b", "k"),
            quorate.BatchGet("b", "k"),
        ]
    )
    assert value.index == {"age_i": (SMALL, LARGE), "a_s": ("a,b", "%41")}
    assert [sibling.index for sibling in siblings] == [{"age_i": (7,)}, {}]
    with_entries, without, *_ = json.loads(stub.take()[0].body)["operations"]
    assert with_entries["index"] == {"email_s": ["ü,%"], "age_i": [LARGE, 1]}
    assert "index" not in without


def test_changes_show_the_entries_of_their_values(serve: Any) -> None:
    entries = {"age_i": [7], "a_s": ["a,b"]}
    changes = [
        {"key": "a", "status": 200, "value": "v", "context": "c", "index": entries},
        {"key": "b", "status": 200, "bytes": 70_000, "index": entries},
        {"key": "c", "status": 300, "context": "c", "siblings": SIBLINGS},
    ]
    shown = {"bucket": "b", "changes": changes, "cursor": "C", "complete": True}
    client, _ = serve({"status": 200, "headers": JSON, "json": shown})
    value, large, siblings = client.feed_page("b", start="oldest")
    assert value.index == large.index == {"age_i": (7,), "a_s": ("a,b",)}
    assert siblings.siblings[0].index == {"age_i": (7,)}


def test_a_value_in_pieces_has_its_entries(serve: Any) -> None:
    client, _ = serve(VALUE)
    with client.open("b", "k") as read:
        assert (read.head.index, read.read()) == (ENTRIES, b"one")


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        (b"Quorate-Index-A_S", b"a , b,c", ("a", "b", "c")),
        (b"quorate-index-a_s", b"%20a%2Cb, x%%, %2 ,a+b", (" a,b", "x%%", "%2", "a+b")),
        (b"quorate-index-a_i", b"-7,%34%32, 007", (-7, 42, 7)),
    ],
)
def test_headers_are_split_and_then_unescaped(name: bytes, text: bytes, values: tuple[Any, ...]) -> None:
    read = index.of_headers([(b"quorate-meta-a_s", b"x"), (name, text)])
    assert read == {name.decode().lower()[-3:]: values}
    assert index.of_headers([(name, text), (name, text)]) == {name.decode().lower()[-3:]: values * 2}


def test_any_character_comes_back_from_a_header() -> None:
    texts = [chr(code) for code in (*range(1, 0x180), 0x2028, 0xFEFF, 0xFFFF, 0x1F350)]
    [(name, text)] = sent_headers({"a_s": texts}).items()
    assert index.of_headers([(name.encode(), text.encode("ascii"))]) == {"a_s": tuple(texts)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((b"a_s", text) for text in (b"", b"a,,b", b"a,", b"%FF", b"\xff")),
        *(
            (b"a_i", text)
            for text in (b"", b"old", b"1.0", b"+1", b"1 2", b"9223372036854775808", b"9" * 5000)
        ),
        *((name, b"1") for name in (b"", b"_i", b"a", b"a_x", b"a.b_i", b"\xff_i")),
    ],
)
def test_headers_that_are_none_are_refused(name: bytes, text: bytes) -> None:
    with pytest.raises(ValueError, match=r"must be|decode|is none"):
        index.of_headers([(index.HEADER.encode() + name, text)])


@pytest.mark.parametrize(
    "found",
    [
        *(None, [], "a_s", {"a_s": "a"}, {"a_i": {}}, {"a": ["v"]}, {"A_s": ["v"]}),
        *({"a_s": [value]} for value in (7, "", None, ["a"], "\ud800")),
        *({"a_i": [value]} for value in ("7", True, 7.0, 2**63, None)),
    ],
)
def test_json_that_is_none_is_an_error_of_the_protocol(serve: Any, found: Any) -> None:
    with pytest.raises(ValueError, match=r"must be|no lists|is none"):
        index.of_json(found)
    results = {"results": [{"status": 200, "value": "v", "context": "c", "index": found}]}
    client, _ = serve({"status": 200, "headers": JSON, "json": results})
    assert isinstance(client.batch([quorate.BatchGet("b", "k")])[0], quorate.ProtocolError)
