"""Steps on typed values, with the handle that their type names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import quorate

OPS: dict[str, set[str]] = {
    "typed_get": {"type", "key", "r", "n", "sloppy", "timeout_ms"},
    "typed_delete": {"type", "key", "context", "w", "n", "sloppy", "timeout_ms", "idempotency_key"},
    "change": {
        *("type", "key", "operation", "context", "w", "n", "sloppy", "timeout_ms", "idempotency_key"),
        *("return_body", "at_most_once"),
    },
}
HANDLES = {"register_lww": "register", "hll": "estimate"}


def handle(client: Any, kind: str, bucket: str, key: str) -> Any:
    assert kind in {"counter", "set", "flag", "map", "register_lww", "hll"}, f"unknown type {kind}"
    return getattr(client, HANDLES.get(kind, kind))(bucket, key)


def change(handle: Any, kind: str, operation: dict[str, Any], options: dict[str, Any]) -> Any:
    """Make the operation, as the cases write it, with the calls of the handle."""
    calls: dict[str, Callable[[], Any]] = {
        "counter": lambda: handle.increment(operation["increment"], **options),
        "set": lambda: _change_set(handle, operation, options),
        "flag": lambda: handle.enable(**options) if operation["enable"] else handle.disable(**options),
        "map": lambda: handle.update(**map_change(operation), **options),
        "register_lww": lambda: handle.assign(operation["assign"], **options),
        "hll": lambda: handle.add(*operation["add"], **options),
    }
    return calls[kind]()


def _change_set(handle: Any, operation: dict[str, Any], options: dict[str, Any]) -> Any:
    context = options.pop("context", None)
    if context is None:
        assert set(operation) == {"add"}, "this client removes only with a context"
        return handle.add(*operation["add"], **options)
    if isinstance(context, quorate.SetRead):
        return context.change(**operation, **options)
    return handle.change(**operation, context=context, **options)


def map_change(operation: dict[str, Any]) -> dict[str, Any]:
    assert set(operation) <= {"update", "remove"}, f"unknown: {operation}"
    change: dict[str, Any] = {"assign": {}, "enable": [], "disable": [], "add": {}, "remove_from": {}}
    for name, field in operation.get("update", {}).items():
        assert set(field) <= {"register_lww", "flag", "set"}, f"unknown: {field}"
        if "register_lww" in field:
            change["assign"][name] = field["register_lww"]
        if "flag" in field:
            change["enable" if field["flag"] else "disable"].append(name)
        for what, elements in field.get("set", {}).items():
            change[{"add": "add", "remove": "remove_from"}[what]][name] = elements
    return {**change, "remove": operation.get("remove", [])}


def shown(read: Any) -> Any:
    """Return the value in the form of the HTTP API."""
    value = getattr(read, "read", read).value
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {name: _field(field) for name, field in value.items()}
    return value


def is_total(read: Any) -> bool:
    value = shown(read)
    return isinstance(value, int) and not isinstance(value, bool)


def _field(field: quorate.Field) -> dict[str, Any]:
    parts = {"register_lww": field.register, "flag": field.flag or None, "set": sorted(field.set) or None}
    return {name: value for name, value in parts.items() if value is not None}
