"""Values that merge by themselves: what reads and changes of them give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypedDict, TypeVar

from .errors import InvalidArgument

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .model import Count

V_co = TypeVar("V_co", covariant=True)
A_co = TypeVar("A_co", covariant=True)


class TypedGetOptions(TypedDict, total=False):
    """Options of a read of a typed value. What is not given follows the bucket."""

    r: Count | None
    """How many replicas must answer."""
    n: int | None
    """How many home replicas are asked; at most the bucket's n."""
    sloppy: bool | None
    """Whether fallbacks count."""
    timeout_ms: int | None
    """How long the server may take."""


class TypedDeleteOptions(TypedDict, total=False):
    """Options of a delete of a typed value. What is not given follows the bucket."""

    w: Count | None
    """How many nodes must have stored it."""
    n: int | None
    sloppy: bool | None
    timeout_ms: int | None
    idempotency_key: str | None
    """1 to 255 visible ASCII characters; a random one if not given. The same for the same change only."""


class ChangeOptions(TypedDeleteOptions, total=False):
    """Options of a change of a typed value."""

    return_body: bool
    """Whether the answer has the value that is there now, and its context."""


class MapChange(ChangeOptions, total=False):
    """What is changed of a map, and options. `disable`, `remove_from` and `remove` need a context."""

    assign: Mapping[str, str]
    """The text of fields."""
    enable: Iterable[str]
    """Fields to switch on."""
    disable: Iterable[str]
    """Fields to switch off."""
    add: Mapping[str, Iterable[str]]
    """Elements to add to the sets of fields."""
    remove_from: Mapping[str, Iterable[str]]
    """Elements to remove from the sets of fields."""
    remove: Iterable[str]
    """Fields to remove, with all that was read of them."""


@dataclass(frozen=True)
class Field:
    """What a map has under one name. A text, a flag and a set can share one: they are fields of their own."""

    register: str | None = None
    """The text, if one was assigned."""
    flag: bool = False
    set: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Typed(Generic[V_co]):
    """A typed value, as it was read."""

    bucket: str
    key: str
    value: V_co
    """The empty value (0, off, nothing) if nothing is stored."""
    exists: bool
    """Whether anything is stored. Not if the key was never written or was deleted, nor if all was removed."""
    context: str
    """What this read saw: a change with it removes exactly that."""
    etag: str | None
    request_id: str | None


@dataclass(frozen=True)
class Applied(Generic[V_co]):
    """The answer to a change that W nodes have acknowledged."""

    bucket: str
    key: str
    acks: int | None
    """How many nodes have acknowledged. `None` if not told."""
    hints: int | None
    """How many of those keep the change as a hint for a node that is down."""
    read: Typed[V_co] | None = None
    """What is there now; with `return_body` only."""
    request_id: str | None = None

    @property
    def context(self) -> str | None:
        """For a change that removes; with `return_body` only."""
        return None if self.read is None else self.read.context


Change: TypeAlias = Callable[["Typed[Any]", "dict[str, Any]", "ChangeOptions"], A_co]


@dataclass(frozen=True)
class _Read(Typed[V_co], Generic[V_co, A_co]):
    """A read that removes what it saw."""

    _change: Change[A_co] = field(kw_only=True, repr=False, compare=False)

    @classmethod
    def of(cls, read: Typed[V_co], change: Change[A_co]) -> Self:
        """Return the read, with how it changes."""
        return cls(**{each.name: getattr(read, each.name) for each in fields(Typed)}, _change=change)


class SetRead(_Read[frozenset[str], A_co]):
    """A set, as it was read."""

    def remove(self, *elements: str, **options: Unpack[ChangeOptions]) -> A_co:
        """Remove elements, as far as they were read: one that someone adds meanwhile stays."""
        return self.change(remove=elements, **options)

    def change(
        self, *, add: Iterable[str] = (), remove: Iterable[str] = (), **options: Unpack[ChangeOptions]
    ) -> A_co:
        """Add and remove at once."""
        return self._change(self, set_change(add, remove), options)


class FlagRead(_Read[bool, A_co]):
    """A flag, as it was read."""

    def disable(self, **options: Unpack[ChangeOptions]) -> A_co:
        """Switch it off, as far as it was read: if someone enables it meanwhile, it stays on."""
        return self._change(self, {"enable": False}, options)


class MapRead(_Read[Mapping[str, Field], A_co]):
    """A map, as it was read."""

    def update(self, **change: Unpack[MapChange]) -> A_co:
        """Change fields, and remove of what was read."""
        operation, options = map_change(change)
        return self._change(self, operation, options)


def increment(by: int) -> dict[str, Any]:
    """Return the change of a counter."""
    if not isinstance(by, int) or isinstance(by, bool) or not -(2**63) <= by < 2**63:
        raise InvalidArgument("by: must be a whole number of 64 bits")
    return {"increment": by}


def set_change(add: Iterable[str], remove: Iterable[str]) -> dict[str, Any]:
    """Return the change of a set."""
    named = {"add": texts("add", add), "remove": texts("remove", remove)}
    return {name: elements for name, elements in named.items() if elements}


def map_change(change: MapChange) -> tuple[dict[str, Any], ChangeOptions]:
    """Return the change of a map, and the options that came with it."""
    rest: dict[str, Any] = dict(change)
    update: dict[str, dict[str, Any]] = {}
    for name, value in rest.pop("assign", {}).items():
        update.setdefault(text("assign", name), {})["register_lww"] = text("assign", value)
    on, off = texts("enable", rest.pop("enable", ())), texts("disable", rest.pop("disable", ()))
    if set(on) & set(off):
        raise InvalidArgument("enable and disable: a field cannot be in both")
    for names, flag in ((on, True), (off, False)):
        for name in names:
            update.setdefault(name, {})["flag"] = flag
    add, remove_from = rest.pop("add", {}), rest.pop("remove_from", {})
    for name in [*add, *remove_from]:
        change_of_set = set_change(add.get(name, ()), remove_from.get(name, ()))
        update.setdefault(text("add", name), {})["set"] = change_of_set
    operation: dict[str, Any] = {"update": update} if update else {}
    remove = texts("remove", rest.pop("remove", ()))
    if remove:
        operation["remove"] = remove
    options: ChangeOptions = rest  # type: ignore[assignment]
    return operation, options


def removes(operation: Mapping[str, Any]) -> bool:
    """Whether a part of a change removes, and so needs a context."""
    if operation.get("remove") or operation.get("enable") is False:
        return True
    changed: Iterable[Mapping[str, Any]] = operation.get("update", {}).values()
    return any(each.get("flag") is False or "remove" in each.get("set", {}) for each in changed)


def texts(what: str, given: Iterable[str]) -> list[str]:
    """Return the texts as a list. One text is not taken for a list of its characters."""
    if isinstance(given, (str, bytes)):
        raise InvalidArgument(f"{what}: must be a list of texts, not one text")
    return [text(what, each) for each in given]


def text(what: str, given: str) -> str:
    """Return the text if it can be sent."""
    try:
        given.encode()
    except (AttributeError, UnicodeEncodeError) as error:
        raise InvalidArgument(f"{what}: must be text that can be UTF-8") from error
    return given
