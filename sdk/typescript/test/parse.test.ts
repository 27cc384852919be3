/** Answers of a hostile server: typed errors, whatever it says. */

import assert from "node:assert/strict";
import { test } from "node:test";

import * as quorate from "../src/index.js";
import type { Writes } from "../src/model.js";
import * as parse from "../src/parse.js";
import { get } from "../src/wire.js";

const REQUEST = get("b", "k", {}, false);
const GOOD = {
  siblings: [
    {
      dot: "00000000000000ff-1",
      value: "v",
      content_type: "a/b",
      meta: { a: "1" },
      index: { age_i: [-7, 42], email_s: ["a@x"] },
      writer: "n1",
      expires_at: "2126-11-29T18:39:26.123Z",
    },
    { dot: "00000000000000ff-2", value: "/w==", encoding: "base64", content_type: "a/b", meta: {} },
    { dot: "00000000000000ff-3", deleted: true, expires_at: "2026-11-29T18:39:26.000Z" },
  ],
  expires_in_s: 60,
  keys: ["a", "b"],
  entries: [
    { value: 7, key: "a" },
    { value: 7, key: "b" },
  ],
  cursor: null,
  complete: true,
  n: 3,
  r: "quorum",
  w: 2,
  conflicts: "lww",
  sloppy: true,
  nodes: ["n1", { node: "n1", http_addr: "h:1" }],
  homes: [[0], [1]],
  type: "urn:quorate:problem:no_quorum",
  outcome: "partial",
};

const nobody: Writes = {
  put: () => assert.fail("nobody is asked"),
  delete: () => assert.fail("nobody is asked"),
  keep: () => assert.fail("nobody is asked"),
};

function answer(status: number, body: string | Uint8Array, type = "application/json"): parse.Answer {
  const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body;
  return {
    status,
    headers: new Headers({ "content-type": type, "quorate-context": "c" }),
    body: bytes,
    isWhole: true,
  };
}

const PARSERS: ((given: parse.Answer) => unknown)[] = [
  (given) => parse.read(REQUEST, given, nobody),
  parse.keyPage,
  (given) => parse.indexPage("age_i", given),
  parse.properties,
  parse.cluster,
  parse.homes,
  parse.jsonObject,
  (given) => quorate.QuorateError.name + parse.outcomeOf(parse.factsOf(given)),
  (given) => parse.written(REQUEST, given),
];

test("the epoch is a number or not there", () => {
  const said = (text: string): number | undefined =>
    parse.epochOf({
      status: 204,
      headers: new Headers({ "quorate-epoch": text }),
      body: new Uint8Array(),
      isWhole: true,
    });
  assert.equal(said("7"), 7);
  for (const text of ["", "-1", "1e3", "x", "9".repeat(40)]) assert.equal(said(text), undefined, text);
  for (const [layout, epoch] of [
    [{ version: 7 }, 7],
    [{ version: -1 }, 0],
    [{ version: 1e300 }, 0],
    [null, 0],
  ] as const) {
    const body = new TextEncoder().encode(JSON.stringify({ nodes: [], layout }));
    const headers = new Headers({ "content-type": "application/json" });
    assert.equal(parse.cluster({ status: 200, headers, body, isWhole: true }).epoch, epoch);
  }
});

/** A small generator with a seed, so that a failure comes again. */
function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** The value with one thing in it replaced by something else. */
function mutated(random: (below: number) => number, value: unknown): unknown {
  const odd = [null, true, -1, 1e308, "", "x", [], {}, [[]], { dot: 1 }, [null], 2 ** 70, "\ud800"];
  if (typeof value === "object" && value !== null && random(10) < 8) {
    const names = Object.keys(value);
    const name = names[random(names.length)];
    if (name === undefined) return odd[random(odd.length)];
    const copy = Array.isArray(value) ? [...(value as unknown[])] : { ...value };
    (copy as Record<string, unknown>)[name] = mutated(random, (value as Record<string, unknown>)[name]);
    return copy;
  }
  return odd[random(odd.length)];
}

test("damaged answers are typed errors, and never anything else", () => {
  const random = generator(7);
  const types = ["application/json", "application/problem+json", "text/html", ""];
  for (let round = 0; round < 2000; round += 1) {
    let body = new TextEncoder().encode(JSON.stringify(mutated(random, mutated(random, GOOD))));
    if (random(10) < 3) body = body.slice(0, random(body.length + 1));
    if (random(10) < 2) body[random(body.length)] = random(256);
    const given = answer([200, 300, 404, 503, 418][random(5)] ?? 200, body, types[random(4)]);
    for (const parser of PARSERS) {
      try {
        parser(given);
      } catch (error) {
        assert.ok(error instanceof quorate.QuorateError, `${error}: ${new TextDecoder().decode(body)}`);
      }
    }
  }
});

test("bodies that break parsers", () => {
  for (const body of ["[".repeat(100_000), '{"siblings":'.repeat(50_000), Uint8Array.of(255, 254)]) {
    assert.throws(() => parse.read(REQUEST, answer(300, body), nobody), quorate.ProtocolError);
    assert.equal(parse.factsOf(answer(503, body, "application/problem+json")).problem, undefined);
  }
});

test("siblings are read with all that is said of them", () => {
  const read = parse.read(REQUEST, answer(300, JSON.stringify(GOOD)), nobody);
  assert.ok(read instanceof quorate.Siblings);
  assert.deepEqual(
    read.siblings.map((each) => [...each.value]),
    [[118], [255], []],
  );
  assert.deepEqual(
    read.siblings.map((each) => each.deleted),
    [false, false, true],
  );
  assert.deepEqual(
    [read.siblings[0]?.meta, read.siblings[0]?.writer, read.live.length],
    [{ a: "1" }, "n1", 2],
  );
  assert.deepEqual(
    read.siblings.map((each) => each.index),
    [{ age_i: [-7n, 42n], email_s: ["a@x"] }, {}, {}],
  );
  assert.deepEqual(
    read.siblings.map((each) => each.expiresAt?.toISOString()),
    ["2126-11-29T18:39:26.123Z", undefined, "2026-11-29T18:39:26.000Z"],
  );
});

test("when a value expires is a time or not there", () => {
  const expiresAt = (text?: string) => {
    const given = answer(200, "v");
    if (text !== undefined) given.headers.set("quorate-expires-at", text);
    return (parse.read(REQUEST, given, nobody) as quorate.Value).expiresAt;
  };
  assert.equal(expiresAt("2026-11-29T18:39:26.007Z")?.getTime(), Date.UTC(2026, 10, 29, 18, 39, 26, 7));
  assert.equal(expiresAt(), undefined);
  for (const text of [
    "",
    "soon",
    "2026-11-29T18:39:26Z",
    "2026-02-30T18:39:26.000Z",
    "2026-11-29T18:39:26.123+01:00",
  ]) {
    assert.throws(() => expiresAt(text), quorate.ProtocolError, text);
  }
});

test("times among the properties of a bucket are numbers or not there", () => {
  for (const [name, own] of [
    ["expires_in_s", "expiresInS"],
    ["feed_retention_s", "feedRetentionS"],
  ] as const) {
    const of = (seconds: unknown) =>
      parse.properties(answer(200, JSON.stringify({ ...GOOD, type: "value", [name]: seconds })))[own];
    assert.deepEqual([of(60), of(null), of(undefined)], [60, undefined, undefined]);
    for (const odd of ["60", 1.5, true, []]) assert.throws(() => of(odd), quorate.ProtocolError);
  }
});

test("a deleted key without a context is no answer", () => {
  const given = answer(404, '{"type":"urn:quorate:problem:key_deleted"}', "application/problem+json");
  const { deleted, expired } = parse.read(REQUEST, given, nobody) as quorate.Absent;
  assert.deepEqual([deleted, expired], [true, false]);
  given.headers.set("quorate-expired", "true");
  assert.equal((parse.read(REQUEST, given, nobody) as quorate.Absent).expired, true);
  given.headers.delete("quorate-context");
  assert.throws(() => parse.read(REQUEST, given, nobody), quorate.ProtocolError);
});

test("metadata named like parts of an object is metadata", () => {
  const given = answer(200, "v");
  given.headers.set("quorate-meta-__proto__", "x");
  const { meta } = parse.read(REQUEST, given, nobody) as quorate.Value;
  assert.equal(Object.getPrototypeOf(meta), Object.prototype);
  assert.deepEqual(Object.keys(meta), ["__proto__"]);
});
