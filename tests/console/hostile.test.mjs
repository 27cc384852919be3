// Keys and values may hold anything; on the page they are text.

import assert from "node:assert/strict";
import { test } from "node:test";

import { URLS, assertAccessible, conflict, open, request, withPage, write } from "./harness.mjs";

const MARKUP = `"><img src=x onerror=alert(1)><script>alert(2)</script><svg onload=alert(3)>'&amp;`;
const KEYS = [
  MARKUP,
  "a/b/../c?d=e#f%2F%00",
  "\u202Egnp.exe \u0007 \u{1F600}",
  "__proto__",
  "constructor",
  "javascript:alert(1)",
  " leading and trailing ",
  "k".repeat(1024),
];

/** What must not have come from a stored text. */
const strange = (page) =>
  page.evaluate(
    () =>
      document.querySelectorAll(
        "main img, main script, main iframe, main style, main [onerror], main [onload], main [style]",
      ).length,
  );

test("hostile keys are listed, read and written as text", () =>
  withPage({}, async (page) => {
    for (const key of KEYS) {
      await write(`/kv/hostile/${encodeURIComponent(key)}`, `<b>${MARKUP}</b>`, "text/html");
    }
    await open(page, "keys/hostile");
    for (const key of KEYS) {
      const button = page
        .locator(".key-list button")
        .filter({ hasText: key.trim().slice(0, 200) })
        .first();
      assert.equal(await button.textContent(), key);
      await button.click();
      await page.locator("#field-key").and(page.locator(":enabled")).waitFor();
      await page.getByRole("button", { name: "Get", exact: true }).click();
      await page.getByText("GET 200").waitFor();
      assert.equal(await page.getByRole("group", { name: "The value" }).textContent(), `<b>${MARKUP}</b>`);
    }
    assert.equal(await strange(page), 0);
    await assertAccessible(page, "hostile keys");
  }));

test("hostile siblings are compared and merged as text", () =>
  withPage({}, async (page) => {
    const values = [
      JSON.stringify({ [MARKUP]: MARKUP, __proto__: 1 }),
      `{"__proto__": {"polluted": 1}, "x": ${JSON.stringify(MARKUP)}}`,
    ];
    const path = await conflict("hostile", MARKUP, "{}", values);
    await open(page, `conflicts/hostile/${encodeURIComponent(MARKUP)}`);
    assert.equal(await page.getByRole("heading", { level: 1 }).textContent(), MARKUP);
    await page.getByRole("button", { name: "Text" }).click();
    await page.getByRole("group", { name: /^Differences/ }).waitFor();
    await page.getByRole("button", { name: "All joined as JSON" }).click();
    const joined = await page.getByLabel("Merged value").inputValue();
    assert.ok(joined.includes('"__proto__"') && joined.includes('"polluted"'));
    assert.equal(await page.evaluate(() => ({}).polluted), undefined);
    assert.equal(await strange(page), 0);
    await page.getByRole("button", { name: "Resolve 2 siblings with this" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Resolve", exact: true }).click();
    await page.getByText("Resolved: the merged value is written").first().waitFor();
    assert.equal(await (await request(1, "GET", path)).text(), joined);
  }));

test("bytes that are no text are shown as bytes", () =>
  withPage({}, async (page) => {
    await write("/kv/hostile/bytes", new Uint8Array([0, 255, 60, 98, 62]));
    await open(page, "keys/hostile/bytes");
    await page.getByRole("button", { name: "Get", exact: true }).click();
    await page.getByText("00 ff 3c 62 3e").waitFor();
  }));

test("addresses that make no sense are answered in words", () =>
  withPage({ mayFail: true }, async (page) => {
    await open(page, `conflicts/${encodeURIComponent("no bucket <b>")}/x`);
    await page
      .getByRole("alert")
      .getByText(/bad_path/)
      .waitFor();
    await page.goto(`${URLS[0]}/console#/conflicts/b/..`);
    await page
      .getByRole("alert")
      .getByText(/a browser cannot ask for the key/)
      .waitFor();
    await page.goto(`${URLS[0]}/console#/keys/%E0%A4%A`);
    await page.getByRole("heading", { name: "Keys in a bucket" }).waitFor();
    assert.equal(await strange(page), 0);
  }));

test("large values are cut until someone asks", () =>
  withPage({}, async (page) => {
    await write("/kv/hostile/large", "x".repeat(300_000));
    await open(page, "keys/hostile/large");
    await page.getByRole("button", { name: "Get", exact: true }).click();
    const value = page.getByRole("group", { name: "The value" });
    await value.waitFor();
    assert.ok((await value.textContent()).length < 30_000);
    await page.getByRole("button", { name: /^Show all/ }).click();
    assert.equal((await value.textContent()).length, 300_000);
  }));
