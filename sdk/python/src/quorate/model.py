"""What operations take and give: reads that carry their context, and the answers to writes."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeAlias, TypedDict

from .index import Index, IndexEntries

if TYPE_CHECKING:
    from typing_extensions import TypeVar, Unpack

    from .typed import Applied, Typed

Source: TypeAlias = (
    "bytes | bytearray | memoryview | str | Iterable[bytes] | AsyncIterable[bytes] | Callable[[], Any]"
)
"""A value to send: bytes; text; pieces, sent once; or a function that returns pieces for each attempt."""
Count: TypeAlias = "int | Literal['one', 'quorum', 'all']"
"""For R and W."""
Lifetime: TypeAlias = "int | float | timedelta | Literal['never']"
"""How long a value lives: seconds, of which a part counts as a whole one; or `never`."""


class WaitOptions(TypedDict, total=False):
    """Options of a read that waits. What is not given follows the bucket."""

    r: Count | None
    """How many replicas must answer."""
    n: int | None
    """How many home replicas are asked; at most the bucket's n."""
    sloppy: bool | None
    """Whether fallbacks count."""
    timeout_ms: int | None
    """How long the server may take, apart from waiting."""


class GetOptions(WaitOptions, total=False):
    """Options of a read. What is not given follows the bucket."""

    explain: bool
    """Whether the server keeps a trace of the request: see `Client.explanation`."""


class _WriteOptions(TypedDict, total=False):
    """Options of every write. What is not given follows the bucket."""

    w: Count | None
    """How many nodes must have stored the write."""
    n: int | None
    sloppy: bool | None
    timeout_ms: int | None
    explain: bool
    idempotency_key: str | None
    """1 to 255 visible ASCII characters; a random one if not given. The same for the same write only."""


class KeepOptions(_WriteOptions, total=False):
    """Options of a write of a value. What is not given follows the bucket."""

    expires_in: Lifetime | None
    """After what time the value expires."""


class DeleteOptions(_WriteOptions, total=False):
    """Options of a delete. Conditions are checked by a read at the coordinator: they are advisory."""

    if_present: bool
    """Only if there is a value."""
    if_match: str | Value[Any] | Siblings[Any] | Written | None
    """Only if what is stored is what this read or write showed; or an entity tag."""


class PutOptions(DeleteOptions, total=False):
    """Options of a put."""

    if_absent: bool
    """Only if there is no value."""
    expires_in: Lifetime | None
    """After what time the value expires. If not given, as the bucket says."""
    content_type: str | None
    """If not given: `text/plain; charset=utf-8` for text, else `application/octet-stream`."""
    content_encoding: str | None
    """Stored and given back; the client neither encodes nor decodes."""
    meta: Mapping[str, str] | None
    """Metadata; names are kept in lower case."""
    index: Index | None
    """Entries under which the key is found: `{"email_s": "a@x", "age_i": [42]}`; see `Client.index`."""


@dataclass(frozen=True)
class Written:
    """The answer to a write that W nodes have acknowledged."""

    bucket: str
    key: str
    context: str | None
    """For the next write; only if the write left exactly one sibling. Else read the key again."""
    etag: str | None
    """For `if_match`; only if the write left exactly one sibling."""
    siblings: int | None
    """How many siblings the key has now: from 2 on there is a conflict. `None` if not told."""
    acks: int | None
    """How many nodes have acknowledged."""
    hints: int | None
    """How many of those keep the write as a hint for a node that is down."""
    explain_id: str | None = None
    """The id of the request's explanation, if asked for."""
    request_id: str | None = None


if TYPE_CHECKING:
    W_co = TypeVar("W_co", default=Written, covariant=True)
else:
    from typing import TypeVar

    W_co = TypeVar("W_co", covariant=True)


class Delete(Enum):
    """What a resolver or a change returns to delete the key."""

    DELETE = "delete"


DELETE = Delete.DELETE


@dataclass(frozen=True)
class NewValue:
    """A value to write, with its content type, metadata and index entries."""

    value: bytes | str
    content_type: str | None = None
    meta: Mapping[str, str] | None = None
    expires_in: Lifetime | None = None
    """In place of the option of the write."""
    index: Index | None = None


@dataclass(frozen=True)
class Sibling:
    """One of several concurrent values of a key, or a concurrent delete."""

    dot: str
    """The name of the write."""
    value: bytes
    """Empty for a delete."""
    deleted: bool = False
    content_type: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)
    content_encoding: str | None = None
    content_language: str | None = None
    content_disposition: str | None = None
    writer: str | None = None
    """The node that took the write."""
    written_at: str | None = None
    """RFC 3339, by the clock of that node."""
    expires_at: datetime | None = None
    """When it expires, or expired; `None` if it does not."""
    index: IndexEntries = field(default_factory=dict)
    """Its entries in indexes."""

    @property
    def text(self) -> str:
        """The value as UTF-8 text; raises `UnicodeDecodeError` if it is none."""
        return self.value.decode()


class Writes(Protocol[W_co]):
    """The client that a read came from, as far as a read needs it."""

    def put(  # noqa: D102
        self,
        bucket: str,
        key: str,
        value: Source,
        *,
        context: ContextLike | None = None,
        **options: Unpack[PutOptions],
    ) -> W_co: ...

    def delete(  # noqa: D102
        self, bucket: str, key: str, *, context: ContextLike | None = None, **options: Unpack[DeleteOptions]
    ) -> W_co: ...

    def keep(  # noqa: D102
        self, siblings: Siblings[Any], sibling: Sibling, **options: Unpack[KeepOptions]
    ) -> W_co: ...


@dataclass(frozen=True)
class _Read(Generic[W_co]):
    """What every read of a key has."""

    bucket: str
    key: str
    context: str | None
    """What this read saw, for the next write. `None` only if the key was never written."""
    etag: str | None
    request_id: str | None
    explain_id: str | None
    """The id of the request's explanation, if asked for."""
    _client: Writes[W_co] = field(repr=False, compare=False)

    def put(self, value: Source, **options: Unpack[PutOptions]) -> W_co:
        """Write a value that replaces what this read saw; options as for `Client.put`."""
        return self._client.put(self.bucket, self.key, value, context=self._seen(), **options)

    def delete(self, **options: Unpack[DeleteOptions]) -> W_co:
        """Delete what this read saw; options as for `Client.delete`."""
        return self._client.delete(self.bucket, self.key, context=self._seen(), **options)

    def _seen(self) -> str | None:
        return self.context


@dataclass(frozen=True)
class Value(_Read[W_co]):
    """The one value of a key."""

    value: bytes = field(kw_only=True)
    content_type: str = field(kw_only=True)
    meta: Mapping[str, str] = field(kw_only=True)
    content_encoding: str | None = field(kw_only=True, default=None)
    """As stored; the value is never decoded."""
    content_language: str | None = field(kw_only=True, default=None)
    content_disposition: str | None = field(kw_only=True, default=None)
    last_modified: str | None = field(kw_only=True, default=None)
    expires_at: datetime | None = field(kw_only=True, default=None)
    """When it expires, in UTC; `None` if it does not."""
    index: IndexEntries = field(kw_only=True, default_factory=dict)
    """Its entries in indexes."""

    @property
    def text(self) -> str:
        """The value as UTF-8 text; raises `UnicodeDecodeError` if it is none."""
        return self.value.decode()


@dataclass(frozen=True)
class LargeValue:
    """In a feed: what a key has now is longer than 64 KiB and was left out. Read the key.

    It has no context: what was not shown cannot be replaced before it is read.
    """

    bucket: str
    key: str
    size: int
    """How many bytes it has; of a conflict, all siblings together."""
    siblings: int = 1
    """How many siblings there are: from 2 on there is a conflict."""
    etag: str | None = None
    content_type: str | None = None
    """`None` for a conflict."""
    meta: Mapping[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None
    """When it expires, in UTC; `None` if it does not."""
    index: IndexEntries = field(default_factory=dict)
    """Its entries in indexes."""


Resolution: TypeAlias = "bytes | str | NewValue | Sibling | Delete"
"""What a resolver returns: a value, or one of the siblings to keep as it is, or `DELETE`."""
Change: TypeAlias = "bytes | str | NewValue | Sibling | Delete | None"
"""What a change returns: as a resolver; `None` leaves the key as it is."""


@dataclass(frozen=True)
class Siblings(_Read[W_co]):
    """A conflict: several concurrent values, of which some may be deletes."""

    siblings: tuple[Sibling, ...] = field(kw_only=True)

    @property
    def live(self) -> tuple[Sibling, ...]:
        """The siblings that are values."""
        return tuple(sibling for sibling in self.siblings if not sibling.deleted)

    def __iter__(self) -> Iterator[Sibling]:
        return iter(self.siblings)

    def __len__(self) -> int:
        return len(self.siblings)

    def resolve(
        self, resolver: Callable[[tuple[Sibling, ...]], Resolution], **options: Unpack[KeepOptions]
    ) -> W_co:
        """Let `resolver` decide on the siblings, deletes included, and write its decision."""
        decision = resolver(self.siblings)
        if isinstance(decision, Sibling):
            return self.keep(decision, **options)
        if isinstance(decision, Delete):
            return self.delete(**_of_delete(options))
        if isinstance(decision, NewValue):
            if decision.expires_in is not None:
                options["expires_in"] = decision.expires_in
            content_type, meta, index = decision.content_type, decision.meta, decision.index
            return self.put(decision.value, content_type=content_type, meta=meta, index=index, **options)
        return self.put(decision, **options)

    def keep(self, sibling: Sibling, **options: Unpack[KeepOptions]) -> W_co:
        """Keep one sibling as it is, with its type, metadata and index entries; the others are superseded."""
        if sibling.deleted:
            return self.delete(**_of_delete(options))
        return self._client.keep(self, sibling, **options)


def _of_delete(options: KeepOptions) -> DeleteOptions:
    """Return the options for a delete: nothing is left that could expire."""
    return {name: value for name, value in options.items() if name != "expires_in"}  # type: ignore[return-value]


@dataclass(frozen=True)
class Absent(_Read[W_co]):
    """No value: the key was never written, or was deleted, or its value expired."""

    deleted: bool = field(kw_only=True)
    """Whether there was one."""
    expired: bool = field(kw_only=True, default=False)
    """Whether it is gone because it expired."""


Read: TypeAlias = "Value[W_co] | Siblings[W_co] | Absent[W_co]"
ContextLike: TypeAlias = (
    "str | Value[Any] | Siblings[Any] | Absent[Any] | Written | Typed[Any] | Applied[Any]"
)
"""What can be given as a context: a read, a write, or the context's text."""


@dataclass(frozen=True)
class KeyPage:
    """One page of a listing."""

    keys: tuple[str, ...]
    cursor: str | None
    """Where the next page starts; `None` after the last."""
    complete: bool
    """False if too few replicas of some part answered, so that keys may be missing."""


FeedChange: TypeAlias = "Value[W_co] | Siblings[W_co] | Absent[W_co] | LargeValue | Typed[Any]"
"""What a key is now: what a read gives, with its context (`Typed` in a bucket with a type), or its size."""


@dataclass(frozen=True)
class FeedPage(Generic[W_co]):
    """One page of a feed: what changed keys are now. Iterate over it for its changes."""

    changes: tuple[Value[W_co] | Siblings[W_co] | Absent[W_co] | LargeValue | Typed[Any], ...]
    """One for each key, in no order that means anything."""
    cursor: str
    """Where the next page starts, at any node. Store it after the changes have been processed."""
    complete: bool
    """Whether all writes acknowledged before the request are delivered. If not, a later page has them."""

    def __iter__(self) -> Iterator[Value[W_co] | Siblings[W_co] | Absent[W_co] | LargeValue | Typed[Any]]:
        return iter(self.changes)

    def __len__(self) -> int:
        return len(self.changes)


@dataclass(frozen=True)
class BucketProperties:
    """What holds for a bucket; what was not set follows the cluster's defaults."""

    n: int
    r: int | str
    w: int | str
    conflicts: str
    """`siblings` or `lww`; `merged` if the bucket has a type."""
    sloppy: bool
    type: str = "value"
    """`value`, or the type of its values: `counter`, `set`, `flag`, `map`, `register_lww`, `hll`."""
    expires_in_s: int | None = None
    """After how many seconds values expire, unless a write says otherwise; `None`: they do not."""
    feed_retention_s: int | None = None
    """For how many seconds changes can be read in the bucket's feed, 60 to 2,592,000; `None`: no feed."""
