"""Runs one case of `sdk/conformance` with one of the two clients."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import quorate

from . import indexes, typed
from .expectations import Result, Streamed, mismatches
from .servers import Proxy, Stub, value_bytes

Call = Callable[[Callable[[], Any]], Any]
"""Runs a function; if it returns an awaitable, also that."""

CASE_FIELDS = {"name", "about", "server", "stub", "looks", "needs", "client", "steps"}
STEP_FIELDS = {"op", "as", "expect", "expect_one_of", "within_ms", "lose_responses", "bucket"}
READ_ARGS = {"key", "r", "n", "sloppy", "timeout_ms", "explain", "stream"}
WRITE_ARGS = {
    *("key", "context", "context_text", "if", "w", "n", "sloppy", "timeout_ms", "explain", "idempotency_key"),
}
OPS: dict[str, set[str]] = {
    "get": READ_ARGS,
    "put": WRITE_ARGS | {"value", "content_type", "meta", "index", "expires_in", "stream"},
    "delete": WRITE_ARGS,
    "resolve": {"siblings", "join", "keep", "index", "expires_in"},
    "update": {"key", "append"},
    "list_keys": {"prefix", "limit", "cursor"},
    "all_keys": {"prefix", "limit"},
    "get_bucket": set(),
    "set_bucket": {"properties"},
    "reset_bucket": set(),
    "nodes": set(),
    "batch": {"operations", "r", "w", "n", "sloppy", "timeout_ms"},
    "wait": {"key", "context", "context_text", "wait_ms", "r", "n", "sloppy", "timeout_ms", "meanwhile"},
    "feed": {"from", "cursor", "prefix", "limit", "wait_ms", "meanwhile"},
    "follow": {"from", "cursor", "prefix", "limit", "wait_ms"},
    **indexes.OPS,
    **typed.OPS,
}
BATCH_OPS: dict[str, set[str]] = {
    "get": {"key"},
    "put": {"key", "value", "content_type", "index", "context", "if", "idempotency_key", "expires_in"},
    "delete": {"key", "context", "if", "idempotency_key"},
    "change": {"key", "operation", "context", "idempotency_key"},
}
MEANWHILE_S = 0.2
"""How long after a step the one begins that it has as `meanwhile`."""
OPTIONS = (
    *("r", "w", "n", "sloppy", "timeout_ms", "explain", "idempotency_key", "content_type", "meta"),
    "expires_in",
)


class Runner:
    """One case with one client."""

    def __init__(self, case: dict[str, Any], urls: list[str], make: Callable[..., Any], call: Call) -> None:
        assert set(case) <= CASE_FIELDS, f"unknown fields in the case: {set(case) - CASE_FIELDS}"
        self.case, self.call = case, call
        self.saved: dict[str, Any] = {}
        self.stub: Stub | None = None
        self.proxy: Proxy | None = None
        server = case.get("server", "cluster")
        self.bucket = f"c-{secrets.token_hex(8)}"
        if server == "stub":
            self.stub = Stub(case["stub"], case.get("looks"))
            urls, self.bucket = [self.stub.url], "b"
        elif server == "proxy":
            self.proxy = Proxy(urls[0])
            urls = [self.proxy.url]
        else:
            assert server == "cluster", f"unknown server {server}"
            urls = urls[:1] if "http_addr" in case.get("needs", []) else urls
        settings = dict(case.get("client", {}))
        options: dict[str, Any] = {"discover": server == "cluster" or "looks" in case}
        for name in ("attempts_max", "token"):
            if name in settings:
                options[name] = settings.pop(name)
        if "deadline_ms" in settings:
            options["deadline_s"] = settings.pop("deadline_ms") / 1000
        assert not settings, f"unknown settings: {settings}"
        self.client = call(lambda: make(urls, **options))

    def close(self) -> None:
        close = getattr(self.client, "aclose", None) or self.client.close
        self.call(close)
        for server in (self.stub, self.proxy):
            if server is not None:
                server.close()

    def run(self) -> None:
        for number, step in enumerate(self.case["steps"], 1):
            _check(f"step {number}", step, STEP_FIELDS)
            if "meanwhile" in step:
                _check(f"step {number}, meanwhile", step["meanwhile"], {"op", "bucket"})
            self.step(number, step)

    def step(self, number: int, step: dict[str, Any]) -> None:
        deadline = time.monotonic() + step.get("within_ms", 0) / 1000
        expected = step.get("expect_one_of", [step.get("expect", {})])
        if self.proxy is not None:
            self.proxy.lose(step.get("lose_responses", 0))
        while True:
            result = self.attempt(step)
            problems = [mismatches(expect, result) for expect in expected]
            if not all(problems):
                break
            if time.monotonic() >= deadline:
                shown = f"{result.error!r}" if result.error else f"{result.value!r}"
                raise AssertionError(f"step {number} ({step['op']}): {problems}; got {shown[:400]}")
            time.sleep(0.05)
        if self.proxy is not None:
            assert self.proxy.to_lose == 0, f"step {number}: {self.proxy.to_lose} answers were not lost"
        if "as" in step:
            self.saved[step["as"]] = result.error or result.value

    def attempt(self, step: dict[str, Any]) -> Result:
        result = Result()
        started = time.monotonic()
        try:
            result.value = self.perform(step)
        except quorate.QuorateError as error:
            result.error = error
        result.took_ms = (time.monotonic() - started) * 1000
        if self.stub is not None:
            result.sent = self.stub.take()
            result.looks = self.stub.looks
        return result

    def perform(self, step: dict[str, Any]) -> Any:
        operation: Callable[[dict[str, Any]], Any] = getattr(self, "do_" + step["op"])
        if "meanwhile" not in step:
            return operation(step)
        with ThreadPoolExecutor(1) as threads:
            other = threads.submit(self.later, step["meanwhile"])
            value = operation(step)
            other.result(timeout=30)  # it must succeed
        return value

    def later(self, step: dict[str, Any]) -> Any:
        time.sleep(MEANWHILE_S)
        return self.perform(step)

    def seen(self, name: str) -> Any:
        """Return what came of an earlier step, or the change `PAGE.KEY` of an earlier page."""
        page, dot, key = name.partition(".")
        if not dot:
            return self.saved[name]
        return next(change for change in self.saved[page] if change.key == key)

    def bucket_of(self, step: dict[str, Any]) -> str:
        return str(step.get("bucket", self.bucket))

    def options(self, step: dict[str, Any]) -> dict[str, Any]:
        options = {name: step[name] for name in OPTIONS if name in step}
        if "index" in step:
            options["index"] = indexes.entries(step["index"])
        if "context" in step:
            options["context"] = self.seen(step["context"])
        if "context_text" in step:
            options["context"] = step["context_text"]
        condition = step.get("if")
        if condition in ("absent", "present"):
            options[f"if_{condition}"] = True
        elif condition is not None:
            options["if_match"] = self.seen(condition)
        return options

    def do_get(self, step: dict[str, Any]) -> Any:
        bucket, key, options = self.bucket_of(step), step["key"], self.options(step)
        if not step.get("stream"):
            return self.call(lambda: self.client.get(bucket, key, **options))
        opened = self.client.open(bucket, key, **options)
        if hasattr(opened, "__aenter__"):
            return self.call(lambda: _read_async(opened))
        with opened as read:
            return Streamed(read.head, read.read()) if isinstance(read, quorate.ValueStream) else read

    def do_put(self, step: dict[str, Any]) -> Any:
        value: Any = value_bytes(step["value"])
        if step.get("stream"):
            whole = value
            value = lambda: (whole[at : at + 10_000] for at in range(0, len(whole), 10_000))  # noqa: E731
        options = self.options(step)
        return self.call(lambda: self.client.put(self.bucket_of(step), step["key"], value, **options))

    def do_delete(self, step: dict[str, Any]) -> Any:
        return self.call(lambda: self.client.delete(self.bucket_of(step), step["key"], **self.options(step)))

    def do_resolve(self, step: dict[str, Any]) -> Any:
        siblings, options = self.seen(step["siblings"]), self.options(step)
        index = options.pop("index", None)
        if "keep" in step:
            assert index is None, "what is kept keeps its entries"
            wanted = value_bytes(step["keep"])
            kept = next(sibling for sibling in siblings if sibling.value == wanted)
            return self.call(lambda: siblings.resolve(lambda _: kept, **options))

        def joined(all_: tuple[quorate.Sibling, ...]) -> Any:
            text = str(step["join"]).join(sorted(each.text for each in all_ if not each.deleted))
            return quorate.NewValue(text, index=index) if index else text

        return self.call(lambda: siblings.resolve(joined, **options))

    def do_update(self, step: dict[str, Any]) -> Any:
        def change(read: Any) -> str:
            texts = []
            if isinstance(read, quorate.Value):
                texts = [read.text]
            elif isinstance(read, quorate.Siblings):
                texts = [sibling.text for sibling in read.live]
            return "|".join(sorted(texts)) + str(step["append"])

        return self.call(lambda: self.client.update(self.bucket_of(step), step["key"], change))

    def do_list_keys(self, step: dict[str, Any]) -> Any:
        options: dict[str, Any] = {name: step[name] for name in ("prefix", "limit") if name in step}
        if "cursor" in step:
            options["cursor"] = self.saved[step["cursor"]].cursor
        return self.call(lambda: self.client.list_keys(self.bucket_of(step), **options))

    def do_all_keys(self, step: dict[str, Any]) -> Any:
        options = {}
        if "prefix" in step:
            options["prefix"] = step["prefix"]
        if "limit" in step:
            options["page_size"] = step["limit"]
        found = self.client.keys(self.bucket_of(step), **options)
        return quorate.KeyPage(tuple(self.collected(found)), None, complete=True)

    def collected(self, found: Any) -> list[Any]:
        return self.call(lambda: _collect(found)) if hasattr(found, "__aiter__") else list(found)

    def do_list_index(self, step: dict[str, Any]) -> Any:
        options = indexes.question(step)
        if "limit" in step:
            options["limit"] = step["limit"]
        if "cursor" in step:
            options["cursor"] = self.saved[step["cursor"]].cursor
        return self.call(lambda: self.client.index_page(self.bucket_of(step), step["index"], **options))

    def do_all_index(self, step: dict[str, Any]) -> Any:
        options = indexes.question(step)
        if "limit" in step:
            options["page_size"] = step["limit"]
        with indexes.noted_pages(self.client) as pages:
            found = self.client.index(self.bucket_of(step), step["index"], allow_incomplete=True, **options)
            entries = tuple(self.collected(found))
        return quorate.IndexPage(entries, pages[-1].cursor, all(page.complete for page in pages))

    def do_get_bucket(self, step: dict[str, Any]) -> Any:
        return self.call(lambda: self.client.get_bucket(self.bucket_of(step)))

    def do_set_bucket(self, step: dict[str, Any]) -> Any:
        return self.call(lambda: self.client.set_bucket(self.bucket_of(step), **step["properties"]))

    def do_reset_bucket(self, step: dict[str, Any]) -> Any:
        return self.call(lambda: self.client.reset_bucket(self.bucket_of(step)))

    def do_typed_get(self, step: dict[str, Any]) -> Any:
        handle = typed.handle(self.client, step["type"], self.bucket_of(step), step["key"])
        return self.call(lambda: handle.get(**self.options(step)))

    def do_change(self, step: dict[str, Any]) -> Any:
        handle = typed.handle(self.client, step["type"], self.bucket_of(step), step["key"])
        options = self.options(step)
        if step.get("return_body"):
            options["return_body"] = True
        if step.get("at_most_once"):
            options["at_most_once"] = True
        return self.call(lambda: typed.change(handle, step["type"], step["operation"], options))

    def do_typed_delete(self, step: dict[str, Any]) -> Any:
        handle = typed.handle(self.client, step["type"], self.bucket_of(step), step["key"])
        return self.call(lambda: handle.delete(**self.options(step)))

    def do_batch(self, step: dict[str, Any]) -> Any:
        operations = [self.operation(each) for each in step["operations"]]
        results = self.call(lambda: self.client.batch(operations, **self.options(step)))
        for each, result in zip(step["operations"], results, strict=True):
            if "as" in each:
                self.saved[each["as"]] = result
        return results

    def operation(self, each: dict[str, Any]) -> quorate.BatchOperation:
        op = each["op"]
        unknown = set(each) - BATCH_OPS[op] - {"op", "as", "bucket"}
        assert not unknown, f"unknown arguments of {op}: {unknown}"
        place, options = (self.bucket_of(each), each["key"]), self.options(each)
        if op == "get":
            return quorate.BatchGet(*place)
        if op == "put":
            return quorate.BatchPut(*place, value_bytes(each["value"]), **options)
        if op == "delete":
            return quorate.BatchDelete(*place, **options)
        return quorate.BatchChange(*place, each["operation"], **options)

    def do_wait(self, step: dict[str, Any]) -> Any:
        bucket, options = self.bucket_of(step), self.options(step)
        return self.call(lambda: self.client.wait(bucket, step["key"], wait_ms=step["wait_ms"], **options))

    def do_feed(self, step: dict[str, Any]) -> Any:
        return self.call(lambda: self.client.feed_page(self.bucket_of(step), **self.subscription(step)))

    def do_follow(self, step: dict[str, Any]) -> Any:
        pages = self.client.feed(self.bucket_of(step), **self.subscription(step))
        if hasattr(pages, "__aiter__"):
            return self.call(lambda: _followed_async(pages))
        followed = Followed()
        next(page for page in pages if followed.is_end(page))
        return followed.page

    def subscription(self, step: dict[str, Any]) -> dict[str, Any]:
        names = ("prefix", "limit", "wait_ms")
        options: dict[str, Any] = {name: step[name] for name in names if name in step}
        if "cursor" in step:
            assert "from" not in step, "a feed begins at one place"
            return {**options, "start": self.saved[step["cursor"]].cursor}
        assert step["from"] in {"now", "oldest"}, f"unknown start {step['from']}"
        return {**options, "start": step["from"]}

    def do_nodes(self, _step: dict[str, Any]) -> Any:
        return self.call(self.client.nodes)


async def _read_async(opened: Any) -> Any:
    async with opened as read:
        if isinstance(read, quorate.AsyncValueStream):
            return Streamed(read.head, await read.read())
        return read


class Followed:
    """The pages of a feed, put together."""

    def __init__(self) -> None:
        self.changes: dict[str, Any] = {}
        self.page: quorate.FeedPage[Any] | None = None

    def is_end(self, page: quorate.FeedPage[Any]) -> bool:
        self.changes |= {change.key: change for change in page}
        self.page = quorate.FeedPage(tuple(self.changes.values()), page.cursor, page.complete)
        return page.complete and len(page) == 0


async def _followed_async(pages: Any) -> Any:
    followed = Followed()
    async for page in pages:
        if followed.is_end(page):
            break
    await pages.aclose()
    return followed.page


def _check(what: str, step: dict[str, Any], fields: set[str]) -> None:
    """Fail on an operation or an argument that this runner does not know."""
    assert step["op"] in OPS, f"{what}: unknown op {step['op']}"
    args = set(step) - fields
    assert args <= OPS[step["op"]], f"{what}: unknown arguments {args - OPS[step['op']]}"


async def _collect(found: Any) -> list[Any]:
    return [each async for each in found]
