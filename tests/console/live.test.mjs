// The page follows what happens: a peer that dies and comes back, and the node itself.

import assert from "node:assert/strict";
import { test } from "node:test";

import { PATIENCE_MS, URLS, assertAccessible, open, picture, request, script, withPage } from "./harness.mjs";

const jobs = (page) => page.getByRole("table", { name: "Background jobs" });
const nodes = (page) => page.getByRole("table", { name: "Nodes", exact: true });

test("a peer dies and comes back", () =>
  withPage({}, async (page) => {
    await open(page);
    await page.getByText(`All ${URLS.length} nodes are up`).waitFor();
    script("kill-node.sh", "n3");
    try {
      await page.getByText(`${URLS.length - 1} of ${URLS.length} nodes are up`).waitFor();
      await nodes(page)
        .getByRole("row", { name: /^n3 .*down/ })
        .waitFor();
      await page.getByText(/^n3 has been down for/).waitFor();
      // n1 takes writes for n3, and keeps them as hints.
      const writes = Array.from({ length: 120 }, (_, at) =>
        request(0, "PUT", `/kv/live/key-${at}?w=3`, { body: "x" }),
      );
      await Promise.all(writes);
      await page.getByRole("table", { name: "Hints by target" }).getByRole("row", { name: /^n3 / }).waitFor();
      await page.getByText(/wait here for n3/).waitFor();
      await jobs(page)
        .getByRole("row", { name: /^handoff n3 paused: peer down / })
        .waitFor();
      await assertAccessible(page, "a peer down");
      await picture(page, "overview-peer-down");
    } finally {
      script("restore-node.sh", "n3");
    }
    await page.getByText(`All ${URLS.length} nodes are up`).waitFor();
    await page.getByText("No hints wait here.").waitFor();
    await jobs(page)
      .getByRole("row", { name: /^handoff n3 (waiting|working) / })
      .waitFor();
  }));

test("the node itself is killed while its page is open", () =>
  withPage({ mayFail: true }, async (page) => {
    await open(page);
    await page.getByRole("img", { name: /^The ring\./ }).waitFor();
    const links = page.locator("#cut a");
    script("kill-node.sh", "n1");
    try {
      await page.getByText("The stream from n1 is cut").waitFor();
      await page.locator("#where .badge.bad").waitFor();
      await page.getByText(/What you see is \d+ s old/).waitFor();
      assert.ok(await nodes(page).isVisible(), "what was known is still there");
      assert.ok(await page.evaluate(() => document.documentElement.classList.contains("stale")));
      await assertAccessible(page, "the node is gone");
      await picture(page, "overview-node-killed");
      const addresses = await links.evaluateAll((all) => all.map((it) => it.href));
      assert.ok(
        addresses.every((it) => URLS.some((url) => it === `${url}/console`)),
        addresses.join(" "),
      );
      // Other pages say what is wrong, too.
      await page.getByRole("link", { name: "Buckets" }).click();
      await page.getByRole("alert").getByText("this node does not answer").waitFor();
      await page.getByRole("link", { name: "Overview" }).click();
    } finally {
      script("restore-node.sh", "n1");
    }
    await page.locator("#where .badge.good").waitFor();
    await page.getByText("The stream from n1 is cut").waitFor({ state: "hidden" });
    await page.getByText(`All ${URLS.length} nodes are up`).waitFor();
  }));

test("a node that stands still is noticed", () =>
  withPage({ mayFail: true }, async (page) => {
    await open(page);
    script("kill-node.sh", "--pause", "n1");
    try {
      await page.getByText("The stream from n1 is cut").waitFor();
      await page.getByText("the node is silent").waitFor();
    } finally {
      script("restore-node.sh", "n1");
    }
    await page.locator("#where .badge.good").waitFor();
  }));

test("a hidden page gives its stream back, and a page without one says why", () =>
  withPage({ mayFail: true }, async (page) => {
    const streams = [];
    try {
      // All streams but those that other tests have just left behind.
      const until = Date.now() + PATIENCE_MS;
      while (streams.length < 16 && Date.now() < until) {
        const stop = new AbortController();
        const answer = await fetch(`${URLS[1]}/events`, { signal: stop.signal });
        if (answer.ok) streams.push(stop);
        else await new Promise((resolve) => setTimeout(resolve, 200));
      }
      await page.goto(`${URLS[1]}/console`);
      await page.getByText("at most 16 streams").waitFor();
    } finally {
      for (const stop of streams) stop.abort();
    }
    await page.locator("#where .badge.good").waitFor();
  }));
