// Everything can be done with the keyboard, and the focus can always be seen.

import assert from "node:assert/strict";
import { test } from "node:test";

import { URLS, conflict, open, request, withPage, write } from "./harness.mjs";

/** What has the focus: its role and name. */
const focused = (page) =>
  page.evaluate(() => {
    const it = document.activeElement;
    const style = getComputedStyle(it);
    return {
      tag: it.tagName,
      name: it.getAttribute("aria-label") ?? it.textContent?.trim() ?? "",
      id: it.id,
      isVisible: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1,
    };
  });

/** Presses Tab until something named so has the focus. */
async function tabTo(page, name) {
  for (let presses = 0; presses < 80; presses += 1) {
    await page.keyboard.press("Tab");
    const it = await focused(page);
    if (it.tag === "BODY") continue;
    assert.ok(it.isVisible, `the focus on ${it.tag} "${it.name.slice(0, 40)}" cannot be seen`);
    if (name.test(it.name) || name.test(it.id)) return it;
  }
  return assert.fail(`Tab never came to ${name}`);
}

test("resolve a conflict without a mouse", () =>
  withPage({}, async (page) => {
    const path = await conflict("keyboard", "key", "first", ["left", "right"], "text/plain");
    await open(page);
    await page.keyboard.press("Tab");
    assert.equal((await focused(page)).name, "Skip to the page");
    await tabTo(page, /^Conflicts$/);
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "Keys in conflict" }).waitFor();
    assert.equal((await focused(page)).id, "main", "a new page begins at its head");
    await page.getByRole("link", { name: "key", exact: true }).waitFor();
    await tabTo(page, /^key$/);
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Keep A" }).waitFor();
    await tabTo(page, /^Keep A$/);
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    assert.equal((await focused(page)).name, "Cancel", "a question begins with the harmless answer");
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "hidden" });
    assert.equal((await focused(page)).name, "Keep A", "the focus is back where it was");
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await page.getByText("is kept").first().waitFor();
    assert.equal((await focused(page)).id, "told", "the result has the focus");
    assert.equal((await request(0, "GET", path)).status, 200);
  }));

test("sliders follow the arrow keys, and the promise follows them", () =>
  withPage({}, async (page) => {
    await write("/kv/keyboard/slider", "1");
    await open(page, "keys/keyboard/slider");
    await page.getByRole("slider", { name: "R must answer a read" }).focus();
    await page.getByText("N 3, R 2, W 2 promises").waitFor();
    await page.keyboard.press("ArrowLeft");
    await page.getByText("N 3, R 1, W 2 promises").waitFor();
    await page.getByText("A read may be stale until repair").waitFor();
    assert.equal((await focused(page)).id, "slider-R", "the focus stays");
    await page.keyboard.press("End");
    await page.getByText("N 3, R 3, W 2 promises").waitFor();
    await tabTo(page, /^Get$/);
    await page.keyboard.press("Enter");
    await page.getByText("GET 200").waitFor();
  }));

test("the live page keeps the focus while it is drawn again", () =>
  withPage({}, async (page) => {
    await open(page);
    await page.getByRole("link", { name: "Overview" }).focus();
    const before = await focused(page);
    await page.evaluate(() => {
      document.activeElement.dataset.mark = "here";
    });
    await page.waitForTimeout(2500);
    assert.deepEqual(await focused(page), before);
  }));

test("bucket properties are changed and reset with a question each", () =>
  withPage({}, async (page) => {
    await open(page, "buckets");
    await page.getByRole("textbox", { name: "Bucket" }).fill("no bucket!");
    await page.keyboard.press("Enter");
    await page.getByText("A bucket's name has 1 to 128 of").waitFor();
    await page.getByRole("textbox", { name: "Bucket" }).fill("keyboard-bucket");
    await page.keyboard.press("Enter");
    await page.getByLabel("W", { exact: true }).selectOption("all");
    await page.getByText("W = 3 copies are durable").waitFor();
    await page.getByRole("button", { name: "Review the change" }).click();
    await page
      .getByRole("dialog")
      .getByRole("row", { name: /W default \(quorum\) all/ })
      .waitFor();
    await page.getByRole("button", { name: "Change on all nodes" }).click();
    await page.getByText("The properties of keyboard-bucket are changed.").first().waitFor();
    assert.equal((await (await request(4, "GET", "/buckets/keyboard-bucket")).json()).w, "all");
    await page.getByRole("button", { name: "Edit keyboard-bucket" }).click();
    await page.getByRole("button", { name: "Reset to defaults" }).click();
    await page.getByRole("button", { name: "Reset on all nodes" }).click();
    await page.getByText("keyboard-bucket follows the defaults.").first().waitFor();
    assert.equal((await (await request(2, "GET", "/buckets/keyboard-bucket")).json()).w, "quorum");
    assert.ok(URLS.length >= 5);
  }));

test("plan a change of the layout without a mouse", () =>
  withPage({}, async (page) => {
    await open(page, "layout");
    await page.getByLabel("Change n2").waitFor();
    await tabTo(page, /^Change n2$/);
    await page.keyboard.press("ArrowDown");
    await page.getByText("n2 gets nothing else yet").waitFor();
    assert.equal((await focused(page)).name, "Change n2", "the focus stays where it was");
    await tabTo(page, /^weight-of-n2$/);
    await page.keyboard.type("3");
    await page.getByText("n2 gets weight 3").waitFor();
    assert.equal((await focused(page)).id, "weight-of-n2", "typing goes on");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "What the change comes to" }).waitFor();
    await tabTo(page, /^Take all back$/);
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "What the change comes to" }).waitFor({ state: "detached" });
  }));
