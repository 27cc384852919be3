// Secondary indexes: entries given to a value in the key explorer, and keys found by them.

import assert from "node:assert/strict";
import { test } from "node:test";

import { URLS, assertAccessible, open, picture, request, withPage } from "./harness.mjs";

test("a value is given index entries, and is found by them", () =>
  withPage({}, async (page) => {
    await request(0, "PUT", "/kv/staff/bob?w=3", {
      body: "v",
      headers: { "Quorate-Index-city_s": "Oslo", "Quorate-Index-age_i": "7" },
    });
    await open(page, "keys/staff/ada");
    await page.getByLabel("Value to write").fill("ada");
    const entries = page.getByLabel("Index entries");
    await entries.fill("city = Paris");
    await page.getByText("A line is no index entry.").waitFor();
    await entries.fill("city_s = Paris, France\nage_i = 36");
    await page.getByRole("button", { name: "Put", exact: true }).click();
    await page.getByText("PUT 204").waitFor();
    const headers = (await fetch(`${URLS[2]}/kv/staff/ada`)).headers;
    assert.equal(headers.get("Quorate-Index-city_s"), "Paris%2C%20France");
    await page.getByLabel("Index", { exact: true }).fill("age_i");
    await page.getByLabel("From").fill("30");
    await page.getByRole("button", { name: "Find" }).click();
    const found = page.locator(".find");
    await found.getByRole("button", { name: "ada" }).waitFor();
    assert.equal(await found.getByRole("button", { name: "bob" }).count(), 0);
    await page.getByLabel("From").fill("");
    await page.getByRole("button", { name: "Find" }).click();
    await found.getByRole("button", { name: "bob" }).waitFor();
    await assertAccessible(page, "keys found by an index");
    await picture(page, "index-light");
    await found.getByRole("button", { name: "bob" }).click();
    await page.getByRole("button", { name: "Get", exact: true }).click();
    await page.getByText("GET 200").waitFor();
    await page.locator("summary", { hasText: "Headers" }).click();
    await page.getByRole("cell", { name: "Oslo" }).waitFor();
  }));

test("what is wrong with a question is said", () =>
  withPage({ mayFail: true }, async (page) => {
    await open(page, "keys/staff");
    await page.getByLabel("Index", { exact: true }).fill("city");
    await page.getByRole("button", { name: "Find" }).click();
    await page.getByText(/the name of an index has 3 to 64 characters/).waitFor();
  }));
