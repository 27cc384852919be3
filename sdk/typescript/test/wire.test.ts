/** Requests: what is escaped, what is refused. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { InvalidArgument, type PutOptions, type Source, type Written } from "../src/index.js";
import { parseUrls } from "../src/nodes.js";
import * as wire from "../src/wire.js";

const written: Written = {
  kind: "written",
  bucket: "b",
  key: "k",
  context: undefined,
  etag: undefined,
  siblings: 2,
  acks: 2,
  hints: 0,
  explainId: undefined,
  requestId: undefined,
};

test("a key is one segment that decodes to itself, and URL does not change it", () => {
  for (const key of [
    "a/b",
    "...",
    "a b+c",
    "100%",
    "ü/日本",
    "?#&=",
    "\t\n",
    "/",
    "a/../b",
    "a\\b",
    "%2e%2e",
  ]) {
    const { target } = wire.get("b", key, {}, false);
    const url = new URL(`http://h${target}`);
    assert.equal(url.pathname, target, key);
    assert.equal(decodeURIComponent(target), `/kv/b/${key}`);
    assert.equal(target.split("/").length, 4);
    assert.equal(url.search + url.hash, "");
  }
});

test("names that are none, or that fetch cannot send, are refused", () => {
  for (const [bucket, key] of [
    ["", "k"],
    ["b", ""],
    ["b", "."],
    ["b", ".."],
    ["..", "k"],
    ["b", "\ud800"],
  ]) {
    assert.throws(() => wire.get(bucket ?? "", key ?? "", {}, false), InvalidArgument);
  }
});

test("options become parameters", () => {
  const options = { r: "all", n: 2, sloppy: false, timeoutMs: 9, explain: true } as const;
  const { target } = wire.get("b", "k", options, false);
  assert.equal(target, "/kv/b/k?r=all&n=2&sloppy=false&timeout_ms=9&explain=true");
  assert.equal(wire.get("b", "k", { explain: false, r: undefined }, false).target, "/kv/b/k");
});

test("every write has an idempotency key of its own", () => {
  const keyOf = () => new Map(wire.del("b", "k", {}).headers).get("idempotency-key");
  assert.equal(new Set(Array.from({ length: 100 }, keyOf)).size, 100);
});

test("options that cannot be meant, and what is no header, are refused", () => {
  const wrong: PutOptions[] = [
    { contentType: "a\r\nX: y" },
    { contentType: "ü" },
    { contentType: "a/b " },
    { meta: { "": "x" } },
    { meta: { "a:b": "x" } },
    { meta: { a: "x\0" } },
    { meta: { a: "\ud800" } },
    { meta: { a: 7 as unknown as string } },
    { ifAbsent: true, ifPresent: true },
    { ifAbsent: true, ifMatch: '"e"' },
    { idempotencyKey: "" },
    { idempotencyKey: "a b" },
    { idempotencyKey: "k".repeat(256) },
    { context: "a\nb" },
    { context: written },
    { ifMatch: written },
  ];
  for (const options of wrong) {
    assert.throws(() => wire.put("b", "k", "", options), InvalidArgument, JSON.stringify(options));
  }
});

test("a lifetime is sent in whole seconds, and no shorter", () => {
  const sent = (options: PutOptions) =>
    new Map(wire.put("b", "k", "", options).headers).get("quorate-expires-in");
  for (const [expiresIn, text] of [
    [1, "1"],
    [3_162_240_000, "3162240000"],
    [0.001, "1"],
    [1.5, "2"],
    ["never", "never"],
    [undefined, undefined],
  ] as const) {
    assert.equal(sent({ expiresIn }), text);
  }
  for (const wrong of [
    0,
    -1,
    3_162_240_001,
    Number.NaN,
    Infinity,
    "60",
    "Never",
    true,
    null,
    60n,
    new Date(),
  ]) {
    assert.throws(() => sent({ expiresIn: wrong as number }), InvalidArgument, String(wrong));
  }
});

test("values that are none are refused", () => {
  for (const value of [7, null, undefined, {}, "\udc00"]) {
    assert.throws(() => wire.put("b", "k", value as Source, {}), InvalidArgument, String(value));
  }
});

test("URLs that are none are refused", () => {
  for (const urls of [
    "",
    ",",
    "ftp://x",
    "localhost:7401",
    "http://",
    "http://a:b",
    "http://a?x",
    "http://u@a",
  ]) {
    assert.throws(() => parseUrls(urls), InvalidArgument, urls);
  }
  assert.deepEqual(parseUrls("http://a:1/, https://b,http://a:1"), ["http://a:1", "https://b"]);
});
