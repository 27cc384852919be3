// Conflicts are resolved on the page: by keeping one sibling, and by a merge.

import assert from "node:assert/strict";
import { test } from "node:test";

import { URLS, assertAccessible, conflict, open, request, withPage, write } from "./harness.mjs";

const dialog = (page) => page.getByRole("dialog");

test("keep one sibling", () =>
  withPage({}, async (page) => {
    const path = await conflict("resolve", "keep", "first", ["left", "right"], "text/plain");
    await open(page, "conflicts/resolve/keep");
    const card = page.getByRole("article").filter({ hasText: "right" });
    await card.getByRole("button", { name: /^Keep/ }).click();
    await dialog(page).getByText("1 other sibling is superseded").waitFor();
    await assertAccessible(page, "the question");
    await dialog(page).getByRole("button", { name: "Cancel" }).click();
    assert.equal((await fetch(URLS[0] + path)).status, 300, "nothing has happened");
    await card.getByRole("button", { name: /^Keep/ }).click();
    await dialog(page).getByRole("button", { name: /^Keep/ }).click();
    await page
      .getByText(/^Resolved: sibling . is kept/)
      .first()
      .waitFor();
    await page.getByText("one value, no conflict").waitFor();
    // The page knows what the new value superseded, and says so.
    await page.getByText(/superseded .*: seen on this page/).waitFor();
    const read = await request(2, "GET", path);
    assert.deepEqual([read.status, await read.text()], [200, "right"]);
  }));

test("merge by hand", () =>
  withPage({}, async (page) => {
    const path = await conflict("resolve", "merge", '{"n":1}', [
      '{"n":1,"left":true}',
      '{"n":2,"right":[1]}',
    ]);
    await open(page, "conflicts/resolve/merge");
    await page.getByRole("button", { name: "All joined as JSON" }).click();
    const editor = page.getByLabel("Merged value");
    const joined = JSON.parse(await editor.inputValue());
    assert.deepEqual([joined.left, joined.right], [true, [1]]);
    const resolve = page.getByRole("button", { name: "Resolve 2 siblings with this" });
    await editor.fill('{"n": 3,');
    await page.getByText("Not JSON, though the content type says so").waitFor();
    assert.ok(await resolve.isDisabled());
    await page.getByLabel("Content type").fill("nonsense");
    await page.getByText("The content type must look like text/plain.").waitFor();
    await page.getByLabel("Content type").fill("application/json");
    await editor.fill('{"n": 3}');
    await page.getByText("Valid, 8 B.").waitFor();
    await assertAccessible(page, "the editor");
    await resolve.click();
    await dialog(page).getByRole("button", { name: "Resolve", exact: true }).click();
    await page.getByText("Resolved: the merged value is written").first().waitFor();
    const read = await request(3, "GET", path);
    assert.deepEqual([await read.text(), read.headers.get("content-type")], ['{"n": 3}', "application/json"]);
    await page.goto(`${URLS[0]}/console#/conflicts`);
    await page.getByRole("heading", { name: "Keys in conflict" }).waitFor();
    assert.equal(await page.getByRole("link", { name: "merge", exact: true }).count(), 0);
  }));

test("a write that comes in between is not lost, and is told of", () =>
  withPage({}, async (page) => {
    const path = await conflict("resolve", "race", "first", ["left", "right"], "text/plain");
    await open(page, "conflicts/resolve/race");
    await page.getByRole("button", { name: "Keep A" }).waitFor();
    await request(1, "PUT", path, { body: "meanwhile", headers: { "Content-Type": "text/plain" } });
    await page.getByRole("button", { name: "Keep A" }).click();
    await dialog(page).getByRole("button", { name: "Keep A" }).click();
    await page.getByText("Another write arrived meanwhile").first().waitFor();
    await page.getByText("2 siblings in conflict").waitFor();
    await page.getByRole("article").filter({ hasText: "meanwhile" }).waitFor();
  }));

test("what somebody else has resolved is refused, in words", () =>
  withPage({ mayFail: true }, async (page) => {
    const path = await conflict("resolve", "late", "first", ["left", "right"], "text/plain");
    await open(page, "conflicts/resolve/late");
    await page.getByRole("button", { name: "Keep A" }).waitFor();
    const context = (await request(0, "GET", path)).headers.get("Quorate-Context");
    await request(2, "PUT", path, { body: "decided", headers: { "Quorate-Context": context } });
    await page.getByRole("button", { name: "Keep A" }).click();
    await dialog(page).getByRole("button", { name: "Keep A" }).click();
    await page
      .getByText(/Not resolved\. sibling_gone/)
      .first()
      .waitFor();
    assert.equal(await (await request(0, "GET", path)).text(), "decided");
  }));

test("a deleted sibling can be kept: then the key is deleted", () =>
  withPage({}, async (page) => {
    const path = "/kv/resolve/gone";
    const first = await write(path, "1");
    await request(1, "PUT", path, { body: "2", headers: { "Quorate-Context": first } });
    await request(2, "DELETE", path, { headers: { "Quorate-Context": first } });
    await open(page, "conflicts/resolve/gone");
    await page.getByRole("button", { name: /Keep .: delete the key/ }).click();
    await dialog(page).getByRole("button", { name: "Delete the key" }).click();
    await page.getByText("Resolved: the key is deleted").first().waitFor();
    assert.equal((await fetch(URLS[0] + path)).status, 404);
  }));
