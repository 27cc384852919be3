// The background jobs on the overview.

import assert from "node:assert/strict";
import { test } from "node:test";

import { URLS, open, request, withPage } from "./harness.mjs";

const table = (page) => page.getByRole("table", { name: "Background jobs" });

/** The cells of each row by the name of the job and its peer. */
async function rowsOf(page) {
  const rows = await table(page)
    .locator("tbody tr")
    .evaluateAll((all) =>
      all.map((row) => [
        row.querySelector("th div").textContent,
        ...[...row.cells].map((it) => it.textContent),
      ]),
    );
  return new Map(rows.map(([job, , peer, ...cells]) => [`${job} ${peer}`.trim(), cells]));
}

test("every job is shown, once, with what it does", () =>
  withPage({}, async (page) => {
    await open(page);
    await table(page).waitFor();
    const { jobs } = await (await request(0, "GET", "/jobs")).json();
    const rows = await rowsOf(page);
    const names = jobs.map((it) => `${it.job} ${it.peer ?? ""}`.trim());
    assert.deepEqual([...rows.keys()].sort(), names.sort());
    for (const { about } of jobs) {
      assert.equal(await table(page).getByText(about, { exact: true }).count(), 1, about);
    }
    for (const name of ["hello", "handoff", "anti_entropy"]) {
      const peers = [...rows.keys()].filter((it) => it.startsWith(`${name} `));
      assert.equal(peers.length, URLS.length - 1, name);
    }
    const ended = jobs.find((it) => it.state === "ended");
    assert.equal(rows.get(ended.job)[0], "ended");
  }));

test("runs are counted while one looks", () =>
  withPage({}, async (page) => {
    await open(page);
    await table(page).waitFor();
    const runs = async () => Number((await rowsOf(page)).get("hello n2")[2].replaceAll(",", ""));
    const before = await runs();
    await page.waitForFunction(
      ([name, seen]) => {
        const row = [...document.querySelectorAll(".jobs tbody tr")].find(
          (it) => it.cells[0].textContent.startsWith(name) && it.cells[1].textContent === "n2",
        );
        return Number(row.cells[4].textContent.replaceAll(",", "")) > seen;
      },
      ["hello", before],
    );
  }));

// What no node can be brought to show here is put into its stream.
const stream = (page, change) =>
  page.route("**/events", async (route) => {
    const cluster = await (await request(0, "GET", "/cluster")).text();
    const { node, jobs } = await (await request(0, "GET", "/jobs")).json();
    const told = JSON.stringify({ node, jobs: jobs.map((it) => change(it)) });
    await route.fulfill({
      contentType: "text/event-stream",
      body: `event: cluster\ndata: ${cluster}\n\nevent: jobs\ndata: ${told}\n\n`,
    });
  });

test("an error is shown with its time, a panic is a finding, and both can be listed alone", () =>
  withPage({}, async (page) => {
    const markup = `<img src=x onerror=alert(1)>${"x".repeat(280)}`;
    const failed_at = new Date(Date.now() - 120_000).toISOString();
    const changes = {
      fill: { state: "working", done: 12, of: 1024, runs: 3 },
      reap: { last_error: markup, failed_at },
      scrub: { state: "ended", last_error: "panicked: no luck", failed_at },
      handover: { state: "paused", reason: "store failed" },
    };
    await stream(page, (it) => ({ ...it, ...changes[it.job] }));
    await page.goto(`${URLS[0]}/console`);
    await page.getByText("The background job scrub has ended: it panicked: no luck").waitFor();
    const rows = await rowsOf(page);
    assert.deepEqual(rows.get("fill").slice(0, 3), ["working", "12 of 1,024", "3"]);
    assert.equal(rows.get("handover")[0], "paused: store failed");
    assert.equal(rows.get("reap").at(-1), `${markup} (2 min ago)`);
    assert.equal(await page.locator("main img").count(), 0, "errors are text");
    await page.getByRole("button", { name: "Paused or failed" }).click();
    const troubled = [...(await rowsOf(page)).keys()];
    assert.deepEqual(troubled.sort(), ["handover", "reap", "scrub"]);
    await page.getByRole("button", { name: "All", exact: true }).click();
    assert.equal((await rowsOf(page)).size, rows.size);
  }));
