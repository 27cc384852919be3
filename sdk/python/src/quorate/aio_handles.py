"""Typed values of the asynchronous client: as those of the synchronous one, with `await`."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

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

    def __call__(self, operation: Operation[T]) -> Coroutine[Any, Any, T]: ...  # noqa: D102


_Elements: TypeAlias = Coroutine[Any, Any, Applied[frozenset[str]]]
_Flag: TypeAlias = Coroutine[Any, Any, Applied[bool]]
_Fields: TypeAlias = Coroutine[Any, Any, Applied[Mapping[str, Field]]]


class _Handle:
    """A typed key."""

    def __init__(self, core: Core, run: Run, bucket: str, key: str) -> None:
        self._core = core
        self._run = run
        self.bucket = bucket
        self.key = key

    async def _get(self, kind: Kind[V], options: TypedGetOptions) -> Typed[V]:
        return await self._run(self._core.typed_get(self.bucket, self.key, kind, options))

    async def _apply(
        self,
        kind: Kind[V],
        operation: dict[str, Any],
        options: ChangeOptions,
        context: ContextLike | None = None,
        *,
        once: bool = False,
    ) -> Applied[V]:
        place = (self.bucket, self.key)
        return await self._run(self._core.change(place, kind, operation, options, context, once=once))

    async def delete(
        self, *, context: ContextLike | None = None, **options: Unpack[TypedDeleteOptions]
    ) -> Written:
        """Delete what `context` saw; without a context, what a read shows now. What others change stays."""
        request = wire.typed_delete(self.bucket, self.key, context, options)
        return await self._run(self._core.write(request))


class AsyncCounter(_Handle):
    """A counter, of a bucket of type `counter`."""

    async def get(self, **options: Unpack[TypedGetOptions]) -> Typed[int]:
        """Read the total; 0 if nothing was counted."""
        return await self._get(parse_typed.COUNTER, options)

    async def increment(
        self, by: int, *, at_most_once: bool = False, **options: Unpack[ChangeOptions]
    ) -> Applied[int]:
        """Add a number; a negative one subtracts.

        A retry has the key of the first attempt and counts once, through any node, while the cluster is
        whole. An attempt that was lost with the node that took it can still count beside its retry; with
        `at_most_once` it is never sent again once it may have arrived.
        """
        return await self._apply(parse_typed.COUNTER, increment(by), options, once=at_most_once)


class AsyncSet(_Handle):
    """A set of texts, of a bucket of type `set`."""

    async def get(self, **options: Unpack[TypedGetOptions]) -> SetRead[_Elements]:
        """Read the elements; remove them through what was read."""
        return SetRead.of(await self._get(parse_typed.SET, options), self._after)

    async def add(self, *elements: str, **options: Unpack[ChangeOptions]) -> Applied[frozenset[str]]:
        """Add elements. A remove that did not see this leaves them."""
        return await self._apply(parse_typed.SET, set_change(elements, ()), options)

    async def change(
        self,
        *,
        context: ContextLike,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        **options: Unpack[ChangeOptions],
    ) -> Applied[frozenset[str]]:
        """Add and remove, of what `context` saw. With a read at hand, use its `remove` or `change`."""
        return await self._apply(parse_typed.SET, set_change(add, remove), options, context)

    async def _after(
        self, read: Typed[Any], operation: dict[str, Any], options: ChangeOptions
    ) -> Applied[frozenset[str]]:
        return await self._apply(parse_typed.SET, operation, options, read)


class AsyncFlag(_Handle):
    """A flag, of a bucket of type `flag`."""

    async def get(self, **options: Unpack[TypedGetOptions]) -> FlagRead[_Flag]:
        """Read it; switch it off through what was read."""
        return FlagRead.of(await self._get(parse_typed.FLAG, options), self._after)

    async def enable(self, **options: Unpack[ChangeOptions]) -> Applied[bool]:
        """Switch it on. A disabling that did not see this leaves it on."""
        return await self._apply(parse_typed.FLAG, {"enable": True}, options)

    async def disable(self, *, context: ContextLike, **options: Unpack[ChangeOptions]) -> Applied[bool]:
        """Switch off what `context` saw. With a read at hand, use its `disable`."""
        return await self._apply(parse_typed.FLAG, {"enable": False}, options, context)

    async def _after(
        self, read: Typed[Any], operation: dict[str, Any], options: ChangeOptions
    ) -> Applied[bool]:
        return await self._apply(parse_typed.FLAG, operation, options, read)


class AsyncMap(_Handle):
    """Named fields, each a register, a flag or a set, of a bucket of type `map`."""

    async def get(self, **options: Unpack[TypedGetOptions]) -> MapRead[_Fields]:
        """Read the fields; remove them through what was read."""
        return MapRead.of(await self._get(parse_typed.MAP, options), self._after)

    async def update(
        self, *, context: ContextLike | None = None, **change: Unpack[MapChange]
    ) -> Applied[Mapping[str, Field]]:
        """Change fields. What removes needs a context: with a read at hand, use its `update`."""
        operation, options = map_change(change)
        return await self._apply(parse_typed.MAP, operation, options, context)

    async def _after(
        self, read: Typed[Any], operation: dict[str, Any], options: ChangeOptions
    ) -> Applied[Mapping[str, Field]]:
        return await self._apply(parse_typed.MAP, operation, options, read)


class AsyncRegister(_Handle):
    """A text, of concurrent ones the last, of a bucket of type `register_lww`."""

    async def get(self, **options: Unpack[TypedGetOptions]) -> Typed[str | None]:
        """Read the text; `None` if none was assigned."""
        return await self._get(parse_typed.REGISTER, options)

    async def assign(self, value: str, **options: Unpack[ChangeOptions]) -> Applied[str | None]:
        """Replace the text, whatever it is. Of concurrent ones the last by the nodes' clocks stays."""
        return await self._apply(parse_typed.REGISTER, {"assign": text("value", value)}, options)


class AsyncEstimate(_Handle):
    """About how many different texts were added (HyperLogLog), of a bucket of type `hll`."""

    async def get(self, **options: Unpack[TypedGetOptions]) -> Typed[int]:
        """Read the estimate."""
        return await self._get(parse_typed.ESTIMATE, options)

    async def add(self, *elements: str, **options: Unpack[ChangeOptions]) -> Applied[int]:
        """Add texts. One that was added before changes nothing."""
        return await self._apply(parse_typed.ESTIMATE, {"add": texts("elements", elements)}, options)
