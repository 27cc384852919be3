// Logging in with a token, on a cluster that checks tokens: `quorate dev --auth`, started here.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";

import { assertAccessible, withPage } from "./harness.mjs";

const PORT = Number(process.env.CONSOLE_LOGIN_PORT ?? 8650);
const url = `http://127.0.0.1:${PORT}`;
let cluster;
let token = "";

before(async () => {
  const args = ["dev", "--auth", "--nodes", "1", "--port", String(PORT), "--until-eof"];
  cluster = spawn(process.env.CONSOLE_NODE, args, { stdio: ["pipe", "pipe", "inherit"] });
  for await (const line of createInterface({ input: cluster.stdout })) {
    token ||= line.match(/QUORATE_TOKEN=(\S+)/)?.[1] ?? "";
    if (line.startsWith("Console: ")) break;
  }
  assert.match(token, /^qk_/, "the cluster is up and says its token");
});

after(async () => {
  cluster.stdin.end();
  await new Promise((resolve) => cluster.once("exit", resolve));
});

const options = { urls: [url], mayFail: true }; // a request without a token is refused, and the browser logs it
const open = (page) => page.goto(`${url}/console#/`);
const dialogOf = (page) => page.getByRole("dialog", { name: "This node wants a token" });
const isLive = (page) => page.locator("#where .badge.good").waitFor();

async function enter(page, text) {
  await page.getByLabel(/^Token/).fill(text);
  await page.getByRole("button", { name: "Log in" }).click();
}

test("a node that wants a token asks for it once, and the page goes on with it", () =>
  withPage(options, async (page) => {
    await open(page);
    await dialogOf(page).waitFor();
    assert.equal(await page.getByRole("dialog").count(), 1, "however many requests were refused");
    assert.equal(await page.getByLabel(/^Token/).getAttribute("type"), "password");
    await assertAccessible(page, "login");
    await enter(page, token);
    await isLive(page);
    assert.equal(await page.getByRole("dialog").count(), 0);
    // It is nowhere that outlives the page or leaves it.
    const kept = await page.evaluate(() =>
      JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href]),
    );
    assert.ok(!kept.includes(token) && !(await page.content()).includes(token));
    await page.reload();
    await dialogOf(page).waitFor();
  }));

test("a wrong token is asked for again", () =>
  withPage(options, async (page) => {
    await open(page);
    await dialogOf(page).waitFor();
    for (const wrong of ["qk_nonsense", `${token.slice(0, -1)}A`]) {
      const refused = page.waitForResponse((answer) => answer.status() === 401);
      await enter(page, wrong);
      await refused;
      await dialogOf(page).waitFor();
    }
    await enter(page, ` ${token} `);
    await isLive(page);
  }));

test("who declines is not asked again, and sees that nothing is shown", () =>
  withPage(options, async (page) => {
    await open(page);
    await dialogOf(page).waitFor();
    await page.keyboard.press("Escape");
    await dialogOf(page).waitFor({ state: "detached" });
    const refused = page.waitForResponse((answer) => answer.status() === 401);
    await page.evaluate(() => (location.hash = "#/buckets"));
    await refused;
    assert.equal(await page.getByRole("dialog").count(), 0);
  }));
