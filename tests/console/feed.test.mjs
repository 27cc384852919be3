// Feeds: given to a bucket in its form, and followed live where its keys are.

import assert from "node:assert/strict";
import { test } from "node:test";

import { URLS, assertAccessible, open, picture, request, withPage } from "./harness.mjs";

const retention = async (bucket) =>
  (await (await fetch(`${URLS[1]}/buckets/${bucket}`)).json()).feed_retention_s;

test("a bucket is given a feed, and its keys are followed", () =>
  withPage({}, async (page) => {
    await open(page, "buckets/followed");
    const field = page.locator("#field-feed");
    await field.fill("30 s");
    await page.getByText("One of the times is none that can be set.").waitFor();
    await field.fill("2 h");
    await page.getByRole("button", { name: "Review the change" }).click();
    await page.getByRole("button", { name: "Change on all nodes" }).click();
    await page.getByText(/followed/).first().waitFor();
    for (const until = Date.now() + 10_000; (await retention("followed")) !== 7200;) {
      assert(Date.now() < until, "the bucket has no feed");
    }
    await open(page, "keys/followed");
    await page.getByText("Nothing has changed since the page was opened.").waitFor();
    await request(1, "PUT", "/kv/followed/here", { body: "v" });
    const changes = page.locator(".feed");
    await changes.getByRole("button", { name: "here" }).waitFor();
    await page.locator(".keys").getByRole("button", { name: "here" }).waitFor();
    await request(0, "DELETE", "/kv/followed/here");
    await changes.getByText("deleted").first().waitFor();
    await assertAccessible(page, "a bucket that is followed");
    await picture(page, "feed-light");
  }));
