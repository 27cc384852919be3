"""The nodes a client knows, which of them to ask next, and what each did lately. No I/O."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from .errors import InvalidArgument
from .parse import Homes

try:
    import xxhash
except ImportError:  # without it requests are spread over all nodes
    xxhash = None  # type: ignore[assignment]

DOWN_S = 0.25
"""How long a node is avoided after the first failure; doubled by each further one."""
DOWN_S_MAX = 15.0
REFRESH_S = 30.0
"""How often the nodes are looked up again."""
REFRESH_FAILED_S = 3.0
"""How soon after a failed look-up."""
REFRESH_SOON_S = 1.0
"""How soon, at the least, after a node failed or told of a change; at most twice that, by chance, so that the
clients of a cluster do not look it up together."""
NODES_MAX = 1000


@dataclass
class Node:
    """One node, as this client sees it."""

    url: str
    name: str | None = None
    """Known once it was discovered."""
    failures: int = 0
    down_until: float = 0.0
    """Until then it is asked only if no other is left (monotonic seconds)."""
    busy_until: float = 0.0
    """Until when it asked to be left alone."""

    def is_good(self, now: float) -> bool:
        """Whether nothing speaks against asking it."""
        return now >= self.down_until and now >= self.busy_until


def base_url(url: str) -> str:
    """Check a node's URL and return it without a slash at its end."""
    try:
        parts = urlsplit(url.strip())
        has_port = parts.port is None or parts.port > 0
    except ValueError as error:
        raise InvalidArgument(f"url {url!r}: {error}") from error
    is_clean = not any(c.isspace() or not c.isprintable() or c in '\\<>"' for c in parts.netloc + parts.path)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not has_port or not is_clean:
        raise InvalidArgument(f"url {url!r}: must be like http://host:port")
    if parts.query or parts.fragment or parts.username is not None:
        raise InvalidArgument(f"url {url!r}: must be without a user, a query and a fragment")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def parse_urls(urls: str | Iterable[str]) -> list[str]:
    """Return the URLs of nodes, given with commas or as a list; at least one."""
    listed = urls.split(",") if isinstance(urls, str) else list(urls)
    checked = list(dict.fromkeys(base_url(url) for url in listed if url.strip()))
    if not checked:
        raise InvalidArgument("urls: at least one is needed")
    return checked


class Nodes:
    """The nodes of one client. May be used from several threads."""

    def __init__(self, urls: Sequence[str], rng: random.Random | None = None) -> None:
        self._lock = threading.Lock()
        self._rng = rng or random.Random()  # noqa: S311 (spreads load, keeps no secret)
        self._seeds = [Node(url) for url in urls]
        self._found: list[Node] = []
        self._homes: Homes | None = None
        self._refresh_at = 0.0
        self._epoch = 0
        self._next = self._rng.randrange(len(urls))

    def all(self) -> list[Node]:
        """Return the nodes discovered; before that, those the client was given."""
        with self._lock:
            return list(self._found or self._seeds)

    def claim_refresh(self, now: float) -> bool:
        """Whether it is time to look the nodes up. Only one caller is told so."""
        with self._lock:
            due = now >= self._refresh_at
            if due:
                self._refresh_at = now + REFRESH_FAILED_S
            return due

    def expire(self) -> None:
        """Make the next operation look the nodes up."""
        with self._lock:
            self._refresh_at = 0.0

    @property
    def epoch(self) -> int:
        """The highest epoch of the layout that was heard of since the last look-up; 0 before the first."""
        with self._lock:
            return self._epoch

    def heard(self, epoch: int | None, now: float) -> None:
        """Record which epoch a node follows: a later one than is known is a reason to look the nodes up."""
        with self._lock:
            if epoch is None or epoch <= self._epoch:
                return
            if self._epoch > 0:  # before the first look-up nothing is known, and that is due anyway
                self._look_soon(now)
            self._epoch = epoch

    def _look_soon(self, now: float) -> None:
        """Look the nodes up soon. Drawn once: of many draws the shortest would count."""
        if self._refresh_at > now + REFRESH_FAILED_S:
            self._refresh_at = now + self._rng.uniform(REFRESH_SOON_S, 2 * REFRESH_SOON_S)

    def discovered(self, found: dict[str, str], homes: Homes | None, now: float, epoch: int = 0) -> None:
        """Take over what a look-up found: client addresses by node name, and the epoch of the layout."""
        with self._lock:
            self._epoch = epoch
            known = {node.url: node for node in (*self._seeds, *self._found)}
            nodes = []
            for name, address in sorted(found.items())[:NODES_MAX]:
                url = self._url_of(address)
                if url is not None:
                    node = known.get(url) or Node(url)
                    node.name = name
                    nodes.append(node)
            if nodes:
                self._found = nodes
                self._homes = homes
                self._refresh_at = now + REFRESH_S

    def _url_of(self, address: str) -> str | None:
        """Return the URL of an advertised address: by the scheme of the URL that the client was given."""
        seed = urlsplit(self._seeds[0].url)
        if address.startswith(("0.0.0.0:", "[::]:")) or "/" in address or seed.path:
            return None  # no address of a node, or nodes that are behind something
        try:
            return base_url(f"{seed.scheme}://{address}")
        except InvalidArgument:
            return None

    def pick(
        self, place: tuple[str, str] | None, *, is_write: bool, tried: Sequence[Node], now: float
    ) -> Node:
        """Return the node to ask next.

        In order of weight: not known to be down or busy, not tried in this operation, a home replica of
        the key (for a write the first, which would coordinate it), and in turn.
        """
        with self._lock:
            self._next += 1
            nodes = self._found or self._seeds
            if self._found and not any(node.is_good(now) for node in nodes):
                nodes = [*nodes, *(seed for seed in self._seeds if seed not in nodes)]
            homes = self._homes_of(place)
            turn, count = self._next, len(nodes)

            def weight(item: tuple[int, Node]) -> tuple[float, int, int, int]:
                index, node = item
                rank = homes.index(node.name) if node.name in homes else len(homes)
                if not is_write:
                    rank = int(rank == len(homes))
                until = max(node.down_until, node.busy_until)
                avoided = 0.0 if until <= now else until
                return (avoided, sum(it is node for it in tried), rank, (index - turn) % count)

            return min(enumerate(nodes), key=weight)[1]

    def _homes_of(self, place: tuple[str, str] | None) -> tuple[str, ...]:
        if xxhash is None or self._homes is None or place is None:
            return ()
        bucket, key = place
        hashed = xxhash.xxh3_64_intdigest(b"\0".join((bucket.encode(), key.encode())))
        return self._homes.of(hashed >> (64 - self._homes.bits))

    def answered(self, node: Node) -> None:
        """Record that a node answered."""
        with self._lock:
            node.failures, node.down_until = 0, 0.0

    def failed(self, node: Node, now: float) -> None:
        """Record that a node could not be reached or did not answer: avoid it, longer each time."""
        with self._lock:
            node.failures = min(node.failures + 1, 30)
            wait_s = min(DOWN_S * 2.0 ** (node.failures - 1), DOWN_S_MAX)
            node.down_until = now + wait_s * self._rng.uniform(0.75, 1.25)
            self._look_soon(now)

    def busy(self, node: Node, until: float) -> None:
        """Record that a node asked to be left alone."""
        with self._lock:
            node.busy_until = until


def can_route() -> bool:
    """Whether the hash of keys is there (the extra `quorate[routing]`)."""
    return xxhash is not None
