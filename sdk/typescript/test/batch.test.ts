/** Batches: how they are split, sent and repeated, and what hostile answers come to. */

import assert from "node:assert/strict";
import { test } from "node:test";

import * as batch from "../src/batch.js";
import * as quorate from "../src/index.js";
import type { Answer } from "../src/parse.js";
import type { Json, Stub } from "./conformance/servers.js";
import { withStub } from "./stub.js";

const WRITTEN = { status: 204, context: "c", siblings_count: 1, acks: 2, hints: 0 };
const BUSY = { status: 503, problem: { type: "urn:quorate:problem:overloaded", outcome: "not_applied" } };
const NOTHING = { status: 404, problem: { type: "urn:quorate:problem:key_not_found" } };

const answer = (...results: unknown[]): Json => ({
  status: 200,
  headers: { "Content-Type": "application/json", "X-Request-Id": "r1" },
  json: { results },
});
const get = (key: string): quorate.BatchGet => ({ op: "get", bucket: "b", key });
const put = (key: string, value: string | Uint8Array = "v"): quorate.BatchPut => ({
  op: "put",
  bucket: "b",
  key,
  value,
});
const many = <T>(count: number, of: (at: number) => T): T[] =>
  Array.from({ length: count }, (_, at) => of(at));

const sentOperations = (stub: Stub): any[][] => stub.take().map((each) => JSON.parse(each.body).operations);

test("results are what the operations alone give", () => {
  const value = {
    status: 200,
    value: "2 apples",
    content_type: "a/b",
    context: "c1",
    etag: '"e"',
    meta: { By: "mé" },
  };
  const answers = [answer(WRITTEN, value, NOTHING, { status: 204, acks: 2 }, BUSY), { status: 204 }];
  return withStub(
    answers,
    async (client, stub) => {
      const [written, read, absent, applied, busy] = await client.batch(
        [
          { op: "put", bucket: "carts", key: "alice", value: "2 äpfel", expiresIn: 60 },
          { op: "get", bucket: "carts", key: "bob" },
          { op: "get", bucket: "carts", key: "eve" },
          { op: "change", bucket: "visits", key: "home", operation: { increment: 2n ** 62n } },
          { op: "delete", bucket: "carts", key: "dan", ifPresent: true },
        ],
        { w: "all" },
      );
      assert.ok(written !== undefined && "kind" in written && written.kind === "written");
      assert.deepEqual([written.bucket, written.key, written.siblings], ["carts", "alice", 1]);
      assert.equal(written.requestId, "r1");
      assert.ok(read instanceof quorate.Value);
      assert.deepEqual(
        [read.key, read.text(), read.contentType, read.etag],
        ["bob", "2 apples", "a/b", '"e"'],
      );
      assert.deepEqual(read.meta, { by: "mé" });
      assert.ok(absent instanceof quorate.Absent);
      assert.ok(applied !== undefined && "kind" in applied && applied.kind === "applied");
      assert.deepEqual([applied.key, applied.acks, applied.read], ["home", 2, undefined]);
      assert.ok(busy instanceof quorate.Overloaded);
      assert.deepEqual([busy.outcome, busy.attempts], ["not_applied", 1]);
      await read.put("3 apples", { ifMatch: read });
      const [sent, again] = stub.take();
      assert.deepEqual([sent?.method, sent?.path, sent?.query], ["POST", "/batch", { w: "all" }]);
      assert.ok(sent?.body.includes('"operation":{"increment":4611686018427387904}'), "with all its digits");
      assert.deepEqual([again?.path, again?.headers["quorate-context"]], ["/kv/carts/bob", "c1"]);
    },
    { attemptsMax: 1 },
  );
});

test("an operation is the request that it stands for", () =>
  withStub([answer(WRITTEN, WRITTEN, WRITTEN)], async (client, stub) => {
    await client.batch([
      put("k", "ü"),
      put("k", Uint8Array.of(255, 0)),
      { op: "delete", bucket: "b", key: "k", ifMatch: '"e"' },
    ]);
    const sent = sentOperations(stub)[0] ?? [];
    assert.equal(new Set(sent.map((each) => each.idempotency_key)).size, 3);
    for (const each of sent) delete each.idempotency_key;
    const place = { bucket: "b", key: "k" };
    assert.deepEqual(sent, [
      { op: "put", ...place, value: "ü", content_type: "text/plain; charset=utf-8" },
      { op: "put", ...place, value: "/wA=", encoding: "base64", content_type: "application/octet-stream" },
      { op: "delete", ...place, if_match: '"e"' },
    ]);
  }));

test("what was refused for the moment is sent again, alone", () => {
  const unknown = { status: 503, problem: { type: "urn:quorate:problem:no_quorum", outcome: "unknown" } };
  const wrong = { status: 409, problem: { type: "urn:quorate:problem:wrong_type" } };
  const answers = [answer(WRITTEN, BUSY, wrong, unknown), answer(WRITTEN, BUSY), answer(BUSY)];
  return withStub(answers, async (client, stub) => {
    const results = await client.batch(many(4, (at) => put(String(at))));
    assert.deepEqual(
      results.map((each) => (each instanceof quorate.QuorateError ? [each.name, each.attempts] : each.kind)),
      ["written", "written", ["WrongType", 1], ["UnknownOutcome", 5]],
    );
    const sent = sentOperations(stub);
    assert.deepEqual(
      sent.map((part) => part.map((each) => each.key).join("")),
      ["0123", "13", "3", "3", "3"],
    );
    assert.equal(new Set(sent.map((part) => part.at(-1).idempotency_key)).size, 1);
  });
});

test("a batch that was lost is repeated under the same keys", () =>
  withStub([{}, answer(WRITTEN, NOTHING)], async (client, stub) => {
    const results = await client.batch([{ ...put("k"), idempotencyKey: "mine" }, get("k")]);
    assert.ok(results.every((each) => !(each instanceof quorate.QuorateError)));
    const [first, second] = sentOperations(stub);
    assert.deepEqual(first, second);
    assert.equal(first?.[0].idempotency_key, "mine");
  }));

test("a batch is split by number and by length", async () => {
  const counts = [1000, 1000, 1];
  const answers = counts.map((count) => answer(...many(count, () => NOTHING)));
  await withStub(answers, async (client, stub) => {
    assert.equal((await client.batch(many(2001, (at) => get(String(at))))).length, 2001);
    assert.deepEqual(
      sentOperations(stub).map((part) => part.length),
      counts,
    );
  });
  const half = "x".repeat(batch.BYTES_MAX / 2 - 1000);
  const values = [half, half, half, "x".repeat(batch.BYTES_MAX + 1), "small"];
  const parts = [2, 1, 1, 1];
  await withStub(
    parts.map((count) => answer(...many(count, () => WRITTEN))),
    async (client, stub) => {
      const results = await client.batch(values.map((value, at) => put(String(at), value)));
      assert.deepEqual(
        results.map((each) => (each instanceof quorate.QuorateError ? each.message : each.key)),
        ["0", "1", "2", "3", "4"],
      );
      assert.deepEqual(
        sentOperations(stub).map((part) => part.length),
        parts,
      );
    },
  );
});

test("one part that fails is not the others", () => {
  const refused = { status: 403, problem: { type: "forbidden" } };
  return withStub([refused, answer(NOTHING)], async (client) => {
    const results = await client.batch(many(1001, (at) => get(String(at))));
    assert.ok(results.slice(0, 1000).every((each) => each instanceof quorate.BadRequest));
    assert.ok(results[1000] instanceof quorate.Absent);
  });
});

test("a batch of nothing sends nothing", () =>
  withStub([answer()], async (client, stub) => {
    assert.deepEqual(await client.batch([]), []);
    assert.equal(stub.take().length, 0);
  }));

test("a wrong operation is named, and nothing is sent", () =>
  withStub([answer(WRITTEN)], async (client, stub) => {
    const change = (operation: unknown): quorate.BatchChange => ({
      op: "change",
      bucket: "b",
      key: "k",
      operation: operation as Json,
    });
    const circle: Record<string, unknown> = {};
    circle["update"] = circle;
    const wrong: quorate.BatchOperation[] = [
      get(""),
      { ...get("k"), bucket: "" },
      get("\ud800"),
      put("k", [Uint8Array.of(1)] as never),
      put("k", "\ud800"),
      { ...put("k"), expiresIn: 0 },
      { ...put("k"), ifAbsent: true, ifPresent: true },
      { ...put("k"), contentType: "ü" },
      { ...put("k"), index: { age_i: 1.5 } },
      { op: "delete", bucket: "b", key: "k", context: "a\nb" },
      change({ remove: ["a"] }),
      change({ enable: false }),
      change({ update: { tags: { set: { remove: ["a"] } } } }),
      change({ add: ["\ud800"] }),
      change({ increment: 2n ** 63n }),
      change({ add: [1n] }),
      change(circle),
      change(undefined),
      { ...get("k"), op: "post" } as never,
    ];
    for (const [at, each] of wrong.entries()) {
      await assert.rejects(
        client.batch([get("k"), each]),
        (error: unknown) =>
          error instanceof quorate.InvalidArgument && /^operations\[1\]: /.test(error.message),
        `operation ${at}`,
      );
    }
    assert.equal(stub.take().length, 0);
    await client.batch([change({ add: ["\\ud800 is text"] })]);
    assert.equal(stub.take().length, 1);
  }));

test("damaged answers are typed errors, and never anything else", async () => {
  const change = { op: "change", bucket: "b", key: "k", operation: { increment: 1 } } as const;
  const items = batch.itemsOf([put("k"), get("k"), change]);
  const odd = [null, true, -1, 1e308, "", "\ud800", "\n", "ü\u2028", [], {}, [[]], { type: 1 }, 2 ** 70];
  const good: Json[] = [
    WRITTEN,
    { status: 200, value: "/w==", encoding: "base64", content_type: "a/b", context: "c" },
    { status: 200, value: "v", context: "c", meta: { by: "mé" }, index: { a_i: [1] } },
    { status: 300, context: "c", siblings: [{ dot: "d", value: "v" }] },
    { ...BUSY, expires_at: "2126-11-29T18:39:26.123Z" },
    { status: 404, context: "c", expired: true, problem: { type: "urn:quorate:problem:key_deleted" } },
  ];
  const client = new quorate.Client("http://127.0.0.1:1");
  const read = (results: unknown): void => {
    const body = new TextEncoder().encode(JSON.stringify({ results }));
    const headers = new Headers({ "content-type": "application/json" });
    const reply: Answer = { status: 200, headers, body, isWhole: true };
    try {
      const answers = batch.answersOf(reply, 3);
      for (const [at, item] of items.entries()) batch.resultOf(item, answers[at] ?? reply, client);
    } catch (error) {
      assert.ok(error instanceof quorate.ProtocolError, `${error}: ${JSON.stringify(results)}`);
    }
  };
  for (const value of odd) read(value);
  for (const one of good) {
    for (const name of [...Object.keys(one), "status", "value", "problem"]) {
      for (const value of odd) read([one, { ...one, [name]: value }, value]);
      for (const value of odd) read([{ ...one, [name]: value }, { ...one, [name]: value }, one]);
    }
  }
});
