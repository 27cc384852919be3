/** The cases of `sdk/conformance`, against the cluster that `QUORATE_URL` names. */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { parse } from "yaml";

import { type Case, runCase } from "./conformance/runner.js";

const FOLDER = fileURLToPath(new URL("../../../conformance/", import.meta.url));
const URLS = (process.env["QUORATE_URL"] ?? "").split(",").filter((url) => url !== "");

function load(): Case[] {
  const files = readdirSync(FOLDER)
    .filter((name) => name.endsWith(".yaml"))
    .sort();
  const cases = files.flatMap((name) => {
    const document = parse(readFileSync(FOLDER + name, "utf8")) as { cases: Case[] };
    assert.deepEqual(Object.keys(document), ["cases"], `${name} has more than cases`);
    return document.cases;
  });
  assert.ok(cases.length > 0, `there are no cases in ${FOLDER}`);
  assert.equal(new Set(cases.map((each) => each.name)).size, cases.length, "a name is not unique");
  return cases;
}

async function has(feature: string): Promise<boolean> {
  if (feature === "explain") return (await fetch(`${URLS[0]}/kv/b/k?explain=true`)).status !== 400;
  assert.equal(feature, "http_addr", `unknown feature ${feature}`);
  const { nodes } = (await (await fetch(`${URLS[0]}/cluster`)).json()) as {
    nodes: { http_addr?: unknown }[];
  };
  return nodes.every((node) => typeof node.http_addr === "string");
}

for (const each of load()) {
  test(`${each.name}: ${each.about}`, { timeout: 60_000 }, async (context) => {
    if (each.server !== "stub") {
      if (URLS.length === 0) return context.skip("QUORATE_URL is not set: no cluster");
      for (const feature of each.needs ?? []) {
        if (!(await has(feature))) return context.skip(`the cluster has no ${feature}`);
      }
    }
    await runCase(each, URLS);
  });
}
