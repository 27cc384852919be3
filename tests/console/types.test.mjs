// Keys of buckets with a type: their values, the parts of these, and what can be done to them.

import assert from "node:assert/strict";
import { before, test } from "node:test";

import { URLS, assertAccessible, open, picture, request, withPage } from "./harness.mjs";

const JSON_TYPE = { "Content-Type": "application/json" };
const BUCKETS = {
  clicks: "counter",
  tags: "set",
  switches: "flag",
  people: "map",
  notes: "register_lww",
  visitors: "hll",
};

/** One operation, through a node. */
const change = (node, path, operation, headers = {}) =>
  request(node, "POST", `/types/${path}`, {
    body: JSON.stringify(operation),
    headers: { ...JSON_TYPE, ...headers },
  });

/** The value, as a node reads it from all replicas. */
const valueOf = async (path, node = 2) =>
  (await (await request(node, "GET", `/types/${path}?r=3`)).json()).value;

/** Fails if the page speaks of conflicts. */
async function assertNoConflict(page) {
  assert.doesNotMatch(await page.locator("main").innerText(), /conflict/i);
}

before(async () => {
  for (const [bucket, type] of Object.entries(BUCKETS)) {
    await request(0, "PUT", `/buckets/${bucket}`, { body: JSON.stringify({ type }), headers: JSON_TYPE });
  }
});

test("a bucket gets a type, and keeps it", () =>
  withPage({ mayFail: true }, async (page) => {
    await open(page, "buckets");
    await page.getByRole("row", { name: /clicks counter 3 .* merged/ }).waitFor();
    const edit = async (name) => {
      await page.getByRole("textbox", { name: "Bucket" }).fill(name);
      await page.keyboard.press("Enter");
      await page.getByRole("heading", { name: `Properties of ${name}` }).waitFor();
    };
    await edit("likes");
    await page.getByLabel("Type", { exact: true }).selectOption("counter");
    await page.getByText("Every actor counts in a share of its own").waitFor();
    assert.equal(await page.getByLabel("Conflicts").count(), 0, "what merges has none");
    await assertAccessible(page, "the editor of a typed bucket");
    await page.getByRole("button", { name: "Review the change" }).click();
    await page
      .getByRole("dialog")
      .getByText(/The type stays/)
      .waitFor();
    await page.getByRole("button", { name: "Change on all nodes" }).click();
    await page.getByText("The properties of likes are changed.").first().waitFor();
    assert.equal((await (await request(3, "GET", "/buckets/likes")).json()).type, "counter");
    await page.getByRole("button", { name: "Edit likes" }).click();
    assert.ok(await page.getByLabel("Type", { exact: true }).isDisabled());
    assert.equal(await page.getByRole("button", { name: "Reset to defaults" }).count(), 0);
    await page.getByRole("button", { name: "Close" }).click();
    await request(0, "PUT", "/kv/plain-bucket/key", { body: "here" });
    await edit("plain-bucket");
    await page.getByLabel("Type", { exact: true }).selectOption("set");
    await page.getByRole("button", { name: "Review the change" }).click();
    await page.getByRole("button", { name: "Change on all nodes" }).click();
    await page.getByText(/Not changed\. bucket_not_empty/).waitFor();
  }));

test("a counter is counted, and shows its shares", () =>
  withPage({}, async (page) => {
    await open(page, "keys/clicks/home");
    await page.getByText("nothing is there yet").waitFor();
    assert.equal(await page.getByLabel("Value to write").count(), 0, "bytes are not written to it");
    await page.getByLabel("Amount").fill("12345");
    await page.keyboard.press("Enter");
    await page.locator(".big").getByText("12,345").waitFor();
    await page
      .getByText(/12,345 added\. The counter is 12,345\. \d durable cop/)
      .first()
      .waitFor();
    await page.getByLabel("Amount").fill("45");
    await page.getByRole("button", { name: "Subtract" }).click();
    await page.locator(".big").getByText("12,300").waitFor();
    assert.equal(await page.getByLabel("Amount").inputValue(), "45", "the amount stays, to count again");
    await page.getByLabel("Amount").fill("a lot");
    await page.keyboard.press("Enter");
    await page.getByText("The amount must be a whole number").first().waitFor();
    for (const node of URLS.keys()) await change(node, "clicks/home", { increment: 100 });
    await page.getByRole("button", { name: "Read again" }).click();
    await page.locator(".big").getByText("12,800").waitFor();
    const shares = page.getByRole("table", { name: "Shares of the counter" });
    const cells = await shares
      .getByRole("row")
      .evaluateAll((rows) => rows.slice(1).map((row) => [...row.cells].map((cell) => cell.textContent)));
    assert.ok(cells.length >= 2, "several actors count");
    const number = (text) => Number(text.replaceAll(",", ""));
    const sum = cells.reduce((all, row) => all + number(row[3]) - number(row[4]), 0);
    assert.equal(sum, 12_800);
    for (const row of cells) {
      assert.match(row[0], /^[0-9a-f]{6}…-\d+$/);
      assert.match(row[1], /^n\d$/);
      assert.match(row[5], /n\d/);
    }
    assert.equal(await valueOf("clicks/home"), 12_800);
    await page.getByRole("button", { name: "Delete the key" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
    await page.getByText("Deleted. Nothing is there.").first().waitFor();
    await page.getByText(/^Deleted by n\d/).waitFor();
    assert.equal(await valueOf("clicks/home"), 0);
  }));

test("a counter keeps every digit", () =>
  withPage({}, async (page) => {
    await change(0, "clicks/large", { increment: 1 });
    await open(page, "keys/clicks/large");
    await page.getByLabel("Amount").fill("9223372036854775806");
    await page.keyboard.press("Enter");
    await page.locator(".big").getByText("9,223,372,036,854,775,807").waitFor();
  }));

test("a set gets and loses elements, and keeps what a remove has not seen", () =>
  withPage({}, async (page) => {
    await open(page, "keys/tags/article");
    const elements = page.getByRole("table", { name: "Elements" });
    for (const element of ["red", "green"]) {
      await page.getByLabel("Element", { exact: true }).fill(element);
      await page.keyboard.press("Enter");
      await elements.getByRole("row", { name: new RegExp(`^${element} `) }).waitFor();
      assert.equal(await page.getByLabel("Element", { exact: true }).inputValue(), "");
    }
    await page.getByRole("button", { name: "article", exact: true }).waitFor();
    assert.match(
      await elements.getByRole("row", { name: /^red / }).innerText(),
      /[0-9a-f]{6}…-\d+ by n\d, .* ago, on n\d/,
    );
    // Another client adds it again; this page has not read that.
    await change(3, "tags/article", { add: ["red"] });
    await page.getByRole("button", { name: "Remove “red”" }).click();
    await page.getByText("“red” removed. The set has 2 elements.").first().waitFor();
    assert.deepEqual(await valueOf("tags/article"), ["green", "red"]);
    await page.getByRole("button", { name: "Remove “red”" }).click();
    await page.getByText("“red” removed. The set has 1 element.").first().waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.id), "told", "the focus is not lost");
    assert.deepEqual(await valueOf("tags/article"), ["green"]);
    await page.getByRole("button", { name: "Add", exact: true }).click();
    await page.getByText("Type what to add.").first().waitFor();
    await assertNoConflict(page);
  }));

test("what the node has not yet received is read again, in words", () =>
  withPage({ mayFail: true }, async (page) => {
    await change(0, "tags/ahead", { add: ["x"] });
    let refusals = 0;
    let contexts = 0;
    await page.route("**/types/tags/ahead*", (route) => {
      if (route.request().method() !== "POST") return route.continue();
      if (route.request().headers()["quorate-context"]) contexts += 1;
      if (refusals) return route.continue();
      refusals += 1;
      return route.fulfill({
        status: 409,
        contentType: "application/problem+json",
        body: JSON.stringify({
          type: "urn:quorate:problem:context_ahead",
          detail: "what the context covers was not found",
        }),
      });
    });
    await open(page, "keys/tags/ahead");
    await page.getByRole("button", { name: "Remove “x”" }).click();
    await page
      .getByText(/Not done: the node that took the operation .* The value has been read again/)
      .first()
      .waitFor();
    assert.deepEqual(await valueOf("tags/ahead"), ["x"]);
    await page.getByRole("button", { name: "Remove “x”" }).click();
    await page.getByText("“x” removed.").first().waitFor();
    assert.equal(contexts, 2, "a remove sends what was read");
  }));

test("a flag is a switch, without a mouse", () =>
  withPage({}, async (page) => {
    await open(page, "keys/switches/dark-mode");
    const flag = page.getByRole("switch", { name: "Flag" });
    await flag.focus();
    await page.keyboard.press("Space");
    await page.getByText("Switched on. The flag is on.").first().waitFor();
    assert.equal(await flag.getAttribute("aria-checked"), "true");
    assert.equal(await valueOf("switches/dark-mode"), true);
    assert.ok(await flag.evaluate((it) => it === document.activeElement), "the focus stays");
    await page.keyboard.press("Enter");
    await page
      .getByText(/^Switched off\./)
      .first()
      .waitFor();
    assert.equal(await flag.getAttribute("aria-checked"), "false");
    assert.equal(await valueOf("switches/dark-mode"), false);
  }));

test("a map is changed field by field", () =>
  withPage({}, async (page) => {
    await open(page, "keys/people/ann");
    const change_ = async (field, what, text) => {
      await page.getByLabel("Field", { exact: true }).fill(field);
      await page.getByLabel("What", { exact: true }).selectOption({ label: what });
      if (text !== undefined) await page.getByLabel("Text", { exact: true }).fill(text);
      await page.getByRole("button", { name: "Change", exact: true }).click();
      await page.getByText(`Field “${field}” changed.`).first().waitFor();
    };
    await change_("name", "Assign a text", "Ann");
    await change_("admin", "Switch a flag on");
    await change_("name", "Add to a set", "Annie");
    await change_("tags", "Add to a set", "a");
    await change_("tags", "Add to a set", "b");
    await change_("tags", "Remove from a set", "a");
    await change_("admin", "Switch a flag off");
    assert.deepEqual(await valueOf("people/ann"), {
      name: { register_lww: "Ann", set: ["Annie"] },
      tags: { set: ["b"] },
    });
    const fields = page.getByRole("table", { name: "Fields" });
    await fields.getByRole("row", { name: /^name register Ann .* by n\d/ }).waitFor();
    await assertAccessible(page, "a map");
    await page.getByRole("button", { name: "Remove the field “name”" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
    await page.getByText("Field “name” removed. The map has 1 field.").first().waitFor();
    assert.deepEqual(await valueOf("people/ann"), { tags: { set: ["b"] } });
  }));

test("a register and an estimate", () =>
  withPage({}, async (page) => {
    await open(page, "keys/notes/one");
    await page.getByText("Nothing was assigned.").waitFor();
    await page.getByLabel("Text", { exact: true }).fill("first\nsecond");
    await page.getByRole("button", { name: "Assign" }).click();
    await page.getByRole("group", { name: "The value" }).waitFor();
    assert.equal(await valueOf("notes/one"), "first\nsecond");
    assert.equal(await page.getByLabel("Text", { exact: true }).inputValue(), "first\nsecond");
    await page.goto(`${URLS[0]}/console#/keys/visitors/today`);
    for (const name of ["ann", "bob", "ann"]) {
      await page.getByLabel("Text", { exact: true }).fill(name);
      await page.getByRole("button", { name: "Add", exact: true }).click();
      await page.getByText(`“${name}” added.`).first().waitFor();
    }
    await page.locator(".big").getByText("about 2").waitFor();
    await page.getByRole("table", { name: "Sketches of the estimate" }).waitFor();
  }));

const HOSTILE = `"><img src=x onerror=alert(1)><script>alert(2)</script>'&amp;`;

test("hostile elements and fields are text", () =>
  withPage({}, async (page) => {
    for (const element of [HOSTILE, "", "__proto__", "\u202Egnp.exe", "k".repeat(4096)]) {
      await change(0, "tags/hostile", { add: [element] });
    }
    await request(0, "POST", "/types/people/hostile", {
      body: `{"update":{"__proto__":{"register_lww":${JSON.stringify(HOSTILE)}},"toString":{"flag":true}}}`,
      headers: JSON_TYPE,
    });
    await open(page, "keys/tags/hostile");
    await page.getByRole("heading", { name: "5 elements" }).waitFor();
    await page.getByText(HOSTILE, { exact: true }).waitFor();
    await assertAccessible(page, "hostile elements");
    await page.getByRole("button", { name: "Remove “”" }).click();
    await page.getByText("The set has 4 elements.").first().waitFor();
    await page.goto(`${URLS[0]}/console#/keys/people/hostile`);
    await page.getByRole("heading", { name: "2 fields" }).waitFor();
    await page.getByText(HOSTILE, { exact: true }).waitFor();
    const strange = "main img, main script, main [onerror], main [style]";
    assert.equal(await page.locator(strange).count(), 0);
  }));

for (const colorScheme of ["light", "dark"]) {
  test(`the inspection of typed keys, ${colorScheme}`, () =>
    withPage({ colorScheme }, async (page) => {
      const key = `inspected-${colorScheme}`;
      for (const node of URLS.keys()) await change(node, `clicks/${key}`, { increment: 7 - 3 * node });
      for (const element of ["red", "green"]) await change(1, `tags/${key}`, { add: [element] });
      await open(page, `conflicts/clicks/${key}`);
      await page.getByText("The value is 5", { exact: true }).waitFor();
      await page.getByRole("table", { name: "Nodes and the parts they hold" }).waitFor();
      await assertNoConflict(page);
      await assertAccessible(page, "an inspected counter");
      if (colorScheme === "light") await picture(page, "counter-light");
      await open(page, `conflicts/tags/${key}`);
      await page.getByRole("heading", { name: "2 elements" }).waitFor();
      await assertNoConflict(page);
      await assertAccessible(page, "an inspected set");
      await open(page, `keys/tags/${key}`);
      await page.getByRole("heading", { name: "2 elements" }).waitFor();
      await assertAccessible(page, "a set among the keys");
    }));
}

test("typed keys fit a narrow window", () =>
  withPage({ viewport: { width: 390, height: 800 } }, async (page) => {
    await change(0, "tags/narrow", { add: ["w".repeat(300), "an element"] });
    await change(0, "clicks/narrow", { increment: 1 });
    for (const hash of ["keys/tags/narrow", "conflicts/clicks/narrow", "keys/people/ann", "buckets"]) {
      await open(page, hash);
      await page.getByRole("table").first().waitFor();
      const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(wide <= room, `#/${hash}: ${wide} wide in ${room}`);
    }
  }));
