// The layout: shown, planned, compared, committed, followed. What no node can be brought to show here is put
// into its answers.

import assert from "node:assert/strict";
import { test } from "node:test";

import { URLS, assertAccessible, open, request, withPage } from "./harness.mjs";

const HASH = "0123456789abcdef0123456789abcdef";
const MARKUP = "<img src=x onerror=alert(1)>";

const member = (name, more = {}) => ({
  name,
  zone: `zone of ${name}`,
  weight: 1,
  seat: name,
  disk: HASH,
  peer_addr: `${name}:7501`,
  client_addr: null,
  state: "up",
  load: 100,
  fair: 96,
  ...more,
});

const stable = (more = {}) => ({
  epoch: "7",
  hash: HASH,
  phase: "stable",
  partitions: 128,
  n: 3,
  members: [member("n1", { state: "self" }), member("n2", { zone: MARKUP }), member("n3", { state: "down" })],
  next: null,
  gone: [],
  leaving: [],
  progress: null,
  waiting: [],
  ...more,
});

const joiner = (name) => ({
  name,
  disk: `${HASH.slice(0, 30)}${name}`,
  peer_addr: `${name}:7501`,
  client_addr: `${name}:7401`,
  zone: `zone of ${name}`,
  weight: 1,
  since_ms: 4_000,
});

const plan = (more = {}) => ({
  base: HASH,
  result: HASH,
  joint: true,
  moves: { replicas: 40, least: 32, bytes_estimate: 5_000_000, rows_estimate: 1_234 },
  load: [
    { name: "n1", before: 128, after: 96, fair: 96 },
    { name: "n2", before: 128, after: 96, fair: 96 },
    { name: "n3", before: 128, after: 96, fair: 96 },
    { name: "n4", before: 0, after: 96, fair: 96 },
  ],
  warnings: [],
  refusals: [],
  ...more,
});

/** Lets the node answer so; a function of the request's body or a value; returns what it was asked. */
async function answers(page, given) {
  const asked = [];
  await page.route(/\/layout(\/[a-z]+)?(\?.*)?$/, async (route) => {
    const path = new URL(route.request().url()).pathname;
    const body = route.request().postDataJSON();
    asked.push({ path, body, at: Date.now() });
    const answer = path in given ? given[path] : path === "/layout/history" ? [] : undefined;
    if (answer === undefined) return route.continue();
    const json = typeof answer === "function" ? answer(body) : answer;
    const { status = 200, ...rest } = json.problem ?? {};
    return json.problem
      ? route.fulfill({ status, json: rest, contentType: "application/problem+json" })
      : route.fulfill({ json });
  });
  return asked;
}

const row = (page, table, name) =>
  page.getByRole("table", { name: table, exact: true }).getByRole("row", { name: new RegExp(`^${name} `) });

test("a change is planned, compared, committed, and followed to its end", () =>
  withPage({}, async (page) => {
    const weigh = async (weight) => {
      const { epoch } = await (await request(0, "GET", "/layout")).json();
      await page.getByLabel("Change n5").selectOption("set");
      await page.getByLabel("Weight of n5").fill(weight);
      await page.getByText(`n5 gets weight ${weight}`).waitFor();
      await page.getByRole("button", { name: "Compare" }).click();
      await page.getByRole("heading", { name: "What the change comes to" }).waitFor();
      assert.equal(await page.locator(".comparison .ring").count(), 2);
      for (const box of await page.locator(".comparison [type=checkbox]").all()) await box.check();
      await assertAccessible(page, "a change");
      await page.getByRole("button", { name: "Commit" }).click();
      await page.getByRole("dialog").getByText(`n5 gets weight ${weight}`).waitFor();
      await page.getByRole("dialog").getByRole("button", { name: "Commit" }).click();
      await page.getByText("The change is committed").first().waitFor();
      const end = new RegExp(`epoch ${Number(epoch) + 2}$`);
      await page.locator(".verdict .sentence").getByText(end).waitFor({ timeout: 120_000 });
      await row(page, "Members", "n5").getByRole("cell", { name: weight, exact: true }).waitFor();
    };
    await open(page, "layout");
    assert.equal(
      await page.getByRole("table", { name: "Members", exact: true }).getByRole("row").count(),
      URLS.length + 1,
    );
    await weigh("2");
    await weigh("1");
    await row(page, "History", "[0-9]+").first().waitFor();
  }));

test("what was decided is followed: who receives, who waits for whom, who leaves", () =>
  withPage({}, async (page) => {
    const shown = stable({
      phase: "moving",
      next: [member("n1"), member("n2"), member("n4", { state: "unknown" })],
      gone: ["n3"],
      leaving: [
        { name: "n9", disk: HASH, rows: null, hints: 5, released: false },
        { name: "n7", disk: `${HASH.slice(1)}f`, rows: null, hints: null, released: false },
      ],
      progress: {
        partitions_total: 96,
        partitions_ready: 40,
        bytes_left: 7_000_000,
        by_node: {
          n1: { partitions: 0, missing: 0, busy: false, waiting_for: [] },
          n2: { partitions: 32, missing: 0, busy: false, waiting_for: [] },
          n4: { partitions: 64, missing: 56, busy: true, waiting_for: ["n2", "n3"], eta_s: 300 },
          n5: { partitions: null, missing: null, busy: null, waiting_for: [] },
        },
      },
      waiting: [joiner("n8")],
    });
    const decided = { epoch: "8", hash: HASH };
    const given = { "/layout": () => shown, "/layout/abort": decided, "/layout/release": decided };
    const asked = await answers(page, given);
    await open(page, "layout");
    await page.getByText("40 of 96").waitFor();
    await page.getByText("7.0 MB").waitFor();
    const progress = page.getByRole("table", { name: "Progress by node" });
    assert.equal(await progress.getByRole("row").count(), 4, "n1 receives nothing");
    await row(page, "Progress by node", "n4").getByText("n2 and n3").waitFor();
    await row(page, "Progress by node", "n4").getByText("about 5 min").waitFor();
    await row(page, "Progress by node", "n5").getByText("did not say").waitFor();
    await row(page, "Members", "n3").getByText("declared dead").waitFor();
    await row(page, "Members", "n4").getByText("joins").waitFor();
    await row(page, "Nodes that leave", "n9").getByText("hands over").waitFor();
    await row(page, "Nodes that wait to join", "n8").getByText("after the change").waitFor();
    assert.equal(await page.locator("main img").count(), 0, "a zone is text");
    await assertAccessible(page, "a change under way");
    shown.leaving[0].released = true;
    await row(page, "Nodes that leave", "n9").getByText("released").waitFor();
    await page.getByRole("button", { name: "Let n7 go: it is dead" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Let it go" }).click();
    await page.getByText("n7 is let go: epoch 8").first().waitFor();
    const released = asked.find((it) => it.path === "/layout/release").body;
    assert.deepEqual(released, { base: HASH, node: "n7", lost: true });
    await page.getByRole("button", { name: "Give the change up" }).click();
    await page.getByLabel(/n4 does not answer/).check();
    await page.getByRole("dialog").getByRole("button", { name: "Give it up" }).click();
    await page.getByText("The change is given up: epoch 8").first().waitFor();
    const { body } = asked.find((it) => it.path === "/layout/abort");
    assert.deepEqual(body, { base: HASH, lost: ["n4"] });
    Object.assign(shown, { phase: "stable", next: null, progress: null, epoch: "9", leaving: [] });
    await page.getByText("The change has ended: epoch 9 is in force.").first().waitFor();
  }));

test("warnings are accepted one by one, refusals and problems are shown in the node's words", () =>
  withPage({ mayFail: true }, async (page) => {
    const problem = {
      type: "urn:quorate:problem:layout_unsafe",
      status: 422,
      detail: "the change cannot be made: node_down",
      refusals: [{ name: "node_down", node: "n2", text: `n2 is down, says ${MARKUP}` }],
    };
    let planned = plan({
      warnings: [
        { name: "zone_shared", text: "3 partitions share a zone" },
        { name: "overloaded_node", text: "n1 gets more than its share" },
      ],
    });
    const shown = stable({ waiting: [joiner("n4"), joiner("n5")] });
    const asked = await answers(page, {
      "/layout": () => shown,
      "/layout/plan": () => planned,
      "/layout/commit": { problem },
    });
    await open(page, "layout");
    // Only about a node that does not answer can it be said that it never will.
    await page.getByLabel("Change n2").selectOption("remove");
    assert.equal(await page.getByLabel(/Declare n2 dead/).count(), 0);
    await page.getByLabel("Change n2").selectOption("");
    await page.getByLabel("Change n3").selectOption("replace n4");
    await page.getByLabel(/Declare n3 dead/).check();
    await page.getByText("n3 is replaced by n4, and is declared dead").waitFor();
    await page.getByRole("button", { name: "Add n5" }).click();
    await page.getByLabel("Zone of n5").fill("west");
    await page.getByLabel("Weight of n5").fill("heavy");
    await page.getByRole("button", { name: "Compare" }).click();
    await page.getByText("The weight of n5 is a whole number").waitFor();
    await page.getByLabel("Weight of n5").fill("1");
    await page.getByRole("button", { name: "Compare" }).click();
    const commit = page.getByRole("button", { name: "Commit" });
    await commit.waitFor();
    const changes = [
      { op: "replace", old: "n3", new: "n4" },
      { op: "add", name: "n5", zone: "west" },
    ];
    const wanted = { changes, gone: ["n3"] };
    assert.deepEqual(asked.find((it) => it.path === "/layout/plan").body, { base: HASH, ...wanted });
    await page.getByLabel(/zone_shared/).check();
    assert.ok(await commit.isDisabled(), "one warning is left");
    await page.getByLabel(/overloaded_node/).check();
    await commit.click();
    await page.getByRole("dialog").getByText("the disk of n3 never comes back").waitFor();
    await page.getByRole("dialog").getByRole("button", { name: "Commit" }).click();
    await page.getByText("layout_unsafe: the change cannot be made: node_down.").waitFor();
    await page.getByText(`n2 is down, says ${MARKUP}`).waitFor();
    assert.equal(await page.locator("main img").count(), 0, "what the node says is text");
    const accept = ["zone_shared", "overloaded_node"];
    assert.deepEqual(asked.find((it) => it.path === "/layout/commit").body, {
      base: HASH,
      ...wanted,
      result: HASH,
      accept,
    });
    planned = plan({ refusals: [{ name: "node_up", node: "n3", text: "n3 answers, so it is not gone" }] });
    await page.getByRole("button", { name: "Compare" }).click();
    await page.getByText("n3 answers, so it is not gone").waitFor();
    assert.ok(await commit.isDisabled(), "a refusal cannot be accepted");
    // Another operator was faster.
    planned = plan();
    await page.getByRole("button", { name: "Compare" }).click();
    await page.getByText("It cannot be made as it is.").waitFor({ state: "hidden" });
    shown.hash = HASH.split("").reverse().join("");
    await page.getByText("Another record is in force since this was planned").waitFor();
    assert.ok(await commit.isDisabled(), "it would be refused");
  }));

test("the node is asked seldom, and one request at a time", () =>
  withPage({}, async (page) => {
    let under_way = 0;
    let most = 0;
    const asked = [];
    await page.route(/\/layout$/, async (route) => {
      most = Math.max(most, (under_way += 1));
      asked.push(Date.now());
      await new Promise((resolve) => setTimeout(resolve, 3_000));
      under_way -= 1;
      await route.fulfill({ json: stable() });
    });
    await open(page, "layout");
    await page.waitForTimeout(14_000);
    assert.equal(most, 1);
    assert.ok(asked.length <= 3, `asked ${asked.length} times in 14 s`);
    // Another page asks for nothing of it.
    await page.getByRole("link", { name: "About" }).click();
    const before = asked.length;
    await page.waitForTimeout(7_000);
    assert.equal(asked.length, before);
  }));
