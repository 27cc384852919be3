/** Feeds and waits: what is sent, how it is repeated, and what hostile answers come to. */

import assert from "node:assert/strict";
import { test } from "node:test";

import * as feed from "../src/feed.js";
import * as quorate from "../src/index.js";
import type { Answer } from "../src/parse.js";
import * as wire from "../src/wire.js";
import { type Json, Stub } from "./conformance/servers.js";
import { withStub } from "./stub.js";

const DELETED = { key: "k", status: 404, deleted: true, context: "c1" };
const EXPIRED = {
  status: 410,
  problem: { type: "cursor_expired", status: 410, cursor: "new", resync: "/keys/b" },
};
const NOTHING_NEW = { status: 304, headers: { "Quorate-Context": "c1" } };

const page = (cursor: string, ...changes: Json[]): Json => ({
  status: 200,
  headers: { "Content-Type": "application/json", "X-Request-Id": "r1" },
  json: { bucket: "b", changes, cursor, complete: true },
});

test("a change is what a read gives, and is written through", () => {
  const text = { key: "a", status: 200, value: "one", context: "c1", etag: '"e"' };
  const large = { key: "l", status: 200, bytes: 70_000, content_type: "a/b", meta: { m: "1" } };
  const flag = { key: "f", status: 200, type: "flag", exists: true, value: true, context: "c2" };
  const done = { status: 204, headers: { "Quorate-Siblings": "1" } };
  return withStub([page("C1", text, large, flag, DELETED), done, done], async (client, stub) => {
    const { changes, cursor, complete } = await client.feedPage("b", { start: "oldest" });
    assert.deepEqual([changes.length, cursor, complete], [4, "C1", true]);
    const [a, l, f, k] = changes;
    assert.ok(a instanceof quorate.Value);
    assert.deepEqual([a.bucket, a.key, a.text(), a.etag, a.requestId], ["b", "a", "one", '"e"', "r1"]);
    assert.deepEqual(l, {
      kind: "large",
      bucket: "b",
      key: "l",
      size: 70_000,
      siblings: 1,
      etag: undefined,
      contentType: "a/b",
      meta: { m: "1" },
      index: {},
      expiresAt: undefined,
    });
    assert.ok(f?.kind === "typed");
    assert.deepEqual([f.key, f.value, f.context], ["f", true, "c2"]);
    assert.ok(k instanceof quorate.Absent);
    assert.deepEqual([k.key, k.deleted, k.expired], ["k", true, false]);
    await a.put("two", { ifMatch: a });
    await client.flag("b", "f").disable({ context: f });
    const [, put, disable] = stub.take();
    assert.deepEqual(
      [put?.path, put?.headers["quorate-context"], put?.headers["if-match"]],
      ["/kv/b/a", "c1", '"e"'],
    );
    assert.deepEqual([disable?.path, disable?.headers["quorate-context"]], ["/types/b/f", "c2"]);
  });
});

test("a feed goes from page to page until an error", () =>
  withStub([page("C1"), page("C2", DELETED), EXPIRED, page("C3")], async (client, stub) => {
    const cursors: string[] = [];
    let start = "now";
    try {
      for await (const each of client.feed("b", { start, prefix: "p", limit: 3, waitMs: 400 })) {
        cursors.push(each.cursor);
      }
    } catch (error) {
      assert.ok(error instanceof quorate.CursorExpired);
      assert.deepEqual([error.resync, error.outcome], ["/keys/b", undefined]);
      start = error.cursor;
    }
    assert.deepEqual([cursors, start], [["C1", "C2"], "new"]);
    for await (const each of client.feed("b", { start })) {
      assert.equal(each.cursor, "C3");
      break;
    }
    const rest = { prefix: "p", limit: "3" };
    assert.deepEqual(
      stub.take().map((each) => each.query),
      [
        { cursor: "now", ...rest },
        { cursor: "C1", ...rest, wait_ms: "400" },
        { cursor: "C2", ...rest, wait_ms: "400" },
        { cursor: "new", wait_ms: "20000" },
      ],
    );
  }));

test("another node is asked with the same cursor, and what is left of the wait", async () => {
  const [lost, other] = [await Stub.start([{ delay_ms: 400 }]), await Stub.start([page("C2")])];
  try {
    const client = new quorate.Client([lost.url, other.url], { discover: false });
    for (;;) {
      assert.equal((await client.feedPage("b", { start: "C1", waitMs: 1000 })).cursor, "C2");
      const [[first], [second]] = [lost.take(), other.take()];
      if (first === undefined) continue;
      assert.deepEqual(first.query, { cursor: "C1", wait_ms: "1000" });
      const { wait_ms, ...query } = second?.query ?? {};
      assert.deepEqual(query, { cursor: "C1" });
      assert.ok(Number(wait_ms) >= 1 && Number(wait_ms) <= 605, wait_ms);
      break;
    }
  } finally {
    lost.close();
    other.close();
  }
});

test("a wait is no silence, but what is beyond it is", () => {
  const late = { ...page("C1"), delay_ms: 600 };
  const answers = [late, { ...NOTHING_NEW, delay_ms: 600 }, late];
  const work = async (client: quorate.Client): Promise<void> => {
    assert.equal((await client.feedPage("b", { start: "now", waitMs: 1000 })).cursor, "C1");
    assert.equal(await client.wait("b", "k", { context: "c1", waitMs: 1000 }), undefined);
    await assert.rejects(client.feedPage("b", { start: "now", waitMs: 50 }), quorate.DeadlineExceeded);
  };
  return withStub(answers, work, { attemptTimeoutMs: 300, deadlineMs: 400 });
});

test("a wait gives what a read gives", () => {
  const value = { status: 200, headers: { "Quorate-Context": "c1" }, body: "one" };
  const never = { status: 404, problem: { type: "key_not_found", status: 404 } };
  return withStub([never, value, NOTHING_NEW], async (client, stub) => {
    const absent = await client.get("b", "k");
    const read = await client.wait("b", "k", { context: absent });
    assert.ok(read instanceof quorate.Value);
    assert.equal(read.text(), "one");
    assert.equal(await client.wait("b", "k", { context: read, waitMs: 50, r: 1, timeoutMs: 700 }), undefined);
    const [, first, second] = stub.take();
    assert.deepEqual([first?.query, first?.headers["quorate-context"]], [{ wait_ms: "30000" }, undefined]);
    assert.deepEqual(second?.query, { r: "1", timeout_ms: "700", wait_ms: "50" });
    assert.equal(second?.headers["quorate-context"], "c1");
  });
});

test("waits that are none are refused", () =>
  withStub([NOTHING_NEW], async (client, stub) => {
    for (const waitMs of [0, -1, 60_001, 1.5, Number.NaN, "100" as never]) {
      await assert.rejects(client.wait("b", "k", { waitMs }), quorate.InvalidArgument);
      await assert.rejects(client.feedPage("b", { start: "now", waitMs }), quorate.InvalidArgument);
    }
    await assert.rejects(client.feedPage("b", { start: "" }), quorate.InvalidArgument);
    assert.equal(stub.take().length, 0);
  }));

test("what a later attempt waits is at least a moment", () => {
  const request = wire.feed("b", { start: "C", waitMs: 500 });
  assert.deepEqual(
    [-3000, 0, 250.1, 500, 9000].map((leftMs) => wire.waiting(request, leftMs).waitMs),
    [1, 1, 251, 500, 500],
  );
  assert.equal(wire.waiting(request, 9000).target, "/feed/b?cursor=C&wait_ms=500");
  assert.equal(wire.waiting(wire.wait("b", "k", { waitMs: 20 }), 1000).target, "/kv/b/k?wait_ms=20");
  const plain = wire.get("b", "k", {}, false);
  assert.equal(wire.waiting(plain, 9000), plain);
});

const CLIENT = new quorate.Client("http://127.0.0.1:1");

function pageOf(text: string): quorate.FeedPage {
  const headers = new Headers({ "content-type": "application/json" });
  const answer: Answer = { status: 200, headers, body: new TextEncoder().encode(text), isWhole: true };
  return feed.page("b", answer, CLIENT);
}

test("totals have all of their digits, and texts are left as they are", () => {
  const text = '"key": "1234567890123456789 \\" -9007199254740993,", "status": 200, "context": "c"';
  const total = '"type": "counter", "exists": true, "value":';
  for (const digits of ["9007199254740993", "-9223372036854775808", "0", "-5"]) {
    const [change] = pageOf(`{"changes":[{${text},${total}${digits}}],"cursor":"1","complete":true}`).changes;
    assert.ok(change?.kind === "typed");
    assert.deepEqual(
      [change.value, change.key],
      [BigInt(digits), '1234567890123456789 " -9007199254740993,'],
    );
  }
  assert.throws(() => pageOf(`{"changes":[{${text},${total}0.1234567890123456789}],"cursor":"1"}`));
});

test("damaged pages are typed errors, and never anything else", () => {
  const odd = [null, true, -1, 1e308, "", "\ud800", "\n", "ü\u2028", [], {}, [[]], { type: 1 }, 2 ** 70];
  const good: Json[] = [
    { key: "a", status: 200, value: "/w==", encoding: "base64", context: "c" },
    { key: "b", status: 200, value: "v", context: "c", meta: { by: "mé" }, etag: '"e"' },
    { key: "c", status: 300, context: "c", siblings: [{ dot: "d", value: "v" }] },
    { key: "d", status: 200, bytes: 70_000, expires_at: "2126-11-29T18:39:26.123Z" },
    { key: "i", status: 200, value: "v", context: "c", index: { a_i: [1], b_s: ["x"] } },
    { key: "e", status: 200, type: "set", exists: true, value: ["a"], context: "c" },
    { ...DELETED, expired: true },
  ];
  const read = (shown: unknown): void => {
    try {
      pageOf(JSON.stringify(shown));
    } catch (error) {
      assert.ok(error instanceof quorate.ProtocolError, `${error}: ${JSON.stringify(shown)}`);
    }
  };
  for (const value of odd) {
    for (const name of ["changes", "cursor", "complete"]) {
      read({ changes: good, cursor: "C", complete: true, [name]: value });
    }
    for (const one of good) {
      for (const name of [...Object.keys(one), "status", "value", "type", "bytes"]) {
        read({ changes: [one, { ...one, [name]: value }], cursor: "C", complete: true });
      }
    }
    read(value);
  }
});
