"""Both clients with a token and an authority, against a cluster that takes nothing else.

`scripts/test-sdk.sh` starts it: QUORATE_SECURE_URL is one of its nodes, QUORATE_SECURE_CA its authority, and
QUORATE_SECURE_TOKEN a token that may do everything.
"""

from __future__ import annotations

import os
import ssl

import anyio
import httpx
import pytest

import quorate

URL = os.environ.get("QUORATE_SECURE_URL", "")
CA = os.environ.get("QUORATE_SECURE_CA", "")
TOKEN = os.environ.get("QUORATE_SECURE_TOKEN", "")

pytestmark = pytest.mark.skipif(not URL, reason="QUORATE_SECURE_URL names no cluster")


@pytest.fixture(scope="module")
def authority() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=CA)


def test_a_token_and_an_authority_let_a_client_in(authority: ssl.SSLContext) -> None:
    with quorate.Client(URL, token=TOKEN, verify=authority) as client:
        for number in range(20):  # on all nodes, which are found through the first
            client.put("secure", f"k{number}", f"v{number}")
        read = client.get("secure", "k7")
        assert isinstance(read, quorate.Value)
        assert read.text == "v7"
        urls = [node.url for node in client.nodes()]
        assert len(urls) == 3
        assert all(url is not None and url.startswith("https://") for url in urls)


def test_the_same_without_blocking(authority: ssl.SSLContext) -> None:
    async def work() -> None:
        async with quorate.AsyncClient(URL, token=TOKEN, verify=authority) as client:
            await client.put("secure", "async", "one")
            read = await client.get("secure", "async")
            assert isinstance(read, quorate.Value)
            assert read.text == "one"

    anyio.run(work)


@pytest.mark.parametrize("token", [None, "qk_aaaaaaaaaaaaaaaa." + "A" * 43, "x"])
def test_without_a_good_token_there_is_no_way_in(authority: ssl.SSLContext, token: str | None) -> None:
    with (
        quorate.Client(URL, token=token, verify=authority) as client,
        pytest.raises(quorate.BadRequest) as refused,
    ):
        client.get("secure", "k1")
    assert refused.value.status == 401
    assert refused.value.problem == "unauthenticated"


def test_a_token_does_only_what_it_may(authority: ssl.SSLContext) -> None:
    scopes = [{"actions": ["read"], "buckets": ["secure"], "prefix": "mine/"}]
    made = httpx.post(
        f"{URL}/auth/tokens",
        headers={"Authorization": f"Bearer {TOKEN}"},
        json={"name": "sdk", "scopes": scopes, "expires_in_ms": 600_000},
        verify=authority,
    )
    assert made.status_code == 201, made.text
    with quorate.Client(URL, token=made.json()["token"], verify=authority, discover=False) as client:
        assert isinstance(client.get("secure", "mine/1"), quorate.Absent)
        for refused in (
            lambda: client.get("secure", "yours/1"),
            lambda: client.put("secure", "mine/1", "x"),
        ):
            with pytest.raises(quorate.BadRequest) as error:
                refused()
            assert (error.value.status, error.value.problem) == (403, "forbidden")


def test_a_node_that_is_not_believed_gets_no_token() -> None:
    with (
        quorate.Client(URL, token=TOKEN, deadline_s=3, attempts_max=1) as client,
        pytest.raises(quorate.Unreachable, match=r"(?i)certificate"),
    ):
        client.get("secure", "k1")
    plain = URL.replace("https://", "http://")
    with quorate.Client(plain, discover=False) as client, pytest.raises(quorate.BadRequest) as refused:
        client.get("secure", "k1")
    assert (refused.value.status, refused.value.problem) == (426, "tls_required")
