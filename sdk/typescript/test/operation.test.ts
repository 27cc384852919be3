/** Retries and the choice of nodes, with a clock that only moves when it is told to, and no network. */

import assert from "node:assert/strict";
import { test } from "node:test";

import * as quorate from "../src/index.js";
import { Nodes } from "../src/nodes.js";
import { call, type Policy } from "../src/operation.js";
import type { Answer } from "../src/parse.js";
import type { Failure } from "../src/transport.js";
import * as wire from "../src/wire.js";
import { xxh3_64 } from "../src/xxh3.js";

type Reply = Answer | Failure;

const OK: Answer = { status: 204, headers: new Headers(), body: new Uint8Array(), isWhole: true };
const LOST: Failure = { failure: "lost", detail: "reset" };
const UNSENT: Failure = { failure: "unsent", detail: "refused" };
const SLOW: Failure = { failure: "timeout", detail: "slow" };
const LONG: Failure = { failure: "oversized", detail: "long" };
const WRITE = wire.put("b", "k", "v", {});
const READ = wire.get("b", "k", {}, false);

function refusal(name: string, facts: object = {}, waitS?: number): Answer {
  const headers = new Headers({ "content-type": "application/problem+json" });
  if (waitS !== undefined) headers.set("retry-after", String(waitS));
  const problem = { type: `urn:quorate:problem:${name}`, ...facts };
  const status = name.startsWith("bad_") ? 400 : 503;
  return { status, headers, body: new TextEncoder().encode(JSON.stringify(problem)), isWhole: true };
}

class World {
  now = 100;
  readonly nodes: Nodes;
  readonly asked: string[] = [];
  readonly waits: number[] = [];
  readonly #policy: Policy;

  constructor(
    count: number,
    readonly replies: Reply[],
    settings: Partial<Policy> = {},
  ) {
    this.nodes = new Nodes(Array.from({ length: count }, (_, at) => `http://n${at}`));
    this.#policy = {
      deadlineMs: 15_000,
      attemptsMax: 5,
      attemptTimeoutMs: 7_000,
      now: () => this.now,
      sleep: async (ms) => {
        this.waits.push(ms);
        this.now += ms;
      },
      send: async (url, _request, { timeoutMs }) => {
        this.asked.push(url);
        const reply = this.replies.shift() ?? OK;
        if (reply === SLOW) this.now += timeoutMs;
        return reply;
      },
      ...settings,
    };
  }

  run(request: wire.Request): Promise<Answer> {
    return call(request, this.nodes, this.#policy, new Set([204]), this.now + this.#policy.deadlineMs);
  }
}

const failure = async (work: Promise<unknown>): Promise<quorate.QuorateError> => {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof quorate.QuorateError, String(error));
  return error;
};

test("another node is asked without waiting for the first", async () => {
  const world = new World(3, [refusal("overloaded", {}, 60), UNSENT]);
  assert.equal(await world.run(WRITE), OK);
  assert.equal(new Set(world.asked).size, 3);
  assert.ok(world.waits.every((wait) => wait < 500));
});

test("the only node is left alone for as long as it asks", async () => {
  const world = new World(1, [refusal("overloaded", {}, 3)]);
  await world.run(WRITE);
  assert.ok((world.waits[0] ?? 0) >= 3000);
});

test("a wait past the deadline ends the operation at once", async () => {
  const world = new World(1, [refusal("overloaded", { outcome: "not_applied" }, 60)]);
  const error = await failure(world.run(WRITE));
  assert.ok(error instanceof quorate.Overloaded);
  assert.deepEqual([world.waits, error.attempts, error.outcome], [[], 1, "not_applied"]);
});

test("a dead node is avoided by later operations and asked again later", async () => {
  const world = new World(2, [UNSENT]);
  await world.run(WRITE);
  const [dead, alive] = world.asked;
  for (let at = 0; at < 4; at += 1) await world.run(WRITE);
  assert.deepEqual(new Set(world.asked.slice(2)), new Set([alive]));
  world.now += 60_000;
  for (let at = 0; at < 4; at += 1) await world.run(WRITE);
  assert.ok(world.asked.slice(6).includes(dead ?? ""));
});

test("the outcome of a write is that of all attempts", async () => {
  const partial = refusal("no_quorum", { outcome: "partial" });
  const cases: [Reply[], unknown, string][] = [
    [[UNSENT, UNSENT], quorate.Unreachable, "not_applied"],
    [[LOST, UNSENT], quorate.UnknownOutcome, "unknown"],
    [[UNSENT, LOST], quorate.UnknownOutcome, "unknown"],
    [[LOST, partial], quorate.PartialWrite, "partial"],
    [[partial, LOST], quorate.PartialWrite, "partial"],
    [[refusal("x"), refusal("x")], quorate.UnknownOutcome, "unknown"],
    [[LOST, refusal("bad_context")], quorate.BadContext, "unknown"],
    [[SLOW, SLOW], quorate.UnknownOutcome, "unknown"],
    [[LONG], quorate.UnknownOutcome, "unknown"],
  ];
  for (const [replies, kind, outcome] of cases) {
    const world = new World(2, [...replies], { attemptsMax: 2 });
    const error = await failure(world.run(WRITE));
    assert.deepEqual([error.constructor, error.outcome, world.replies], [kind, outcome, []]);
  }
});

test("a read that runs out of time says so, and has no outcome", async () => {
  const world = new World(1, [SLOW, SLOW, SLOW], { deadlineMs: 8000 });
  const error = await failure(world.run(READ));
  assert.deepEqual([error.constructor, error.outcome], [quorate.DeadlineExceeded, undefined]);
});

test("pieces that can be read once are sent once", async () => {
  const once = wire.put("b", "k", [new Uint8Array(1)], {});
  assert.ok((await failure(new World(2, [LOST]).run(once))) instanceof quorate.UnknownOutcome);
  assert.equal(await new World(2, [UNSENT]).run(once), OK);
  const again = wire.put("b", "k", () => [new Uint8Array(1)], {});
  assert.equal(await new World(2, [LOST]).run(again), OK);
});

const NAMES = ["n1", "n2", "n3", "n4"];
function cluster(): Nodes {
  const nodes = new Nodes(["http://10.0.0.1:7401"]);
  const homes = Array.from({ length: 16 }, (_, at) => [at % 4, (at + 1) % 4]);
  const addresses = new Map(NAMES.map((name, at) => [name, `10.0.0.${at + 1}:7401`]));
  nodes.discovered(addresses, { nodes: NAMES, homes }, 0);
  return nodes;
}

test("a write goes to the first home replica, and a read to each", () => {
  const nodes = cluster();
  for (let at = 0; at < 50; at += 1) {
    const key = String(at);
    const partition = Number((xxh3_64(new TextEncoder().encode(`b\0${key}`)) ?? 0n) >> 60n);
    const homes = [NAMES[partition % 4], NAMES[(partition + 1) % 4]];
    const asked = (isWrite: boolean) =>
      new Set(Array.from({ length: 8 }, () => nodes.pick(["b", key], isWrite, [], 0).name));
    assert.deepEqual(asked(true), new Set([homes[0]]));
    assert.deepEqual(asked(false), new Set(homes));
  }
});

test("addresses that are none are not taken, and a token stays encrypted", () => {
  for (const address of [
    "0.0.0.0:7401",
    "[::]:7401",
    "evil/path",
    "a b:1",
    "user@host:1",
    "h:99999",
    "a?b",
  ]) {
    const nodes = new Nodes(["http://seed:1"]);
    nodes.discovered(new Map([["n1", address]]), undefined, 0);
    assert.deepEqual(
      nodes.all().map((node) => node.url),
      ["http://seed:1"],
      address,
    );
  }
  const secure = new Nodes(["https://seed:1"]);
  secure.discovered(new Map([["n1", "10.0.0.1:1"]]), undefined, 0);
  assert.deepEqual(
    secure.all().map((node) => node.url),
    ["https://10.0.0.1:1"],
  );
});

test("when all nodes are down, the URLs given are tried too", () => {
  const nodes = new Nodes(["http://seed:1"]);
  nodes.discovered(new Map([["n1", "10.0.0.1:1"]]), undefined, 0);
  const found = nodes.pick(undefined, false, [], 0);
  nodes.failed(found, 0);
  assert.equal(nodes.pick(undefined, false, [found], 0).url, "http://seed:1");
});

test("a later epoch is a reason to look once, soon, and not together with other clients", () => {
  const due = new Set<number>();
  for (let turn = 0; turn < 20; turn += 1) {
    const nodes = new Nodes(["http://seed:1"]);
    assert.ok(nodes.claimRefresh(5_000));
    nodes.heard(4, 5_000);
    nodes.discovered(new Map([["n1", "10.0.0.1:1"]]), undefined, 5_000, 4);
    for (const epoch of [undefined, 3, 4]) nodes.heard(epoch, 6_000);
    assert.ok(!nodes.claimRefresh(30_000), "nothing new");
    for (let again = 0; again < 100; again += 1) nodes.heard(5, 30_000);
    assert.equal(nodes.epoch, 5);
    const at = Array.from({ length: 201 }, (_, step) => 30_000 + step * 10).find((now) =>
      nodes.claimRefresh(now),
    );
    assert.ok(at !== undefined && at >= 31_000, `at ${at}`);
    due.add(at);
    assert.ok(!nodes.claimRefresh(32_000), "once");
  }
  assert.ok(due.size > 5, [...due].join());
});

test("a node that was removed is as good as dead", async () => {
  const world = new World(2, [refusal("removed", { outcome: "not_applied" })]);
  assert.equal(await world.run(WRITE), OK);
  const [removed, member] = world.asked;
  for (let at = 0; at < 4; at += 1) await world.run(WRITE);
  assert.notEqual(member, removed);
  assert.deepEqual(new Set(world.asked.slice(1)), new Set([member]));
});
