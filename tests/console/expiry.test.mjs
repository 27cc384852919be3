// Values that expire: what the pages say of them, and how long one lives is said where it is written.

import assert from "node:assert/strict";
import { test } from "node:test";

import { URLS, assertAccessible, conflict, open, request, withPage, write } from "./harness.mjs";

const DAY_MS = 86_400_000;

/** Writes a value that expires, in the place of whatever is there, and returns its path. */
async function expiring(key, seconds) {
  const path = `/kv/expiry/${key}`;
  const seen = (await fetch(URLS[0] + path)).headers.get("Quorate-Context");
  const headers = { "Quorate-Expires-In": String(seconds), ...(seen ? { "Quorate-Context": seen } : {}) };
  await request(0, "PUT", path, { body: "v", headers });
  return path;
}

/** Waits until a read says that the value has expired. */
async function over(path) {
  for (const until = Date.now() + 20_000; Date.now() < until;) {
    if ((await fetch(URLS[0] + path)).headers.get("Quorate-Expired") === "true") return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.fail(`${path} does not expire`);
}

/** In how many milliseconds a value expires; NaN for never. */
const left = async (path) =>
  new Date((await request(1, "GET", `${path}?r=3`)).headers.get("Quorate-Expires-At") ?? NaN) - Date.now();

test("the key explorer says when a value expires", () =>
  withPage({}, async (page) => {
    await expiring("soon", 720);
    await open(page, "keys/expiry/soon");
    await page.getByRole("button", { name: "Get", exact: true }).click();
    await page.getByText(/^expires in 12 min \(at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\)$/).waitFor();
    await assertAccessible(page, "a value that expires");
  }));

test("an expired value is told of in words", () =>
  withPage({ mayFail: true }, async (page) => {
    const path = await expiring("over", 1);
    await over(path);
    await open(page, "keys/expiry/over");
    await page.getByRole("button", { name: "Get", exact: true }).click();
    await page.getByText("GET 404").waitFor();
    await page.getByText("expired: the key had a value, and its time is over.").waitFor();
    await page.goto(`${URLS[0]}/console#/conflicts/expiry/over`);
    await page.locator(".badge", { hasText: "expired" }).waitFor();
    await page
      .getByText(/^expired \d+ m?s ago \(at .*\); no read shows it, and it will be removed$/)
      .waitFor();
    await assertAccessible(page, "a key whose value expired");
  }));

test("what is left of an expired value says what it is", () =>
  withPage({}, async (page) => {
    const report = await (
      await request(0, "GET", `/siblings${(await expiring("removed", 60)).slice(3)}`)
    ).json();
    const { dot, writer, written_at, held_by, hinted_at } = report.siblings[0];
    const at = new Date(Date.now() - 300_000).toISOString();
    const left = { dot, writer, written_at, held_by, hinted_at, deleted: true, expires_at: at };
    // Nodes remove what expired minutes later: too late for a test.
    await page.route("**/siblings/expiry/removed", (route) =>
      route.fulfill({ json: { ...report, siblings: [left] } }),
    );
    await open(page, "conflicts/expiry/removed");
    await page.locator(".badge", { hasText: "expired" }).waitFor();
    await page.getByText(/^in place of a value that expired, on n\d/).waitFor();
    await page.getByText("expired: a write without a value took its place").waitFor();
    await page.getByText(/^expired 5 min ago \(at .*\)$/).waitFor();
    await page.getByText(/written at n\d, expired/).waitFor();
  }));

test("how long a value lives is said where it is written", () =>
  withPage({}, async (page) => {
    await write("/kv/expiry/written", "before");
    await open(page, "keys/expiry/written");
    await page.getByRole("button", { name: "Get", exact: true }).click();
    await page.getByText("GET 200").waitFor();
    await page.getByLabel("Value to write").fill("v");
    const put = page.getByRole("button", { name: "Put", exact: true });
    await page.getByText("Empty: as the bucket says, never.").waitFor();
    await page.getByLabel("Expires after").fill("soon");
    await page.getByText("This is no time that a value can live.").waitFor();
    assert.ok(await put.isDisabled());
    await page.getByLabel("Expires after").fill("2 d");
    await put.click();
    await page.getByText("PUT 204").waitFor();
    const ms = await left("/kv/expiry/written");
    assert.ok(ms > DAY_MS && ms <= 2 * DAY_MS, String(ms));
  }));

test("how long a merged value lives is said with it", () =>
  withPage({}, async (page) => {
    const path = await conflict("expiry", "merged", "first", ["left", "right"], "text/plain");
    await open(page, "conflicts/expiry/merged");
    await page.getByRole("region", { name: "Merge by hand" }).getByRole("button", { name: "A" }).click();
    await page.getByLabel("Expires after").fill("0 s");
    await page.getByText("The time after which it expires is no time").waitFor();
    await page.getByLabel("Expires after").fill("1 h");
    await page.getByText(/^Valid/).waitFor();
    await page.getByRole("button", { name: "Resolve 2 siblings with this" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Resolve", exact: true }).click();
    await page.getByText("Resolved: the merged value is written").first().waitFor();
    await page.getByText(/^expires in 60 min \(at/).waitFor();
    assert.ok((await left(path)) <= 3_600_000);
  }));

test("a bucket says how long its values live", () =>
  withPage({}, async (page) => {
    await open(page, "buckets");
    await page.getByRole("textbox", { name: "Bucket" }).fill("sessions-of-an-hour");
    await page.keyboard.press("Enter");
    const lifetime = page.getByLabel("Expires after");
    const review = page.getByRole("button", { name: "Review the change" });
    await lifetime.fill("1 hour");
    await page.getByText("One of the times is none that can be set.").waitFor();
    assert.ok(await review.isDisabled());
    await lifetime.fill("3600");
    await assertAccessible(page, "the editor of a bucket");
    await review.click();
    await page
      .getByRole("dialog")
      .getByRole("row", { name: /Expires after never 1 h/ })
      .waitFor();
    await page.getByRole("button", { name: "Change on all nodes" }).click();
    await page
      .getByRole("row", { name: /sessions-of-an-hour value 3 quorum quorum siblings true 1 h/ })
      .waitFor();
    const read = async () =>
      (await (await request(3, "GET", "/buckets/sessions-of-an-hour")).json()).expires_in_s;
    assert.equal(await read(), 3600);
    await page.getByRole("button", { name: "Edit sessions-of-an-hour" }).click();
    assert.equal(await lifetime.inputValue(), "1 h");
    await page.getByLabel("Type", { exact: true }).selectOption("counter");
    assert.equal(await lifetime.count(), 0, "what merges does not expire");
    await page.getByLabel("Type", { exact: true }).selectOption("value: bytes");
    await lifetime.fill("never");
    await review.click();
    await page.getByRole("button", { name: "Change on all nodes" }).click();
    await page.getByRole("row", { name: /sessions-of-an-hour/ }).waitFor({ state: "detached" });
    assert.equal(await read(), null);
  }));
