"""Typed values of the synchronous client: one class for each type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from . import parse_typed, wire
from .core import Core
from .model import ContextLike, Written
from .operation import Operation
from .parse_typed import Kind
from .typed import (
    Applied,
    ChangeOptions,
    Field,
    FlagRead,
    MapChange,
    MapRead,
    SetRead,
    Typed,
    TypedDeleteOptions,
    TypedGetOptions,
    increment,
    map_change,
    set_change,
    text,
    texts,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")
V = TypeVar("V")


class Run(Protocol):
    """Carries an operation out."""

    def __call__(self, operation: Operation[T]) -> T: ...  # noqa: D102


class _Handle:
    """A typed key."""

    def __init__(self, core: Core, run: Run, bucket: str, key: str) -> None:
        self._core = core
        self._run = run
        self.bucket = bucket
        self.key = key

    def _get(self, kind: Kind[V], options: TypedGetOptions) -> Typed[V]:
        return self._run(self._core.typed_get(self.bucket, self.key, kind, options))

    def _apply(
        self,
        kind: Kind[V],
        operation: dict[str, Any],
        options: ChangeOptions,
        context: ContextLike | None = None,
        *,
        once: bool = False,
    ) -> Applied[V]:
        place = (self.bucket, self.key)
        return self._run(self._core.change(place, kind, operation, options, context, once=once))

    def delete(self, *, context: ContextLike | None = None, **options: Unpack[TypedDeleteOptions]) -> Written:
        """Delete what `context` saw; without a context, what a read shows now. What others change stays."""
        request = wire.typed_delete(self.bucket, self.key, context, options)
        return self._run(self._core.write(request))


class Counter(_Handle):
    """A counter, of a bucket of type `counter`."""

    def get(self, **options: Unpack[TypedGetOptions]) -> Typed[int]:
        """Read the total; 0 if nothing was counted."""
        return self._get(parse_typed.COUNTER, options)

    def increment(
        self, by: int, *, at_most_once: bool = False, **options: Unpack[ChangeOptions]
    ) -> Applied[int]:
        """Add a number; a negative one subtracts.

        A retry has the key of the first attempt and counts once, through any node, while the cluster is
        whole. An attempt that was lost with the node that took it can still count beside its retry; with
        `at_most_once` it is never sent again once it may have arrived.
        """
        return self._apply(parse_typed.COUNTER, increment(by), options, once=at_most_once)


class Set(_Handle):
    """A set of texts, of a bucket of type `set`."""

    def get(self, **options: Unpack[TypedGetOptions]) -> SetRead[Applied[frozenset[str]]]:
        """Read the elements; remove them through what was read."""
        return SetRead.of(self._get(parse_typed.SET, options), self._after)

    def add(self, *elements: str, **options: Unpack[ChangeOptions]) -> Applied[frozenset[str]]:
        """Add elements. A remove that did not see this leaves them."""
        return self._apply(parse_typed.SET, set_change(elements, ()), options)

    def change(
        self,
        *,
        context: ContextLike,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        **options: Unpack[ChangeOptions],
    ) -> Applied[frozenset[str]]:
        """Add and remove, of what `context` saw. With a read at hand, use its `remove` or `change`."""
        return self._apply(parse_typed.SET, set_change(add, remove), options, context)

    def _after(
        self, read: Typed[Any], operation: dict[str, Any], options: ChangeOptions
    ) -> Applied[frozenset[str]]:
        return self._apply(parse_typed.SET, operation, options, read)


class Flag(_Handle):
    """A flag, of a bucket of type `flag`."""

    def get(self, **options: Unpack[TypedGetOptions]) -> FlagRead[Applied[bool]]:
        """Read it; switch it off through what was read."""
        return FlagRead.of(self._get(parse_typed.FLAG, options), self._after)

    def enable(self, **options: Unpack[ChangeOptions]) -> Applied[bool]:
        """Switch it on. A disabling that did not see this leaves it on."""
        return self._apply(parse_typed.FLAG, {"enable": True}, options)

    def disable(self, *, context: ContextLike, **options: Unpack[ChangeOptions]) -> Applied[bool]:
        """Switch off what `context` saw. With a read at hand, use its `disable`."""
        return self._apply(parse_typed.FLAG, {"enable": False}, options, context)

    def _after(self, read: Typed[Any], operation: dict[str, Any], options: ChangeOptions) -> Applied[bool]:
        return self._apply(parse_typed.FLAG, operation, options, read)


class Map(_Handle):
    """Named fields, each a register, a flag or a set, of a bucket of type `map`."""

    def get(self, **options: Unpack[TypedGetOptions]) -> MapRead[Applied[Mapping[str, Field]]]:
        """Read the fields; remove them through what was read."""
        return MapRead.of(self._get(parse_typed.MAP, options), self._after)

    def update(
        self, *, context: ContextLike | None = None, **change: Unpack[MapChange]
    ) -> Applied[Mapping[str, Field]]:
        """Change fields. What removes needs a context: with a read at hand, use its `update`."""
        operation, options = map_change(change)
        return self._apply(parse_typed.MAP, operation, options, context)

    def _after(
        self, read: Typed[Any], operation: dict[str, Any], options: ChangeOptions
    ) -> Applied[Mapping[str, Field]]:
        return self._apply(parse_typed.MAP, operation, options, read)


class Register(_Handle):
    """A text, of concurrent ones the last, of a bucket of type `register_lww`."""

    def get(self, **options: Unpack[TypedGetOptions]) -> Typed[str | None]:
        """Read the text; `None` if none was assigned."""
        return self._get(parse_typed.REGISTER, options)

    def assign(self, value: str, **options: Unpack[ChangeOptions]) -> Applied[str | None]:
        """Replace the text, whatever it is. Of concurrent ones the last by the nodes' clocks stays."""
        return self._apply(parse_typed.REGISTER, {"assign": text("value", value)}, options)


class Estimate(_Handle):
    """About how many different texts were added (HyperLogLog), of a bucket of type `hll`."""

    def get(self, **options: Unpack[TypedGetOptions]) -> Typed[int]:
        """Read the estimate."""
        return self._get(parse_typed.ESTIMATE, options)

    def add(self, *elements: str, **options: Unpack[ChangeOptions]) -> Applied[int]:
        """Add texts. One that was added before changes nothing."""
        return self._apply(parse_typed.ESTIMATE, {"add": texts("elements", elements)}, options)
