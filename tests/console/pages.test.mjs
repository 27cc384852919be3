// Every page, in both colour schemes: what is on it, axe, and a picture.

import assert from "node:assert/strict";
import { before, test } from "node:test";

import {
  URLS,
  assertAccessible,
  conflict,
  open,
  picture,
  request,
  traffic,
  withPage,
  write,
} from "./harness.mjs";

const cart = (...items) => JSON.stringify({ items, note: items.join(", ") });

before(async () => {
  await request(0, "PUT", "/buckets/flags", {
    body: '{"n":5,"r":3,"w":3,"sloppy":false}',
    headers: { "Content-Type": "application/json" },
  });
  await request(0, "PUT", "/buckets/views", {
    body: '{"w":"one","conflicts":"lww"}',
    headers: { "Content-Type": "application/json" },
  });
  for (const name of ["bob", "carol", "dave"]) {
    await write(`/kv/carts/${name}`, cart("1 plum"), "application/json");
  }
  await conflict("carts", "alice", cart("2 apples"), [cart("2 apples", "1 pear"), cart("3 apples")]);
});

// What each page must show, and what is done on it before the picture.
const PAGES = {
  overview: [
    "",
    async (page) => {
      await page.getByText(`All ${URLS.length} nodes are up`).waitFor();
      await page.getByRole("img", { name: /^The ring\./ }).waitFor();
      assert.equal(
        await page.getByRole("table", { name: "Nodes", exact: true }).getByRole("row").count(),
        URLS.length + 1,
      );
      await page.getByRole("img", { name: /GET per second.*now [1-9]/ }).waitFor();
      await page.getByText("No hints wait here.").waitFor();
      await page.getByRole("table", { name: "Last comparison with each peer" }).waitFor();
      await page.waitForFunction(() => document.querySelectorAll(".rate").length === 3);
      await page.getByRole("table", { name: "Background jobs" }).waitFor();
    },
  ],
  layout: [
    "layout",
    async (page) => {
      await page.getByText("Nothing changes: epoch").waitFor();
      await page.getByText("No node asks to join.").waitFor();
      await page.getByRole("table", { name: "History" }).waitFor();
    },
  ],
  buckets: [
    "buckets",
    async (page) => {
      await page.getByRole("row", { name: /flags value 5 3 3 siblings false never none fresh reads/ }).waitFor();
      await page.getByRole("row", { name: /views value 3 quorum one lww true never none may be stale/ }).waitFor();
      await page.getByRole("button", { name: "Edit views" }).click();
      await page.getByText("One lost disk can lose an acknowledged write").waitFor();
    },
  ],
  conflicts: [
    "conflicts",
    async (page) => {
      await page.getByRole("link", { name: "alice" }).waitFor();
    },
  ],
  conflict: [
    "conflicts/carts/alice",
    async (page) => {
      await page.getByText("2 siblings in conflict").waitFor();
      await page.getByRole("rowheader", { name: "$.note" }).waitFor();
      await page.getByRole("img", { name: /The 2 siblings are concurrent/ }).waitFor();
      await page.getByRole("button", { name: "Text" }).click();
      await page.getByRole("group", { name: /^Differences between/ }).waitFor();
      await page.getByRole("button", { name: "All joined as JSON" }).click();
      await page.getByLabel("Merged value").blur();
    },
  ],
  keys: [
    "keys/carts/bob",
    async (page) => {
      await page.getByRole("button", { name: "carol" }).waitFor();
      await page.getByRole("button", { name: "Get", exact: true }).click();
      await page.getByText("GET 200").waitFor();
      assert.match(await page.getByRole("group", { name: "The value" }).textContent(), /1 plum/);
      await page.getByRole("heading", { name: "Where the key is" }).waitFor();
      await page.getByRole("heading", { name: "What the request did" }).waitFor();
    },
  ],
  slow: [
    "slow",
    async (page) => {
      await page
        .getByText(/Kept by this node|keeps no explained requests/)
        .first()
        .waitFor();
    },
  ],
  about: [
    "about",
    async (page) => {
      await page.getByRole("link", { name: "Metrics" }).waitFor();
    },
  ],
};

/** Of which pages pictures are kept. */
const PICTURES = [
  "overview-light",
  "overview-dark",
  "conflict-light",
  "conflict-dark",
  "buckets-light",
  "keys-light",
];

for (const colorScheme of ["light", "dark"]) {
  test(`every page, ${colorScheme}`, async (t) => {
    const stop = traffic();
    try {
      for (const [name, [hash, look]] of Object.entries(PAGES)) {
        await t.test(name, () =>
          withPage({ colorScheme }, async (page) => {
            await open(page, hash);
            await look(page);
            await assertAccessible(page, name);
            const taken = `${name}-${colorScheme}`;
            if (PICTURES.includes(taken)) await picture(page, taken);
          }),
        );
      }
    } finally {
      await stop();
    }
  });
}

test("the scheme can be chosen, and is remembered", () =>
  withPage({ colorScheme: "light" }, async (page) => {
    await open(page);
    const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await background();
    const button = page.getByRole("button", { name: /Colour scheme/ });
    await button.click();
    assert.equal(await background(), light);
    await button.click();
    const dark = await background();
    assert.notEqual(dark, light);
    await page.reload();
    assert.equal(await background(), dark);
  }));

test("a narrow window scrolls nothing sideways", () =>
  withPage({ viewport: { width: 390, height: 800 } }, async (page) => {
    for (const hash of ["", "layout", "buckets", "conflicts/carts/alice", "keys/carts/bob", "about"]) {
      await open(page, hash);
      await page.locator("main .panel").first().waitFor();
      const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(wide <= room, `#/${hash}: ${wide} wide in ${room}`);
    }
  }));

test("a page that does not exist leads to the overview", () =>
  withPage({}, async (page) => {
    await open(page, "nothing/here");
    await page.getByRole("heading", { name: "Ring" }).waitFor();
  }));
