"""Which node is asked."""

from __future__ import annotations

import random
from typing import Any

import pytest
import xxhash

from quorate import InvalidArgument
from quorate.nodes import Node, Nodes, parse_urls
from quorate.parse import Homes

NAMES = ("n1", "n2", "n3", "n4")


def cluster() -> Nodes:
    nodes = Nodes(["http://10.0.0.1:7401"], random.Random(1))
    homes = Homes(NAMES, tuple(((at) % 4, (at + 1) % 4) for at in range(16)))
    nodes.discovered({name: f"10.0.0.{at}:7401" for at, name in enumerate(NAMES, 1)}, homes, 0.0)
    return nodes


def home_names(key: str) -> list[str]:
    partition = xxhash.xxh3_64_intdigest(f"b\0{key}".encode()) >> 60
    return [NAMES[partition % 4], NAMES[(partition + 1) % 4]]


def test_a_write_goes_to_the_first_home_replica_and_a_read_to_each() -> None:
    nodes = cluster()
    for key in map(str, range(50)):
        homes = home_names(key)
        writes = {nodes.pick(("b", key), is_write=True, tried=(), now=0).name for _ in range(8)}
        reads = {nodes.pick(("b", key), is_write=False, tried=(), now=0).name for _ in range(8)}
        assert writes == {homes[0]}
        assert reads == set(homes)


def test_a_retry_goes_to_the_next_home_replica_and_then_to_others() -> None:
    nodes, tried = cluster(), list[Node]()
    for _ in range(4):
        tried.append(nodes.pick(("b", "7"), is_write=True, tried=tried, now=0))
    names = [node.name for node in tried]
    assert names[:2] == home_names("7")
    assert sorted(map(str, names)) == list(NAMES)


def test_a_home_replica_that_is_down_is_avoided() -> None:
    nodes = cluster()
    first = nodes.pick(("b", "7"), is_write=True, tried=(), now=0)
    nodes.failed(first, 0)
    assert nodes.pick(("b", "7"), is_write=True, tried=(), now=0).name == home_names("7")[1]
    nodes.answered(first)
    assert nodes.pick(("b", "7"), is_write=True, tried=(), now=0) is first


def test_without_a_key_all_nodes_take_turns() -> None:
    nodes = cluster()
    picked = [nodes.pick(None, is_write=False, tried=(), now=0).name for _ in range(8)]
    assert sorted(map(str, picked[:4])) == sorted(map(str, picked[4:])) == list(NAMES)


def test_when_all_are_down_the_given_urls_are_tried_too() -> None:
    nodes = Nodes(["http://seed:1"])
    nodes.discovered({"n1": "10.0.0.1:1"}, None, 0.0)
    found = nodes.pick(None, is_write=False, tried=(), now=0)
    assert found.url == "http://10.0.0.1:1"
    nodes.failed(found, 0)
    assert nodes.pick(None, is_write=False, tried=(found,), now=0).url == "http://seed:1"


@pytest.mark.parametrize(
    "address", ["0.0.0.0:7401", "[::]:7401", "evil/path", "a b:1", "x:y", "user@host:1", "", "h:99999"]
)
def test_addresses_that_are_none_are_not_taken(address: str) -> None:
    nodes = Nodes(["http://seed:1"])
    nodes.discovered({"n1": address}, None, 0.0)
    assert [node.url for node in nodes.all()] == ["http://seed:1"]


def test_nodes_behind_a_path_or_https_keep_to_it() -> None:
    behind = Nodes(["http://gateway/quorate"])
    behind.discovered({"n1": "10.0.0.1:1"}, None, 0.0)
    assert [node.url for node in behind.all()] == ["http://gateway/quorate"]
    secure = Nodes(["https://seed:1"])
    secure.discovered({"n1": "10.0.0.1:1"}, None, 0.0)
    assert [node.url for node in secure.all()] == ["https://10.0.0.1:1"], "a token stays encrypted"


def test_one_caller_looks_the_nodes_up() -> None:
    nodes = Nodes(["http://seed:1"])
    assert [nodes.claim_refresh(5.0) for _ in range(3)] == [True, False, False]
    nodes.discovered({"n1": "10.0.0.1:1"}, None, 5.0)
    assert not nodes.claim_refresh(20.0)
    assert nodes.claim_refresh(40.0)


def test_a_later_epoch_is_a_reason_to_look_once_and_soon() -> None:
    nodes = Nodes(["http://seed:1"], random.Random(1))
    assert nodes.claim_refresh(5.0)
    nodes.heard(4, 5.0)
    nodes.discovered({"n1": "10.0.0.1:1"}, None, 5.0, 4)
    for epoch in (None, 3, 4):
        nodes.heard(epoch, 6.0)
    assert not nodes.claim_refresh(30.0), "nothing new"
    for _ in range(100):
        nodes.heard(5, 30.0)
    assert nodes.epoch == 5
    assert not nodes.claim_refresh(31.0), "not at once"
    assert [nodes.claim_refresh(32.0) for _ in range(2)] == [True, False]
    nodes.heard(6, 32.0)
    assert not nodes.claim_refresh(34.9), "a look-up that did not end is repeated later"


def test_clients_do_not_look_together() -> None:
    due = set()
    for seed in range(20):
        nodes = Nodes(["http://seed:1"], random.Random(seed))
        nodes.discovered({"n1": "10.0.0.1:1"}, None, 0.0, 4)
        nodes.heard(5, 10.0)
        due.add(next(at for at in range(200) if nodes.claim_refresh(10.0 + at / 100)))
    assert min(due) >= 100
    assert max(due) - min(due) > 50


@pytest.mark.parametrize(
    "urls",
    [
        "",
        ",",
        [],
        "ftp://x",
        "localhost:7401",
        "http://",
        "http://a:b",
        "http://a?x",
        "http://u@a",
        "http://[x",
    ],
)
def test_urls_that_are_none_are_refused(urls: Any) -> None:
    with pytest.raises(InvalidArgument):
        parse_urls(urls)


def test_urls_are_given_with_commas_or_as_a_list() -> None:
    wanted = ["http://a:1", "https://b"]
    assert parse_urls("http://a:1/, https://b,http://a:1") == wanted
    assert parse_urls(wanted) == wanted
