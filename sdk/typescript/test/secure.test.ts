/**
 * The client with a token and an authority, against a cluster that takes nothing else. `scripts/test-sdk.sh` starts
 * it: QUORATE_SECURE_URL is one of its nodes, NODE_EXTRA_CA_CERTS its authority, and QUORATE_SECURE_TOKEN a token that
 * may do everything.
 */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";

import * as quorate from "../src/index.js";

const url = process.env["QUORATE_SECURE_URL"] ?? "";
const token = process.env["QUORATE_SECURE_TOKEN"] ?? "";
const skip = url === "" && "QUORATE_SECURE_URL names no cluster";

test("a token and an authority let a client in", { skip }, async () => {
  const client = new quorate.Client(url, { token });
  for (let number = 0; number < 20; number++) await client.put("from-typescript", `k${number}`, `v${number}`);
  const read = await client.get("from-typescript", "k7");
  assert.ok(read instanceof quorate.Value);
  assert.equal(read.text(), "v7");
  const urls = (await client.nodes()).map((node) => node.url);
  assert.equal(urls.length, 3);
  assert.ok(
    urls.every((each) => each?.startsWith("https://")),
    String(urls),
  );
});

test("without a good token there is no way in", { skip }, async () => {
  for (const wrong of [undefined, `qk_${"a".repeat(16)}.${"A".repeat(43)}`, "x"]) {
    const client = new quorate.Client(url, { token: wrong });
    await assert.rejects(client.get("secure", "k1"), (error) => {
      assert.ok(error instanceof quorate.BadRequest, String(error));
      assert.deepEqual([error.status, error.problem], [401, "unauthenticated"]);
      return true;
    });
  }
});

test("a token does only what it may", { skip }, async () => {
  const scopes = [{ actions: ["read"], buckets: ["secure"], prefix: "mine/" }];
  const made = await fetch(`${url}/auth/tokens`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ name: "sdk", scopes, expires_in_ms: 600_000 }),
  });
  assert.equal(made.status, 201);
  const { token: limited } = (await made.json()) as { token: string };
  const client = new quorate.Client(url, { token: limited, discover: false });
  assert.ok((await client.get("secure", "mine/1")) instanceof quorate.Absent);
  for (const refused of [
    () => client.get("secure", "yours/1"),
    () => client.put("secure", "mine/1", "x"),
  ] as const) {
    await assert.rejects(refused(), (error) => {
      assert.ok(error instanceof quorate.BadRequest, String(error));
      assert.deepEqual([error.status, error.problem], [403, "forbidden"]);
      return true;
    });
  }
});

test("a node that is not believed gets no token", { skip }, () => {
  // The authority is read when a process starts: another one, without it.
  const script = `
    import { Client } from ${JSON.stringify(new URL("../src/index.js", import.meta.url).href)};
    const client = new Client(${JSON.stringify(url)}, { token: "secret", attemptsMax: 1, deadlineMs: 3000 });
    client.get("secure", "k1").then(() => console.log("let in"), (error) => console.log(error.name, error.message));
  `;
  const { NODE_EXTRA_CA_CERTS: _, ...env } = process.env;
  const said = execFileSync(process.execPath, ["--input-type=module", "-e", script], {
    env,
    encoding: "utf8",
  });
  assert.match(said, /Unreachable/);
  assert.match(said, /certificate/i);
});
