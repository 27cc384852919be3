// A browser on a running cluster. Every page is watched: an error in a script, a violation of the content
// security policy or a request to anywhere else fails its test.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import axe from "axe-core";
import { chromium } from "playwright-core";

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
/** The nodes' client addresses, n1 first. */
export const URLS = process.env.CONSOLE_URLS.split(",");
const SCRIPTS = process.env.CONSOLE_SCRIPTS;
const SHOTS = process.env.CONSOLE_SHOTS;
/** Whether the page gets the console's files from the source, and not from the node, which then need not be built. */
const FROM_DISK = Boolean(process.env.CONSOLE_FROM_DISK);
const MEDIA_TYPES = { js: "text/javascript", css: "text/css", svg: "image/svg+xml" };
/** The longest that a test waits for what it expects. */
export const PATIENCE_MS = Number(process.env.CONSOLE_PATIENCE_MS ?? 30_000);

/**
 * Runs `test` with a page of the console of node n1, in a browser of its own. `urls` are the nodes that the page may
 * ask.
 */
export async function withPage(options, test) {
  const { colorScheme = "light", mayFail = false, urls = URLS } = options;
  const { viewport = { width: 1440, height: 900 } } = options;
  const profile = mkdtempSync(join(tmpdir(), "console-"));
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CONSOLE_BROWSER,
    headless: true,
    args: FLAGS,
    colorScheme,
    viewport,
    reducedMotion: "reduce",
  });
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    const wrong = await watchFor(page, urls);
    if (FROM_DISK) await serveFromDisk(page);
    try {
      await test(page);
    } catch (error) {
      if (wrong.length) error.message += `\nIn the page: ${wrong.join("; ")}`;
      throw error;
    }
    const violations = await page.evaluate(() => globalThis.violations ?? []);
    assert.deepEqual(violations, [], "the content security policy was violated");
    // A node that is killed answers nothing, and the browser logs it.
    const left = wrong.filter((it) => !mayFail || !it.includes("Failed to load resource"));
    assert.deepEqual(left, [], "errors in the page");
  } finally {
    await browser.close();
    rmSync(profile, { recursive: true, force: true });
  }
}

async function watchFor(page, urls) {
  const wrong = [];
  const own = new Set(urls.map((url) => new URL(url).host));
  await page.addInitScript(() => {
    globalThis.violations = [];
    document.addEventListener("securitypolicyviolation", (event) =>
      globalThis.violations.push(`${event.violatedDirective}: ${event.blockedURI}`),
    );
  });
  page.on("pageerror", (error) => wrong.push(`error: ${error.message}`));
  page.on("dialog", (dialog) => {
    wrong.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("console", (message) => {
    // A release without it answers 404, and the page says so.
    const isKnown =
      message.location().url.endsWith("/openapi.json") || /\/explain/.test(message.location().url);
    if (message.type() === "error" && !isKnown && !message.location().url.includes("explain=")) {
      wrong.push(`console: ${message.text()}`);
    }
  });
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.protocol.startsWith("http") && !own.has(url.host)) wrong.push(`request to ${url.host}`);
  });
  return wrong;
}

async function serveFromDisk(page) {
  await page.route(/\/console\/[0-9a-f]{16}\/\w+\.(js|css|svg)$/, (route) => {
    const name = new URL(route.request().url()).pathname.split("/").at(-1);
    const path = join(process.env.CONSOLE_SOURCE, name);
    return route.fulfill({ path, contentType: MEDIA_TYPES[name.split(".").at(-1)] });
  });
}

/** Opens a page of the console, and waits until it is live. */
export async function open(page, hash = "") {
  await page.goto(`${URLS[0]}/console#/${hash}`);
  await page.locator("#where .badge.good").waitFor();
}

/** Fails if axe finds anything. */
export async function assertAccessible(page, name) {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() =>
    globalThis.axe.run(document, { resultTypes: ["violations"] }),
  );
  const told = violations.map(
    (it) => `${it.id}: ${it.help}; ${it.nodes.map((node) => node.html.slice(0, 160)).join(" | ")}`,
  );
  assert.deepEqual(told, [], `axe on ${name}`);
}

/** Takes a picture of the page, all of it, if pictures are wanted. */
export async function picture(page, name) {
  if (!SHOTS) return;
  mkdirSync(SHOTS, { recursive: true });
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: join(SHOTS, `${name}.png`), fullPage: true });
}

/** Sends a request to a node, by its place. */
export async function request(node, method, path, { body, headers } = {}) {
  const answer = await fetch(`${URLS[node]}${path}`, { method, body, headers });
  assert.ok(answer.status < 400, `${method} ${path}: ${answer.status} ${await answer.clone().text()}`);
  return answer;
}

/** Writes a value in the place of whatever is there, and returns what was written as a context. */
export async function write(path, body, type = "text/plain") {
  const seen = (await fetch(URLS[0] + path)).headers.get("Quorate-Context");
  const headers = { "Content-Type": type, ...(seen ? { "Quorate-Context": seen } : {}) };
  return (await request(0, "PUT", path, { body, headers })).headers.get("Quorate-Context");
}

/** Makes a conflict of two values that were written over a first one, and returns the path of the key. */
export async function conflict(bucket, key, first, values, type = "application/json") {
  const path = `/kv/${bucket}/${encodeURIComponent(key)}`;
  const headers = { "Content-Type": type };
  const context = await write(path, first, type);
  for (const [at, body] of values.entries()) {
    await request((at * 2 + 1) % URLS.length, "PUT", path, {
      body,
      headers: { ...headers, "Quorate-Context": context },
    });
  }
  return path;
}

/** Runs one of the project's scripts. */
export function script(name, ...words) {
  execFileSync(join(SCRIPTS, name), words, { stdio: ["ignore", "ignore", "inherit"] });
}

/** Reads and writes until the returned function is called, so that there is something to see. */
export function traffic() {
  let goesOn = true;
  const run = async (node) => {
    for (let count = 0; goesOn; count += 1) {
      const path = `/kv/sessions/user-${(count * 7919) % 300}`;
      const isWrite = count % 4 === 0;
      await fetch(
        `${URLS[node]}${path}`,
        isWrite
          ? { method: "PUT", body: `{"seen":${count}}`, headers: { "Content-Type": "application/json" } }
          : {},
      ).then(
        (it) => it.arrayBuffer(),
        () => {},
      );
      await new Promise((resolve) => setTimeout(resolve, 5 + (count % 7) * 2));
    }
  };
  const runs = [run(0), run(0), run(1)];
  return async () => {
    goesOn = false;
    await Promise.all(runs);
  };
}
