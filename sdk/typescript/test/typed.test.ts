/** Typed values: what is sent, what is refused, and what hostile answers come to. */

import assert from "node:assert/strict";
import { test } from "node:test";

import * as quorate from "../src/index.js";
import type { Answer } from "../src/parse.js";
import * as parse from "../src/parse_typed.js";
import type { Kind } from "../src/typed.js";
import * as wire from "../src/wire.js";
import type { Json } from "./conformance/servers.js";
import { withStub } from "./stub.js";

const DONE = { status: 204, headers: { "Quorate-Acks": "2" } };
const REQUEST = wire.typedGet("b", "k", {});
const KINDS: [Kind<unknown>, unknown][] = [
  [parse.COUNTER, 5],
  [parse.SET, ["a", "b"]],
  [parse.FLAG, true],
  [parse.MAP, { name: { register_lww: "Ann", flag: true }, tags: { set: ["x"] } }],
  [parse.REGISTER, "text"],
  [parse.ESTIMATE, 7],
];

function shown(type: string, value: unknown): Json {
  const headers = { "Content-Type": "application/json", "Quorate-Context": "c1", ETag: '"e1"' };
  return { status: 200, headers, json: { type, value, exists: true } };
}

function answer(body: string): Answer {
  const headers = new Headers({ "Content-Type": "application/json", "Quorate-Context": "c1" });
  return { status: 200, headers, body: new TextEncoder().encode(body), isWhole: true };
}

test("a read removes with its context", () =>
  withStub(
    [shown("set", ["a", "b"]), DONE, shown("flag", true), DONE, shown("map", {}), DONE],
    async (client, stub) => {
      const cart = await client.set("b", "k").get({ r: "all" });
      assert.deepEqual([[...cart.value], cart.exists, cart.etag], [["a", "b"], true, '"e1"']);
      assert.equal((await cart.remove(["a"], { w: 3 })).acks, 2);
      await (await client.flag("b", "k").get()).disable();
      const change = { remove: ["old"], removeFrom: { tags: ["x"] }, disable: ["on"] };
      await (await client.map("b", "k").get()).update(change);
      const sent = stub.take();
      const changes = sent.filter((each) => each.method === "POST");
      assert.ok(changes.every((each) => each.headers["quorate-context"] === "c1"));
      assert.deepEqual([sent[0]?.query, sent[1]?.query], [{ r: "all" }, { w: "3" }]);
      assert.deepEqual(
        changes.map((each) => JSON.parse(each.body) as unknown),
        [
          { remove: ["a"] },
          { enable: false },
          { update: { on: { flag: false }, tags: { set: { remove: ["x"] } } }, remove: ["old"] },
        ],
      );
    },
  ));

test("a change with its value is a context", () =>
  withStub([shown("set", ["a"]), DONE, DONE], async (client, stub) => {
    const cart = client.set("b", "k");
    const added = await cart.add(["a"], { returnBody: true });
    assert.deepEqual([...(added.read?.value ?? [])], ["a"]);
    await cart.change({ remove: ["a"] }, { context: added });
    const blind = await cart.add(["b"]);
    await assert.rejects(cart.change({ remove: ["a"] }, { context: blind }), quorate.InvalidArgument);
    assert.deepEqual(
      stub.take().map((each) => each.headers["quorate-context"]),
      [undefined, "c1", undefined],
    );
  }));

test("what cannot be meant is refused", () =>
  withStub([DONE], async (client, stub) => {
    for (const by of [1.5, 2 ** 53, NaN, 2n ** 63n, "1" as unknown as number]) {
      await assert.rejects(client.counter("b", "k").increment(by), quorate.InvalidArgument, String(by));
    }
    const wrong: quorate.MapChange[] = [
      { remove: ["f"] },
      { disable: ["f"] },
      { removeFrom: { f: ["x"] } },
      { add: { f: "text" as unknown as string[] } },
      { enable: ["f"], disable: ["f"] },
      { assign: { f: 7 as unknown as string } },
    ];
    for (const change of wrong) {
      await assert.rejects(client.map("b", "k").update(change), quorate.InvalidArgument);
    }
    await assert.rejects(client.set("b", "k").add(["\ud800"]), quorate.InvalidArgument);
    await assert.rejects(client.set("b", "k").add("ab" as unknown as string[]), quorate.InvalidArgument);
    assert.equal(stub.take().length, 0);
  }));

test("increments have all their digits", () =>
  withStub([DONE], async (client, stub) => {
    await client.counter("b", "k").increment(-(2n ** 63n));
    await client.map("b", "k").update({ assign: { __proto__x: "y" }, enable: ["toString"] });
    const [first, second] = stub.take();
    assert.equal(first?.body, '{"increment":-9223372036854775808}');
    const update = { __proto__x: { register_lww: "y" }, toString: { flag: true } };
    assert.deepEqual(JSON.parse(second?.body ?? ""), { update });
  }));

test("totals have all their digits", () => {
  const total = (value: string) =>
    parse.typed(REQUEST, answer(`{"type":"counter", "value": ${value} ,"exists":true}`), parse.COUNTER).value;
  assert.equal(total("18446744073709551615"), 2n ** 64n - 1n);
  assert.equal(total("-9223372036854775808"), -(2n ** 63n));
  assert.equal(total(`"${2n ** 80n}"`), 2n ** 80n);
  for (const bad of ["1e400", "1e30", "1.5", '"1.5"', '""', "null", "[1]"]) {
    assert.throws(() => total(bad), quorate.ProtocolError, bad);
  }
});

test("values are read as their type, and damaged ones are typed errors and never anything else", () => {
  const odd = [null, true, -1, 1.5, "", "-", [], {}, [[]], { flag: 1 }, { name: { set: 7 } }, { name: null }];
  for (const [kind, value] of KINDS) {
    const good = { type: kind.name, value, exists: true };
    assert.equal(parse.typed(REQUEST, answer(JSON.stringify(good)), kind).context, "c1");
    const wrong = () => parse.typed(REQUEST, answer(JSON.stringify({ ...good, type: "list" })), kind);
    assert.throws(wrong, quorate.WrongType);
    for (const name of ["type", "value", "exists"]) {
      for (const each of odd) {
        const text = JSON.stringify({ ...good, [name]: each });
        for (const body of [text, text.slice(0, -2)]) {
          try {
            parse.typed(REQUEST, answer(body), kind);
          } catch (error) {
            assert.ok(error instanceof quorate.QuorateError, String(error));
          }
        }
      }
    }
  }
});

test("properties that were read can be set", () => {
  const { body } = wire.bucketRequest("PUT", "b", { type: "set", conflicts: "merged", n: 3 });
  assert.deepEqual(JSON.parse(new TextDecoder().decode(body as Uint8Array)), { type: "set", n: 3 });
});
