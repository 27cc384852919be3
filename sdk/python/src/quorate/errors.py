"""Everything that can go wrong, one class each; `QuorateError` is the base of all.

An error of a write says in `outcome` what the write may have left behind, over all attempts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["not_applied", "partial", "unknown"]
"""What a failed write left behind: nothing; a copy that may still spread; or nobody knows."""


@dataclass(frozen=True)
class Facts:
    """What is known about an error. All of it may be missing, as the answer may come from anywhere."""

    problem: str | None = None
    """The problem's name, such as `bad_parameter`: the end of its `type`."""
    status: int | None = None
    """The HTTP status."""
    title: str | None = None
    detail: str | None = None
    """What was wrong with this request."""
    members: Mapping[str, Any] = field(default_factory=dict)
    """All members of the problem, as sent."""
    retry_after_s: float | None = None
    """How long the server asked to wait, in seconds."""
    request_id: str | None = None
    """The request's id in the node's log."""


class QuorateError(Exception):
    """Any failure of this client."""

    def __init__(
        self,
        message: str,
        *,
        facts: Facts | None = None,
        outcome: Outcome | None = None,
        attempts: int = 0,
    ) -> None:
        super().__init__(message)
        self.facts = facts or Facts()
        self.outcome = outcome
        """For a write: what it may have left behind. `None` for everything else."""
        self.attempts = attempts
        """How many requests were sent for this operation."""

    @property
    def problem(self) -> str | None:
        """The name of the server's problem, such as `bad_parameter`; `None` if no problem was sent."""
        return self.facts.problem

    @property
    def status(self) -> int | None:
        """The HTTP status of the last answer, if there was one."""
        return self.facts.status

    @property
    def detail(self) -> str | None:
        """What the server said was wrong with this request."""
        return self.facts.detail

    @property
    def request_id(self) -> str | None:
        """The request's id in the node's log."""
        return self.facts.request_id

    @property
    def retry_after_s(self) -> float | None:
        """How long the server asked to wait, in seconds."""
        return self.facts.retry_after_s

    @property
    def parameter(self) -> str | None:
        """The query parameter that was wrong."""
        return self._text("parameter")

    @property
    def header(self) -> str | None:
        """The request header that was wrong."""
        return self._text("header")

    def _text(self, member: str) -> str | None:
        value = self.facts.members.get(member)
        return value if isinstance(value, str) else None


class InvalidArgument(QuorateError, ValueError):  # noqa: N818 (named as what the caller passed)
    """An argument that this client refuses; nothing was sent."""


class BadRequest(QuorateError):  # noqa: N818
    """The server refused the request as wrong: see `problem`, `detail`, `parameter`, `header`."""


class BadContext(BadRequest):
    """The context is damaged or belongs to another key or cluster: read the key again."""


class NotFound(QuorateError):  # noqa: N818
    """The route, sibling or other thing named does not exist (an absent key is no error)."""


class SiblingGone(QuorateError):  # noqa: N818
    """The sibling to keep was superseded: read again, decide again."""


class ConditionFailed(QuorateError):  # noqa: N818
    """`if_absent`, `if_present` or `if_match` does not hold: read again."""


class TooLarge(QuorateError):  # noqa: N818
    """The value is over the server's limit."""


class LimitReached(QuorateError):  # noqa: N818
    """The key has too many siblings, bytes or writers: read, resolve, write back with the context.

    A typed value has too many elements or bytes: remove some, or use several keys.
    """


class WrongType(QuorateError):  # noqa: N818
    """The bucket's values are of another type than asked for, or it has another type already."""


class BucketNotEmpty(QuorateError):  # noqa: N818
    """A bucket gets a type only while it has no keys."""


class ContextNeeded(QuorateError):  # noqa: N818
    """What removes needs the context of a read: read, and remove through what was read.

    Of a key that was never written there is nothing to remove.
    """


class ContextAhead(QuorateError):  # noqa: N818
    """The node did not find all that the context covers: read again, and use what that gives."""


class CounterFull(QuorateError):  # noqa: N818
    """The counter has counted so far that this increment does not fit: use another key."""


class NoFeed(QuorateError):  # noqa: N818
    """The bucket has no feed: set its property `feed_retention_s`. Changes are kept from then on."""


class CursorExpired(QuorateError):  # noqa: N818
    """Changes after this cursor are not kept any more, so that some were missed.

    List all keys (`Client.keys`, with the same prefix), read them, and drop what you have of keys that are
    not listed; then go on with `cursor`. It was made before that, so that nothing is missed in between.
    """

    @property
    def cursor(self) -> str:
        """Where to go on, once all keys have been read."""
        return self._text("cursor") or ""

    @property
    def resync(self) -> str | None:
        """Where the keys are listed, as the server says: `/keys/{bucket}`."""
        return self._text("resync")


class IdempotencyKeyReused(QuorateError):  # noqa: N818
    """The idempotency key was used for another request."""


class NoReadQuorum(QuorateError):  # noqa: N818
    """Fewer than R replicas answered."""


class NoQuorum(QuorateError):  # noqa: N818
    """Fewer than W replicas acknowledged the write, and nothing was stored."""


class PartialWrite(QuorateError):  # noqa: N818
    """The write was not acknowledged, but a copy is stored and may still spread."""


class UnknownOutcome(QuorateError):  # noqa: N818
    """Nobody can say whether the write was stored. Repeating it with the same key is safe."""


class Overloaded(QuorateError):  # noqa: N818
    """The node refuses work for now: see `retry_after_s`."""


class NotReady(QuorateError):  # noqa: N818
    """The node is starting, stopping, or not part of a formed cluster."""


class NoRoom(QuorateError):  # noqa: N818
    """A disk or a table of the server is full."""


class ServerError(QuorateError):
    """Any other failure of the server, or of something between."""


class ProtocolError(QuorateError):
    """An answer that no Quorate node gives: a wrong address, a proxy, or damage on the way."""


class Unreachable(QuorateError):  # noqa: N818
    """No node could be reached, or none sent a whole answer; no write was applied."""


class DeadlineExceeded(QuorateError):  # noqa: N818
    """No answer came in time; no write was applied."""


class IncompleteListing(QuorateError):  # noqa: N818
    """Too few replicas answered for some part of the listing."""


_BY_NAME: dict[str, type[QuorateError]] = {
    "bad_context": BadContext,
    "sibling_gone": SiblingGone,
    "condition_failed": ConditionFailed,
    "too_large": TooLarge,
    "too_many_siblings": LimitReached,
    "object_too_large": LimitReached,
    "clock_full": LimitReached,
    "wrong_type": WrongType,
    "bucket_not_empty": BucketNotEmpty,
    "context_needed": ContextNeeded,
    "context_ahead": ContextAhead,
    "counter_full": CounterFull,
    "no_feed": NoFeed,
    "cursor_expired": CursorExpired,
    "idempotency_key_reused": IdempotencyKeyReused,
    "no_read_quorum": NoReadQuorum,
    "no_quorum": NoQuorum,
    "overloaded": Overloaded,
    "hints_full": Overloaded,
    "not_ready": NotReady,
    "removed": NotReady,
    "not_formed": NotReady,
    "stopping": NotReady,
    "auth_stale": NotReady,
}
_BY_STATUS: dict[int, type[QuorateError]] = {
    429: Overloaded,
    507: NoRoom,
    412: ConditionFailed,
    413: TooLarge,
}


def class_of(facts: Facts) -> type[QuorateError]:
    """Return the class of an error answer: by the problem's name, else by its status."""
    status = facts.status or 0
    if facts.problem in _BY_NAME:
        return _BY_NAME[facts.problem]
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status == 404:
        return NotFound if facts.problem else ProtocolError
    if 400 <= status < 500:
        return BadRequest
    return ServerError if 500 <= status < 600 else ProtocolError
