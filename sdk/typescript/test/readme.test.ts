/** The example of the README, run as it stands there. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import * as quorate from "../src/index.js";

const README = readFileSync(fileURLToPath(new URL("../../README.md", import.meta.url)), "utf8");
const URLS = process.env["QUORATE_URL"] ?? "";

/** A bucket of whose feed all nodes know. */
async function followedBucket(): Promise<string> {
  const bucket = `orders-${randomBytes(8).toString("hex")}`;
  for (const url of URLS.split(",")) {
    const client = new quorate.Client(url, { discover: false });
    await client.setBucket(bucket, { feedRetentionS: 86_400 });
    while (!(await client.feedPage(bucket, { start: "now" })).complete) await setTimeout(50);
  }
  return bucket;
}

test("the examples print what the README says", async (context) => {
  if (URLS === "") return context.skip("QUORATE_URL is not set: no cluster");
  const examples = [...README.matchAll(/```ts\n([^]*?)```[^]*?```\n([^]*?)```/g)];
  assert.equal(examples.length, 6);
  const orders = await followedBucket();
  for (const [, example = "", output] of examples) {
    let text = example.replace("http://127.0.0.1:7401", URLS);
    for (const bucket of ["carts", "visits", "tags", "users", "sessions", "accounts"]) {
      text = text.replaceAll(`"${bucket}"`, `"${bucket}-${randomBytes(8).toString("hex")}"`);
    }
    text = text.replaceAll('"orders"', `"${orders}"`);
    // Beside this file, so that the package finds itself by its name. The example has no type annotations.
    const file = fileURLToPath(new URL("readme-example.mjs", import.meta.url));
    writeFileSync(file, text);
    const { stdout } = await promisify(execFile)(process.execPath, [file]);
    assert.equal(stdout, output);
  }
});
