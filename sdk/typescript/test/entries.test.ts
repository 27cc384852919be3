/** Index entries and questions to an index: what is sent, what is refused, what hostile answers come to. */

import assert from "node:assert/strict";
import { test } from "node:test";

import * as entries from "../src/entries.js";
import * as quorate from "../src/index.js";
import * as parse from "../src/parse.js";
import * as wire from "../src/wire.js";
import type { Json } from "./conformance/servers.js";
import { withStub } from "./stub.js";

const SMALL = -(2n ** 63n);
const LARGE = 2n ** 63n - 1n;
const JSON_TYPE = { "Content-Type": "application/json" };
const DONE = { status: 204, headers: { "Quorate-Context": "c2", "Quorate-Siblings": "1" } };
const VALUE = {
  status: 200,
  headers: {
    "Quorate-Context": "c1",
    ETag: '"e1"',
    "Content-Type": "a/b",
    "Quorate-Index-Email_s": "a%2Cb, caf%C3%A9",
    "Quorate-Index-age_i": "-7, 42",
  },
  body: "one",
};
const ENTRIES = { email_s: ["a,b", "café"], age_i: [-7n, 42n] };
const SIBLINGS = [
  { dot: "d-1", value: "a", index: { age_i: [7] } },
  { dot: "d-2", value: "b" },
];

const json = (body: string): Json => ({ status: 200, headers: JSON_TYPE, body });
const page = (cursor: string | null, hits: readonly [unknown, string][], complete = true): Json => {
  const listed = hits.map(([value, key]) => `{"value":${value},"key":"${key}"}`);
  return json(`{"entries":[${listed.join(",")}],"cursor":${JSON.stringify(cursor)},"complete":${complete}}`);
};

const sent = (index: unknown): Record<string, string> =>
  Object.fromEntries(
    wire
      .put("b", "k", "", { index: index as quorate.Index })
      .headers.filter(([name]) => name.startsWith("quorate-index-")),
  );

async function all<V>(hits: AsyncIterable<quorate.IndexEntry<V>>): Promise<[V, string][]> {
  const found: [V, string][] = [];
  for await (const { value, key } of hits) found.push([value, key]);
  return found;
}

test("each index is one header", () => {
  const given: [quorate.Index | undefined, Record<string, string>][] = [
    [{ email_s: "a@x" }, { email_s: "a@x" }],
    [
      { email_s: ["b@x", "a@x", "b@x"], age_i: 42 },
      { email_s: "b@x, a@x, b@x", age_i: "42" },
    ],
    [{ "x-1_2_i": [LARGE, SMALL, 2 ** 53 - 1] }, { "x-1_2_i": `${LARGE}, ${SMALL}, 9007199254740991` }],
    [
      { a_s: ["a,b", "5%", " ü🍐 ", "~!?", "\n"] },
      { a_s: "a%2Cb, 5%25, %20%C3%BC%F0%9F%8D%90%20, ~!?, %0A" },
    ],
    [{ a_s: [], b_i: [] }, {}],
    [{ a_s: undefined as never }, {}],
    [{}, {}],
    [undefined, {}],
  ];
  for (const [index, headers] of given) {
    const named = Object.entries(headers).map(([name, text]) => [`quorate-index-${name}`, text]);
    assert.deepEqual(sent(index), Object.fromEntries(named));
  }
});

test("entries that are none are refused", () => {
  const names = [
    "email",
    "_s",
    "a.b_s",
    "Email_s",
    "a_s\r\nx_s",
    "ü_s",
    "",
    `${"a".repeat(63)}_s`,
    "__proto__",
  ];
  const wrong: unknown[] = [
    ...names.map((name) => JSON.parse(`{${JSON.stringify(name)}: "v"}`)),
    ...["", ["a", ""], 7, [7n], null, "\ud800", [["a"]], { 0: "a" }].map((a_s) => ({ a_s })),
    ...["7", 7.5, 2 ** 53, true, [Number.NaN], LARGE + 1n, SMALL - 1n, null, {}].map((a_i) => ({ a_i })),
    "email_s",
    null,
    [["email_s", "a@x"]],
  ];
  for (const index of wrong) {
    assert.throws(() => sent(index), { name: "InvalidArgument", message: /^index: / }, String(index));
  }
});

test("a question is one request", () => {
  const target = (name: string, query: quorate.IndexQuery, limit?: number, cursor?: string): string =>
    wire.index("a/b", name, query, limit, cursor).target;
  assert.equal(target("email_s", {}), "/index/a%2Fb/email_s");
  assert.equal(target("email_s", { eq: "ü/&" }), "/index/a%2Fb/email_s?eq=%C3%BC%2F%26");
  assert.equal(target("age_i", { from: SMALL, to: 0 }), `/index/a%2Fb/age_i?from=${SMALL}&to=0`);
  assert.equal(target("age_i", { eq: 0n }, 7, "C/1"), "/index/a%2Fb/age_i?eq=0&limit=7&cursor=C%2F1");
});

test("questions that are none are refused", () =>
  withStub([page(null, [])], async (client, stub) => {
    const wrong: [string, quorate.IndexQuery][] = [
      ["email", { eq: "a" }],
      ["Email_s", { eq: "a" }],
      ["../keys_s", {}],
      ["email_s", { eq: "a", from: "a" }],
      ["email_s", { eq: "a", to: "b" }],
      ["email_s", { eq: 7 }],
      ["email_s", { from: "" }],
      ["age_i", { eq: "7" }],
      ["age_i", { to: 2 ** 53 }],
      ["age_i", { from: LARGE + 1n }],
    ];
    for (const [name, query] of wrong) {
      await assert.rejects(client.indexPage("b", name, query), quorate.InvalidArgument, name);
      await assert.rejects(all(client.index("b", name, query)), quorate.InvalidArgument, name);
    }
    assert.equal(stub.take().length, 0);
  }));

test("what an index has and is asked for goes by its name", () =>
  withStub([page(null, [[7, "a"]])], async (client) => {
    for await (const { value } of client.index("b", "age_i", { from: 7, to: 7n }))
      assert.equal(value + 1n, 8n);
    // @ts-expect-error: the index has numbers
    await assert.rejects(client.indexPage("b", "age_i", { eq: "7" }), quorate.InvalidArgument);
    // @ts-expect-error: the index has texts
    await assert.rejects(client.indexPage("b", "email_s", { eq: 7 }), quorate.InvalidArgument);
    // @ts-expect-error: an index has one of two types
    await assert.rejects(client.put("b", "k", "v", { index: { email: "a@x" } }), quorate.InvalidArgument);
    // @ts-expect-error: the index has numbers
    await assert.rejects(client.put("b", "k", "v", { index: { age_i: "7" } }), quorate.InvalidArgument);
  }));

test("an index is read to its end, also over pages without entries", () => {
  const pages = [
    page("C1", [
      [SMALL, "a"],
      [7, "9007199254740993"],
    ]),
    page("C2", []),
    page(null, [
      ["9007199254740993", "c"],
      [LARGE, "a"],
    ]),
    page("C1", [[7, "b"]]),
  ];
  return withStub(pages, async (client, stub) => {
    assert.deepEqual(await all(client.index("b", "age_i", { from: SMALL, to: LARGE, pageSize: 2 })), [
      [SMALL, "a"],
      [7n, "9007199254740993"],
      [9007199254740993n, "c"],
      [LARGE, "a"],
    ]);
    const one = await client.indexPage("b", "age_i", { eq: 7, limit: 1, cursor: "C0" });
    assert.deepEqual(one, { entries: [{ value: 7n, key: "b" }], cursor: "C1", complete: true });
    const requests = stub.take();
    assert.ok(requests.every(({ method, path }) => method === "GET" && path === "/index/b/age_i"));
    const asked = { from: String(SMALL), to: String(LARGE), limit: "2" };
    assert.deepEqual(
      requests.map(({ query }) => query),
      [asked, { ...asked, cursor: "C1" }, { ...asked, cursor: "C2" }, { eq: "7", limit: "1", cursor: "C0" }],
    );
  });
});

test("a page that is not complete is an error unless that is allowed", () => {
  const [first, last] = [page("C1", [[1, "a"]], false), page(null, [[2, "a"]])];
  return withStub([first, last, first], async (client) => {
    const found = await all(client.index("b", "age_i", { allowIncomplete: true }));
    assert.deepEqual(
      found.map(([value]) => value),
      [1n, 2n],
    );
    await assert.rejects(all(client.index("b", "age_i")), {
      name: "IncompleteListing",
      message: /entries may be missing/,
    });
    assert.equal((await client.indexPage("b", "age_i")).complete, false);
  });
});

test("an index that does not advance is an error", () =>
  withStub([page("C1", [])], async (client, stub) => {
    await assert.rejects(all(client.index("b", "age_i")), quorate.ProtocolError);
    assert.equal(stub.take().length, 2);
  }));

test("what copies a value keeps its entries", () => {
  const conflict = {
    status: 300,
    headers: { "Quorate-Context": "c3", ...JSON_TYPE },
    json: { siblings: SIBLINGS },
  };
  const answers = [VALUE, DONE, VALUE, DONE, VALUE, DONE, VALUE, DONE, conflict, DONE, DONE, DONE];
  return withStub(answers, async (client, stub) => {
    const next = { value: "v", index: { age_i: 1 } };
    await client.update("b", "k", () => "two");
    await client.update("b", "k", () => ({ value: "v" }));
    await client.update("b", "k", () => next);
    const read = await client.get("b", "k");
    assert.ok(read.kind === "value");
    assert.deepEqual(read.index, ENTRIES);
    await read.put("v");
    const siblings = await client.get("b", "k");
    assert.ok(siblings.kind === "siblings");
    assert.deepEqual(
      siblings.siblings.map(({ index }) => index),
      [{ age_i: [7n] }, {}],
    );
    const kept = siblings.siblings[0] ?? assert.fail("there is a sibling");
    for (const decision of ["v", next, kept]) await siblings.resolve(() => decision);
    const written = stub.take().filter(({ method }) => method !== "GET");
    const names = ["quorate-index-email_s", "quorate-index-age_i"];
    assert.deepEqual(
      written.map(({ headers }) => names.map((name) => headers[name])),
      [
        ["a%2Cb, caf%C3%A9", "-7, 42"],
        [undefined, undefined],
        [undefined, "1"],
        [undefined, undefined],
        [undefined, undefined],
        [undefined, "1"],
        [undefined, undefined],
      ],
    );
    assert.equal(written.at(-1)?.path, "/siblings/b/k");
  });
});

test("a batch writes and reads entries, with all of their digits", () => {
  const index = `{"age_i":[${SMALL},${LARGE}],"a_s":["a,b","%41"]}`;
  const value = `{"status":200,"value":"v","context":"c","index":${index}}`;
  const siblings = `[{"dot":"d-1","value":"a","index":{"age_i":[7,${LARGE}]}},{"dot":"d-2","value":"b"}]`;
  const conflict = `{"status":300,"context":"c","siblings":${siblings}}`;
  const answer = json(`{"results":[{"status":204},{"status":204},${value},${conflict}]}`);
  return withStub([answer], async (client, stub) => {
    const place = { bucket: "b", key: "k" };
    const [, , read, both] = await client.batch([
      { op: "put", ...place, value: "v", index: { email_s: "ü,%", age_i: [LARGE, 1], a_s: [] } },
      { op: "put", ...place, value: "v", index: {} },
      { op: "get", ...place },
      { op: "get", ...place },
    ]);
    assert.ok(read instanceof quorate.Value && both instanceof quorate.Siblings);
    assert.deepEqual(read.index, { age_i: [SMALL, LARGE], a_s: ["a,b", "%41"] });
    assert.deepEqual(
      both.siblings.map(({ index }) => index),
      [{ age_i: [7n, LARGE] }, {}],
    );
    const body = stub.take()[0]?.body ?? "";
    assert.ok(body.includes(`"index":{"email_s":["ü,%"],"age_i":[${LARGE},1]}}`), body);
    assert.equal(JSON.parse(body).operations[1].index, undefined);
  });
});

test("changes show the entries of their values", () => {
  const index = { age_i: [7], a_s: ["a,b"] };
  const changes = [
    { key: "a", status: 200, value: "v", context: "c", index },
    { key: "b", status: 200, bytes: 70_000, index },
    { key: "c", status: 300, context: "c", siblings: SIBLINGS },
  ];
  const answer = { status: 200, headers: JSON_TYPE, json: { changes, cursor: "C", complete: true } };
  return withStub([answer], async (client) => {
    const [value, large, siblings] = (await client.feedPage("b", { start: "oldest" })).changes;
    assert.ok(value?.kind === "value" && large?.kind === "large" && siblings?.kind === "siblings");
    assert.deepEqual([value.index, large.index], Array(2).fill({ age_i: [7n], a_s: ["a,b"] }));
    assert.deepEqual(siblings.siblings[0]?.index, { age_i: [7n] });
  });
});

test("a value in pieces has its entries", () =>
  withStub([VALUE], async (client) => {
    const read = await client.open("b", "k");
    assert.ok(read.kind === "stream");
    assert.deepEqual([read.index, new TextDecoder().decode(await read.bytes())], [ENTRIES, "one"]);
  }));

test("headers are split and then unescaped, or are no entries", () => {
  const read = (...pairs: [string, string][]): quorate.IndexEntries =>
    entries.ofHeaders(
      new Headers(pairs.map(([name, text]): [string, string] => [`Quorate-Index-${name}`, text])),
    );
  assert.deepEqual(read(["A_S", "a , b,c"], ["a_s", "d"]), { a_s: ["a", "b", "c", "d"] });
  assert.deepEqual(read(["a_s", "%20a%2Cb, x%%, %2 ,a+b"]), { a_s: [" a,b", "x%%", "%2", "a+b"] });
  assert.deepEqual(read(["a_i", "-7,%34%32, 007"]), { a_i: [-7n, 42n, 7n] });
  for (const text of ["", "a,,b", "a,", "%FF", "\u00ff"]) assert.throws(() => read(["a_s", text]), text);
  for (const text of ["", "old", "1.0", "+1", "1 2", String(LARGE + 1n), "9".repeat(5000)]) {
    assert.throws(() => read(["a_i", text]), text);
  }
  for (const name of ["_i", "a", "a_x", "a.b_i"]) assert.throws(() => read([name, "1"]), name);
});

test("any character comes back from a header", () => {
  const codes = [...Array.from({ length: 0x17f }, (_, at) => at + 1), 0x2028, 0xfeff, 0xffff, 0x1f350];
  const a_s = codes.map((code) => String.fromCodePoint(code));
  assert.deepEqual(entries.ofHeaders(new Headers(sent({ a_s }))), { a_s });
});

test("JSON that is none is an error of the protocol", async () => {
  const texts = [7, "", null, ["a"], {}].map((value) => ({ a_s: [value] }));
  const numbers = ["old", "", true, 7.5, 1e300, null].map((value) => ({ a_i: [value] }));
  const others = [[], "a_s", 7, { a_s: "a" }, { a_i: {} }, { a: ["v"] }, { A_s: ["v"] }];
  for (const index of [...texts, ...numbers, ...others]) {
    assert.throws(() => entries.ofJson(index), JSON.stringify(index));
    const result = { status: 200, value: "v", context: "c", index };
    const answer = { status: 200, headers: JSON_TYPE, json: { results: [result] } };
    await withStub([answer], async (client) => {
      const [read] = await client.batch([{ op: "get", bucket: "b", key: "k" }]);
      assert.ok(read instanceof quorate.ProtocolError, JSON.stringify(index));
    });
  }
});

test("numbers keep their digits in long answers, and texts stay as they are", () => {
  const text = `1234567890123456 \\" 1234567890123456 \\\\`;
  const long = `${text}${"x".repeat(16 * 1024 * 1024)}\\n`;
  const body = `{"a":"${text}","b":[1234567890123456,-${LARGE}],"c":"${long}","d":12345678901234567890}`;
  const headers = new Headers({ "content-type": "application/json" });
  const answer = { status: 200, headers, body: new TextEncoder().encode(body), isWhole: true };
  const { a, b, c, d } = parse.exactJsonObject(answer) as { [name: string]: unknown };
  assert.equal(a, '1234567890123456 " 1234567890123456 \\');
  assert.deepEqual(b, ["1234567890123456", `-${LARGE}`]);
  assert.equal((c as string).length, 16 * 1024 * 1024 + (a as string).length + 1);
  assert.equal(d, "12345678901234567890");
  const damaged = {
    ...answer,
    body: Uint8Array.of(...new TextEncoder().encode('{"a":1234567890123456,"b":"'), 255),
  };
  assert.throws(() => parse.exactJsonObject(damaged), quorate.ProtocolError);
});
