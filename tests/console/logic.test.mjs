// The parts of the console that need no browser: differences, promises, findings.

import assert from "node:assert/strict";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

const load = (name) => import(pathToFileURL(`${process.env.CONSOLE_SOURCE}/${name}.js`));

test("runs turn one text into the other", async () => {
  const { runs } = await load("diff");
  const letters = "abcd";
  const random = (seed) =>
    Array.from({ length: seed % 12 }, (_, at) => letters[(seed * (at + 3) * 31 + at * at) % 4]);
  for (let seed = 0; seed < 400; seed += 1) {
    const [a, b] = [random(seed), random(seed * 7 + 5)];
    const all = runs(a, b);
    const side = (other) => all.filter((it) => it.kind !== other).flatMap((it) => it.items);
    assert.deepEqual([side("right"), side("left")], [a, b]);
  }
});

test("JSON differs where it differs", async () => {
  const { jsonDiff, joined } = await load("diff");
  assert.deepEqual(jsonDiff({ a: 1, b: [1, { c: 2 }] }, { a: 1, b: [1, { c: 2 }] }), []);
  assert.deepEqual(
    jsonDiff({ a: 1, b: [1, 2], "c d": null }, { a: 2, b: [1] }).map((it) => [it.path, it.kind]),
    [
      ["$.a", "changed"],
      ["$.b[1]", "left"],
      ['$["c d"]', "left"],
    ],
  );
  assert.deepEqual(
    jsonDiff([], {}).map((it) => it.kind),
    ["changed"],
  );
  assert.deepEqual(joined({ a: 1, l: [1, 2] }, { a: 2, l: [2, 3], n: null }), {
    a: 2,
    l: [2, 3, 1],
    n: null,
  });
});

test("N, R and W promise what the design says", async () => {
  const { number, words } = await load("promise");
  assert.deepEqual(
    [number("one", 5), number("quorum", 5), number("quorum", 4), number("all", 5), number(2, 5)],
    [1, 3, 3, 5, 2],
  );
  const first = (n, r, w, sloppy, homes = n) => words({ n, r, w, sloppy, nodes: 5, homes })[0].kind;
  for (let n = 1; n <= 5; n += 1) {
    for (let r = 1; r <= n; r += 1) {
      for (let w = 1; w <= n; w += 1) {
        assert.equal(first(n, r, w, false), r + w > n ? "good" : "warn", `${n} ${r} ${w}`);
        assert.equal(first(n, r, w, true), r + w > n ? "note" : "warn", `${n} ${r} ${w}`);
      }
    }
  }
  assert.equal(first(2, 2, 2, false, 3), "warn", "a lowered N asks other replicas");
  const text = (terms) =>
    words({ n: 3, nodes: 5, homes: 3, ...terms })
      .map((it) => it.text)
      .join(" ");
  assert.match(text({ r: 1, w: 1, sloppy: true }), /One lost disk can lose/);
  assert.match(
    text({ r: 1, w: 3, sloppy: false }),
    /No writes of a key while one of its home replicas is down/,
  );
  assert.match(text({ r: 3, w: 1, sloppy: false }), /none while one is down/);
});

test("findings put the worst first, and say nothing when there is nothing", async () => {
  const { findings, verdict } = await load("findings");
  const peer = (node, more = {}) => ({
    node,
    state: "up",
    reaches_us: true,
    release: "1",
    disagrees: [],
    writable: true,
    ready: true,
    layout: { hash: "a" },
    ...more,
  });
  const cluster = (nodes, more = {}) => ({
    node: "n1",
    ready: true,
    filled: true,
    writable: true,
    lost_partitions: 0,
    distrusted_rows: 0,
    layout: { hash: "a" },
    nodes: [{ node: "n1", state: "self", release: "1" }, ...nodes],
    ...more,
  });
  const of = (it) => findings({ cluster: it, hints: null, antiEntropy: null, hintHistory: new Map() });
  const well = cluster([peer("n2"), peer("n3")]);
  assert.deepEqual(of(well), []);
  assert.equal(verdict(well, []).kind, "good");
  const ill = cluster([peer("n2", { reaches_us: false }), peer("n3", { state: "down", since_ms: 5000 })], {
    waits_for_operator: "something",
  });
  assert.deepEqual(
    of(ill).map((it) => it.kind),
    ["bad", "bad", "warn"],
  );
  assert.match(verdict(ill, of(ill)).text, /2 of 3 nodes are up\. Something waits for an operator/);
});

test("a job that panicked is a finding, and one that is done or paused is none", async () => {
  const { findings } = await load("findings");
  const { byName, isTroubled, progressOf, stateOf, tookOf } = await load("jobs");
  const job = (more) => ({
    job: "fill",
    peer: null,
    state: "waiting",
    reason: null,
    last_error: null,
    ...more,
  });
  const panicked = job({ state: "ended", job: "handoff", peer: "n2", last_error: "panicked: no luck" });
  const over = job({ state: "ended", last_error: "the store is busy" });
  const paused = job({ state: "paused", reason: "peer down", peer: "n3" });
  const goesOn = job({ last_error: "panicked: as a peer said" });
  const all = [job(), panicked, over, paused, goesOn];
  const cluster = { node: "n1", ready: true, filled: true, writable: true, nodes: [] };
  const found = findings({ cluster, hints: null, antiEntropy: null, jobs: all, hintHistory: new Map() });
  assert.deepEqual(
    found.map((it) => [it.kind, it.what]),
    [["bad", "The background job handoff for n2 has ended: it panicked: no luck"]],
  );
  assert.deepEqual(all.map(isTroubled), [false, true, true, true, true]);
  assert.deepEqual(all.map(stateOf), [
    ["note", "waiting"],
    ["bad", "ended"],
    ["note", "ended"],
    ["warn", "paused: peer down"],
    ["note", "waiting"],
  ]);
  assert.deepEqual(
    byName([job({ peer: "a" }), job({ job: "x" }), job({ peer: "b" })]).map((it) => it.job + it.peer),
    ["filla", "fillb", "xnull"],
  );
  assert.deepEqual(
    [progressOf({ done: null, of: null }), progressOf({ done: 3, of: 1064 })],
    ["", "3 of 1,064"],
  );
  assert.deepEqual([tookOf(0), tookOf(1500), tookOf(7_200_000_000)], ["0 µs", "1.5 ms", "2 h"]);
});

test("a timeline has a lane for every node that took part", async () => {
  const { lanesOf } = await load("timeline");
  const trace = {
    entry: "n1",
    n: 3,
    preference_list: ["n2", "n5", "n3", "n1", "n4"],
    coordinator: { node: "n2", why: "home replica" },
    events: [
      { us: 1, node: null, what: "routed" },
      { us: 2, node: "n2", what: "minted" },
      { us: 3, node: "n4", what: "hinted" },
    ],
  };
  assert.deepEqual(
    lanesOf(trace).map((it) => [it.node, it.role, it.events.length]),
    [
      ["n1", "entry, fallback", 1],
      ["n2", "coordinator, home 1", 1],
      ["n5", "home 2", 0],
      ["n3", "home 3", 0],
      ["n4", "fallback", 1],
    ],
  );
});

test("a change of the layout is sent as the API takes it", async () => {
  const { asked, emptyDraft, isEmpty, sentences } = await load("layout_plan");
  const known = {
    members: [
      { name: "n1", zone: "a", weight: 1 },
      { name: "n2", zone: "b", weight: 2 },
    ],
    waiting: [{ name: "n4", zone: "c", weight: 1 }],
  };
  const draft = emptyDraft();
  assert.ok(isEmpty(draft));
  Object.assign(draft.changes, {
    n1: { op: "set", zone: " a ", weight: "3" },
    n2: { op: "replace", new: "n4", zone: "", weight: "2" },
  });
  draft.gone.add("n1").add("n2");
  assert.deepEqual(asked(draft, known), {
    changes: [
      { op: "set", name: "n1", weight: 3 },
      { op: "replace", old: "n2", new: "n4", weight: 2 },
    ],
    // A node that stays is not gone.
    gone: ["n2"],
  });
  assert.deepEqual(sentences(draft)[1], "n2 is replaced by n4 with weight 2, and is declared dead");
  for (const weight of ["x", "-1", "1.5", "999999"]) {
    draft.changes.n1.weight = weight;
    assert.match(asked(draft, known).wrong, /The weight of n1/, weight);
  }
});

test("the ring after a change has the zones of after", async () => {
  const { ringOf } = await load("layout_compare");
  const known = {
    members: [
      { name: "n1", zone: "a" },
      { name: "n2", zone: "b" },
      { name: "n3", zone: "c" },
    ],
    waiting: [
      { name: "n4", zone: "d" },
      { name: "n5", zone: "e" },
    ],
    partitions: 64,
    n: 2,
  };
  const load_of = (name, before, after) => ({ name, before, after, fair: 40 });
  const planned = {
    body: {
      changes: [
        { op: "set", name: "n1", zone: "z" },
        { op: "replace", old: "n2", new: "n4" },
        { op: "add", name: "n5" },
      ],
    },
    answer: {
      load: [
        load_of("n1", 50, 40),
        load_of("n2", 40, 0),
        load_of("n3", 38, 30),
        load_of("n4", 0, 30),
        load_of("n5", 0, 28),
      ],
    },
  };
  const zones = (side) => ringOf(known, planned, side).nodes.map((it) => `${it.node} ${it.zone}`);
  assert.deepEqual(zones("before"), ["n1 a", "n2 b", "n3 c"]);
  assert.deepEqual(zones("after"), ["n1 z", "n3 c", "n4 b", "n5 e"], "one that replaces takes over the zone");
  assert.deepEqual(ringOf(known, planned, "before").order, ringOf(known, planned, "after").order);
});

test("numbers beyond what a double holds are read digit by digit", async () => {
  const { exact, increment } = await load("typed");
  const { whole } = await load("format");
  const read = exact(
    '{"value":9223372036854775807,"n":3,"text":"{\\"value\\":9223372036854775807}","__proto__":[1]}',
  );
  assert.deepEqual([read.value, read.n, read.text.length], ["9223372036854775807", 3, 29]);
  assert.ok(Object.hasOwn(read, "__proto__"));
  assert.equal(whole(read.value), "9,223,372,036,854,775,807");
  assert.equal(whole("-170141183460469231731687303715884105728").length, 52);
  assert.equal(increment(" +5 ", -1).body, '{"increment":-5}');
  assert.equal(increment("9223372036854775807", 1).body, '{"increment":9223372036854775807}');
  assert.equal(increment("9223372036854775808", -1).body, '{"increment":-9223372036854775808}');
  for (const [text, sign] of [
    ["", 1],
    ["1.5", 1],
    ["five", 1],
    ["9223372036854775808", 1],
    ["-9223372036854775808", -1],
  ]) {
    assert.equal(increment(text, sign), null, text);
  }
});

test("a lifetime is typed with a unit, and shown so that it can be typed", async () => {
  const { lifetime, moment, seconds } = await load("format");
  for (const [text, given] of [
    ["", undefined],
    [" ", undefined],
    ["never", "never"],
    ["90", 90],
    ["90 s", 90],
    [" 15min ", 900],
    ["2 H", 7200],
    ["36600 d", 3_162_240_000],
  ]) {
    assert.equal(seconds(text), given, text);
  }
  for (const text of [
    "0",
    "0 s",
    "-1",
    "1.5 h",
    "1 hour",
    "1 m",
    "soon",
    "3162240001",
    "36601 d",
    "9".repeat(30),
  ]) {
    assert.equal(seconds(text), null, text);
  }
  for (const [given, text] of [
    [null, "never"],
    [undefined, "never"],
    [1, "1 s"],
    [90, "90 s"],
    [900, "15 min"],
    [3600, "1 h"],
    [86_400, "1 d"],
    [86_401, "86401 s"],
  ]) {
    assert.equal(lifetime(given), text);
    if (typeof given === "number") assert.equal(seconds(lifetime(given)), given);
  }
  assert.equal(moment("2026-11-29T18:39:26.123Z"), "2026-11-29 18:39:26 UTC");
  assert.equal(moment("soon"), "–");
});

test("what has expired is over, also before it is removed", async () => {
  const { isOver } = await load("value");
  const [past, future] = ["2020-01-01T00:00:00.000Z", "2126-01-01T00:00:00.000Z"];
  assert.deepEqual(
    [
      {},
      { deleted: true },
      { expires_at: past },
      { expires_at: past, deleted: true },
      { expires_at: future },
    ].map(isOver),
    [false, false, true, true, false],
  );
});

test("elements and fields have their parts, read or not", async () => {
  const { elementsOf, fieldChange, fieldsOf } = await load("typed");
  const part = (dot, content) => ({ dot, content });
  assert.deepEqual(
    elementsOf(["a", "__proto__"], [part(1, "a"), part(2, "b"), part(3, "a")]).map((it) => [
      it.name,
      it.isRead,
      it.parts.map((each) => each.dot),
    ]),
    [
      ["a", true, [1, 3]],
      ["__proto__", true, []],
      ["b", false, [2]],
    ],
  );
  const of = (field, type, content) => ({ field, type, content });
  const value = JSON.parse('{"__proto__":{"flag":true},"tags":{"register_lww":"x","set":["y"]}}');
  const parts = [
    part(1, of("tags", "set", "y")),
    part(2, of("tags", "register_lww", "x")),
    part(3, of("__proto__", "flag", "")),
    part(4, null),
  ];
  assert.deepEqual(
    fieldsOf(value, parts).map((it) => [it.name, it.type, it.isFirst, it.parts.map((each) => each.dot)]),
    [
      ["__proto__", "flag", true, [3]],
      ["tags", "register_lww", true, [2]],
      ["tags", "set", false, [1]],
    ],
  );
  assert.equal(
    fieldChange({ field: "__proto__", how: "remove", text: "x" }),
    '{"update":{"__proto__":{"set":{"remove":["x"]}}}}',
  );
});
