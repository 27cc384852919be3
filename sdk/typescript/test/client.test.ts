/** The client against servers that do one thing each: streams, updates, deadlines, discovery. */

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { test } from "node:test";

import * as quorate from "../src/index.js";
import type { Json } from "./conformance/servers.js";
import { withStub } from "./stub.js";

const VALUE = { status: 200, headers: { "Quorate-Context": "c1", ETag: '"e1"' }, body: "one" };
const DONE = { status: 204, headers: { "Quorate-Context": "c2", "Quorate-Siblings": "1" } };
const CHANGED = { status: 412, problem: { type: "condition_failed", status: 412 } };
const CONFLICT = {
  status: 300,
  headers: { "Quorate-Context": "c3", ETag: '"e3-json"', "Content-Type": "application/json" },
  json: {
    siblings: [
      { dot: "d-1", value: "a", meta: {} },
      { dot: "d-2", deleted: true },
    ],
  },
};

test("update begins again when another write came in between", () =>
  withStub([VALUE, CHANGED, { ...VALUE, body: "two" }, DONE], async (client, stub) => {
    const written = await client.update("b", "k", (read) => {
      assert.ok(read instanceof quorate.Value);
      return `${read.text()}!`;
    });
    assert.equal(written?.siblings, 1);
    const sent = stub.take();
    assert.deepEqual(
      sent.map((each) => each.body),
      ["", "one!", "", "two!"],
    );
    assert.equal(sent[1]?.headers["if-match"], '"e1"');
    assert.notEqual(sent[1]?.headers["idempotency-key"], sent[3]?.headers["idempotency-key"]);
  }));

test("update does not change twice what may have been applied", () =>
  withStub([VALUE, {}, CHANGED], async (client, stub) => {
    await assert.rejects(
      client.update("b", "k", () => "x"),
      (error: unknown) => {
        return error instanceof quorate.ConditionFailed && error.outcome === "unknown";
      },
    );
    assert.equal(stub.take().length, 3);
  }));

test("update that changes nothing writes nothing", () =>
  withStub([VALUE], async (client, stub) => {
    assert.equal(await client.update("b", "k", async () => undefined), undefined);
    assert.equal(stub.take().length, 1);
  }));

test("a resolver decides", () =>
  withStub([CONFLICT, DONE], async (client, stub) => {
    const siblings = await client.get("b", "k");
    assert.ok(siblings instanceof quorate.Siblings);
    await siblings.resolve(() => quorate.DELETE, { w: "all" });
    await siblings.resolve(() => ({ value: "v", contentType: "a/b", meta: { m: "1" } }));
    await siblings.resolve(([first]) => first ?? quorate.DELETE);
    await siblings.resolve((all) => all[1] ?? "");
    const [, deleted, put, kept, again] = stub.take();
    assert.deepEqual([deleted?.method, deleted?.query, again?.method], ["DELETE", { w: "all" }, "DELETE"]);
    assert.deepEqual([put?.headers["content-type"], put?.headers["quorate-meta-m"]], ["a/b", "1"]);
    assert.deepEqual([kept?.path, kept?.body], ["/siblings/b/k", '{"keep":"d-1"}']);
    assert.ok([deleted, put, kept, again].every((each) => each?.headers["quorate-context"] === "c3"));
  }));

test("what a resolver or a change writes has a lifetime, but not a delete", () =>
  withStub(
    [CONFLICT, ...Array(5).fill(DONE), VALUE, DONE, VALUE, DONE, VALUE, DONE],
    async (client, stub) => {
      const siblings = await client.get("b", "k");
      assert.ok(siblings instanceof quorate.Siblings);
      const never: quorate.NewValue = { value: "v", expiresIn: "never" };
      const decisions: quorate.Resolution[] = ["v", never, ...siblings.siblings, quorate.DELETE];
      for (const decision of decisions) await siblings.resolve(() => decision, { expiresIn: 60 });
      const changes: quorate.Change[] = ["v", { value: "v", expiresIn: 5 }, quorate.DELETE];
      for (const change of changes) await client.update("b", "k", () => change, { expiresIn: 60 });
      const sent = stub.take().filter((each) => each.method !== "GET");
      assert.deepEqual(
        sent.map((each) => each.headers["quorate-expires-in"]),
        ["60", "never", "60", undefined, undefined, "60", "5", undefined],
      );
    },
  ));

test("the lifetime of a bucket has the name of this client", () => {
  const properties = {
    n: 3,
    r: 1,
    w: "all",
    conflicts: "lww",
    sloppy: true,
    type: "value",
    expires_in_s: 60,
  };
  const shown = { status: 200, headers: { "Content-Type": "application/json" }, json: properties };
  return withStub([shown], async (client, stub) => {
    const read = await client.setBucket("b", { expiresInS: 60, n: 3 });
    assert.equal(read.expiresInS, 60);
    await client.setBucket("b", read);
    const [first, again] = stub.take().map((each) => JSON.parse(each.body));
    assert.deepEqual(first, { n: 3, expires_in_s: 60 });
    assert.deepEqual([again.expires_in_s, "expiresInS" in again], [60, false]);
  });
});

test("a streamed value that ends early is an error", () =>
  withStub([{ ...VALUE, missing_bytes: 5 }], async (client) => {
    const read = await client.open("b", "k");
    assert.ok(read instanceof quorate.ValueStream);
    await assert.rejects(read.bytes(), quorate.Unreachable);
  }));

test("a streamed value that does not go on ends after the time of an attempt", async () => {
  const server = createServer((_request, response) => {
    response.writeHead(200, { "quorate-context": "c", "content-length": "100" });
    response.write("x");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  server.unref(); // a failure must not keep the process
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const client = new quorate.Client(url, { discover: false, attemptTimeoutMs: 300, deadlineMs: 700 });
  const read = await client.open("b", "k");
  assert.ok(read instanceof quorate.ValueStream);
  await assert.rejects(read.bytes(), quorate.DeadlineExceeded);
  await assert.rejects(client.get("b", "k"), quorate.DeadlineExceeded);
  server.closeAllConnections();
  server.close();
});

test("a stream that is given up ends", () =>
  withStub([{ ...VALUE, body: { pattern: 3_000_000 } }], async (client) => {
    const read = await client.open("b", "k");
    assert.ok(read instanceof quorate.ValueStream);
    for await (const piece of read) {
      assert.ok(piece.length > 0);
      break;
    }
    await read.cancel();
    assert.equal((await read.bytes()).length, 0);
    const unread = await client.open("b", "k");
    assert.ok(unread instanceof quorate.ValueStream);
    await unread.cancel();
    assert.equal((await unread.bytes()).length, 0);
  }));

test("the error of a source is the caller's", () =>
  withStub([DONE], async (client) => {
    async function* broken(): AsyncGenerator<Uint8Array> {
      yield new Uint8Array(1);
      throw new RangeError("mine");
    }
    await assert.rejects(client.put("b", "k", broken()), new RangeError("mine"));
    await assert.rejects(client.put("b", "k", ["text"] as never), quorate.InvalidArgument);
    const pieces = [Uint8Array.of(1), new Uint8Array(), Uint8Array.of(2)];
    assert.equal((await client.put("b", "k", pieces)).siblings, 1);
  }));

test("an answer over the bound is not read, nor asked for again", () =>
  withStub(
    [{ ...VALUE, body: { pattern: 100_000 } }],
    async (client, stub) => {
      await assert.rejects(client.get("b", "k"), quorate.ProtocolError);
      assert.equal(stub.take().length, 1);
    },
    { valueBytesMax: 50_000 },
  ));

test("the nodes found are asked, and nonsense about them is not believed", async () => {
  const json = (body: unknown): Json => ({
    status: 200,
    headers: { "Content-Type": "application/json" },
    json: body,
  });
  await withStub([VALUE], async (_, other) => {
    const nodes = [{ node: "n1", http_addr: null }, { node: "n2", http_addr: new URL(other.url).host }, 7];
    await withStub([json({ nodes })], async (_client, seed) => {
      const client = new quorate.Client(seed.url);
      for (let at = 0; at < 3; at += 1) await client.get("b", "k");
      assert.deepEqual(
        other.take().map((each) => each.path),
        ["/kv/b/k", "/kv/b/k", "/kv/b/k"],
      );
      assert.deepEqual(
        seed.take().map((each) => each.path),
        ["/cluster", "/ring/partitions"],
      );
    });
  });
  for (const body of [{ nodes: 7 }, [], { nodes: [] }, "x"]) {
    await withStub([json(body), VALUE], async (_client, seed) => {
      assert.ok((await new quorate.Client(seed.url).get("b", "k")) instanceof quorate.Value);
    });
  }
});

const HEAD = "HTTP/1.1 200 OK\r\nQuorate-Context: c\r\n";
const NO_HTTP = [
  "",
  "garbage\r\n\r\n",
  "\x16\x03\x01\x02\x00".repeat(100),
  "HTTP/1.1 OK\r\n\r\n",
  "HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
  "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
  "HTTP/1.1 204 No Content\r\nQuorate-Context: c\r\n\r\n",
  "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000),
  `${HEAD}Content-Length: -1\r\n\r\n`,
  `${HEAD}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab`,
  `${HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n`,
  `${HEAD}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx`,
  `${HEAD}X: ${"y".repeat(2_000_000)}\r\n\r\n`,
  HEAD + "X: y\r\n".repeat(100_000),
  `${HEAD}no colon\r\n\r\n`,
  "HTTP/1.1 200 OK\r\nQuorate-Context: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
  "HTTP/1.1 300 X\r\nQuorate-Context: c\r\nContent-Type: application/json\r\n" +
    "Content-Encoding: gzip\r\nContent-Length: 8\r\n\r\nnot gzip",
];

test("what is not HTTP is a typed error", async () => {
  for (const [index, answer] of NO_HTTP.entries()) {
    const server = createTcpServer((socket) => {
      socket.on("error", () => socket.destroy());
      socket.once("data", () => socket.end(Buffer.from(answer, "latin1")));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    server.unref(); // a failure must not keep the process
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const client = new quorate.Client(url, { discover: false, deadlineMs: 3000, attemptsMax: 2 });
    const isTyped = (error: unknown) => error instanceof quorate.QuorateError;
    const opened = async () => {
      const read = await client.open("b", "k");
      if (read.kind === "stream") await read.bytes();
    };
    await assert.rejects(client.get("b", "k"), isTyped, `answer ${index}`);
    await assert.rejects(opened(), isTyped, `answer ${index}`);
    if (!answer.includes(" 204 ")) {
      await assert.rejects(client.put("b", "k", "v"), quorate.UnknownOutcome, `answer ${index}`);
    }
    server.close();
  }
});

test("settings that cannot be meant are refused", () => {
  for (const wrong of [{ deadlineMs: 0 }, { attemptsMax: Number.NaN }, { token: "a b" }]) {
    assert.throws(() => new quorate.Client("http://127.0.0.1:1", wrong), quorate.InvalidArgument);
  }
});
