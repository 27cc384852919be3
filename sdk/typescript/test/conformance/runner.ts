/** Runs one case of `sdk/conformance`. */

import { randomBytes } from "node:crypto";
import { isDeepStrictEqual } from "node:util";

import * as quorate from "../../src/index.js";
import { mismatches, refuseUnknown, type Result, shortened } from "./expectations.js";
import * as indexes from "./indexes.js";
import * as typed from "./typed.js";
import { type Json, Proxy, Stub, valueBytes } from "./servers.js";

export interface Case {
  readonly name: string;
  readonly about: string;
  readonly server?: string;
  readonly stub?: readonly Json[];
  readonly looks?: readonly Json[];
  readonly needs?: readonly string[];
  readonly client?: Json;
  readonly steps: readonly Step[];
}

type Step = Json & { op: string };
type Options = quorate.PutOptions & quorate.GetOptions;

const CASE_FIELDS = ["name", "about", "server", "stub", "looks", "needs", "client", "steps"];
const STEP_FIELDS = ["op", "as", "expect", "expect_one_of", "within_ms", "lose_responses", "bucket"];
const SHARED = ["key", "n", "sloppy", "timeout_ms", "explain"];
const WRITE = [...SHARED, "w", "context", "context_text", "if", "idempotency_key"];
const OPS: Record<string, readonly string[]> = {
  get: [...SHARED, "r", "stream"],
  put: [...WRITE, "value", "content_type", "meta", "index", "expires_in", "stream"],
  delete: WRITE,
  resolve: ["siblings", "join", "keep", "index", "expires_in"],
  update: ["key", "append"],
  list_keys: ["prefix", "limit", "cursor"],
  all_keys: ["prefix", "limit"],
  get_bucket: [],
  set_bucket: ["properties"],
  reset_bucket: [],
  nodes: [],
  batch: ["operations", "r", "w", "n", "sloppy", "timeout_ms"],
  wait: ["key", "context", "context_text", "wait_ms", "r", "n", "sloppy", "timeout_ms", "meanwhile"],
  feed: ["from", "cursor", "prefix", "limit", "wait_ms", "meanwhile"],
  follow: ["from", "cursor", "prefix", "limit", "wait_ms"],
  ...indexes.OPS,
  ...typed.OPS,
};
const BATCH_OPS: Record<string, readonly string[]> = {
  get: [],
  put: ["value", "content_type", "index", "context", "if", "idempotency_key", "expires_in"],
  delete: ["context", "if", "idempotency_key"],
  change: ["operation", "context", "idempotency_key"],
};

/** How long after a step the one begins that it has as `meanwhile`. */
const MEANWHILE_MS = 200;

export async function runCase(test: Case, urls: readonly string[]): Promise<void> {
  refuseUnknown("case", Object.keys(test), CASE_FIELDS);
  const server = test.server ?? "cluster";
  const stub = server === "stub" ? await Stub.start(test.stub ?? [], test.looks) : undefined;
  const proxy = server === "proxy" ? await Proxy.start(urls[0] ?? "") : undefined;
  const { attempts_max, deadline_ms, token, ...unknown } = test.client ?? {};
  refuseUnknown("client", Object.keys(unknown), []);
  try {
    const at = stub?.url ?? proxy?.url ?? (test.needs?.includes("http_addr") ? urls.slice(0, 1) : urls);
    const client = new quorate.Client(at, {
      attemptsMax: attempts_max as number | undefined,
      deadlineMs: deadline_ms as number | undefined,
      token: token as string | undefined,
      discover: server === "cluster" || test.looks !== undefined,
    });
    const runner = new Runner(client, stub, proxy);
    for (const [index, step] of test.steps.entries()) await runner.step(index + 1, step);
  } finally {
    stub?.close();
    proxy?.close();
  }
}

class Runner {
  readonly #saved = new Map<string, any>();
  readonly #bucket: string;

  constructor(
    readonly client: quorate.Client,
    readonly stub: Stub | undefined,
    readonly proxy: Proxy | undefined,
  ) {
    this.#bucket = stub === undefined ? `c-${randomBytes(8).toString("hex")}` : "b";
  }

  async step(number: number, step: Step): Promise<void> {
    check(`step ${number}`, step, STEP_FIELDS);
    const meanwhile = step["meanwhile"] as Step | undefined;
    if (meanwhile !== undefined) check(`step ${number}, meanwhile`, meanwhile, ["op", "bucket"]);
    const deadline = performance.now() + Number(step["within_ms"] ?? 0);
    const expected = (step["expect_one_of"] as Json[] | undefined) ?? [
      (step["expect"] as Json | undefined) ?? {},
    ];
    if (this.proxy !== undefined) this.proxy.toLose = Number(step["lose_responses"] ?? 0);
    let result = await this.attempt(step);
    for (;;) {
      const problems = expected.map((expect) => mismatches(expect, result));
      if (problems.some((each) => each.length === 0)) break;
      if (performance.now() >= deadline) {
        const shown = result.error ?? shortened(result.value);
        throw new Error(`step ${number} (${step.op}): ${JSON.stringify(problems)}; got ${shown}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
      result = await this.attempt(step);
    }
    if (this.proxy !== undefined && this.proxy.toLose > 0)
      throw new Error(`step ${number}: answers were not lost`);
    if (step["as"] !== undefined) this.#saved.set(String(step["as"]), result.error ?? result.value);
  }

  private async attempt(step: Step): Promise<Result> {
    const result: Result = { value: undefined, error: undefined, tookMs: 0, sent: [], looks: 0 };
    const started = performance.now();
    try {
      [result.value] = await Promise.all([this.perform(step), this.meanwhile(step)]);
    } catch (error) {
      if (!(error instanceof quorate.QuorateError)) throw error;
      result.error = error;
    }
    result.tookMs = performance.now() - started;
    result.sent = this.stub?.take() ?? [];
    result.looks = this.stub?.looks ?? 0;
    return result;
  }

  /** Carries out the step that another has as `meanwhile`, once that has begun. */
  private async meanwhile(step: Step): Promise<void> {
    if (step["meanwhile"] === undefined) return;
    await new Promise((resolve) => setTimeout(resolve, MEANWHILE_MS));
    await this.perform(step["meanwhile"] as Step);
  }

  private perform(step: Step): Promise<unknown> {
    const bucket = String(step["bucket"] ?? this.#bucket);
    const key = String(step["key"] ?? "");
    const options = this.options(step);
    const { prefix, limit, cursor } = step as { prefix?: string; limit?: number; cursor?: string };
    switch (step.op) {
      case "get":
        return step["stream"] === true
          ? this.open(bucket, key, options)
          : this.client.get(bucket, key, options);
      case "put":
        return this.client.put(bucket, key, sourceOf(step), options);
      case "delete":
        return this.client.delete(bucket, key, options);
      case "resolve":
        return this.resolve(step, { expiresIn: options.expiresIn }, options.index);
      case "update":
        return this.client.update(bucket, key, (read) => textsOf(read).join("|") + String(step["append"]));
      case "list_keys": {
        const from = cursor === undefined ? undefined : this.saved(cursor).cursor;
        return this.client.listKeys(bucket, { prefix, limit, cursor: from });
      }
      case "all_keys":
        return this.allKeys(bucket, prefix, limit);
      case "list_index": {
        const from = cursor === undefined ? undefined : this.saved(cursor).cursor;
        return this.client.indexPage(bucket, ...indexes.question(step, { limit, cursor: from }));
      }
      case "all_index":
        return indexes.all(this.client, bucket, step);
      case "get_bucket":
        return this.client.getBucket(bucket);
      case "set_bucket":
        return this.client.setBucket(bucket, ownNames(step["properties"] as Json));
      case "reset_bucket":
        return this.client.resetBucket(bucket);
      case "nodes":
        return this.client.nodes();
      case "batch":
        return this.batch(step["operations"] as Step[], options);
      case "wait":
        return this.client.wait(bucket, key, { ...waitOptions(options), waitMs: Number(step["wait_ms"]) });
      case "feed":
        return this.client.feedPage(bucket, this.subscription(step));
      case "follow":
        return this.follow(bucket, this.subscription(step));
      case "typed_get":
      case "change":
      case "typed_delete":
        return typed.perform(this.client, step, bucket, options);
      default:
        throw new Error(`unknown op ${step.op}`);
    }
  }

  private options(step: Step): Options {
    const condition = step["if"];
    const isName = condition !== undefined && condition !== "absent" && condition !== "present";
    const context = step["context"] === undefined ? step["context_text"] : this.seen(String(step["context"]));
    const options: Record<string, unknown> = {
      r: step["r"],
      w: step["w"],
      n: step["n"],
      sloppy: step["sloppy"],
      timeoutMs: step["timeout_ms"],
      explain: step["explain"],
      context,
      idempotencyKey: step["idempotency_key"],
      contentType: step["content_type"],
      meta: step["meta"],
      index: indexes.given(step["index"]),
      expiresIn: step["expires_in"],
      ifAbsent: condition === "absent" ? true : undefined,
      ifPresent: condition === "present" ? true : undefined,
      ifMatch: isName ? this.seen(String(condition)) : undefined,
    };
    return options;
  }

  private saved(name: string): any {
    if (!this.#saved.has(name)) throw new Error(`no step is named ${name}`);
    return this.#saved.get(name);
  }

  /** What came of an earlier step, or the change `PAGE.KEY` of an earlier page. */
  private seen(name: string): any {
    const dot = name.indexOf(".");
    if (dot < 0) return this.saved(name);
    const page = this.saved(name.slice(0, dot)) as quorate.FeedPage;
    const change = page.changes.find(({ key }) => key === name.slice(dot + 1));
    if (change === undefined) throw new Error(`there is no change ${name}`);
    return change;
  }

  private subscription(step: Step): quorate.FeedPageOptions {
    const { from, cursor, prefix, limit, wait_ms } = step as Record<string, any>;
    if ((from === undefined) === (cursor === undefined)) throw new Error("a feed begins at one place");
    if (cursor === undefined && from !== "now" && from !== "oldest") throw new Error(`unknown start ${from}`);
    const start = cursor === undefined ? from : this.saved(cursor).cursor;
    return { start, prefix, limit, waitMs: wait_ms };
  }

  /** The pages of a feed up to the first that is complete and has no changes, put together. */
  private async follow(
    bucket: string,
    options: quorate.FeedPageOptions,
  ): Promise<quorate.FeedPage | undefined> {
    const changes = new Map<string, quorate.FeedChange>();
    for await (const page of this.client.feed(bucket, options)) {
      for (const change of page.changes) changes.set(change.key, change);
      if (page.complete && page.changes.length === 0) return { ...page, changes: [...changes.values()] };
    }
    return undefined;
  }

  private async open(bucket: string, key: string, options: quorate.GetOptions): Promise<unknown> {
    const read = await this.client.open(bucket, key, options);
    if (read.kind !== "stream") return read;
    const value = await read.bytes();
    const { context, etag, contentType, meta, index, explainId, expiresAt } = read;
    return { kind: "value", value, context, etag, contentType, meta, index, explainId, expiresAt };
  }

  private async batch(steps: readonly Step[], { r, w, n, sloppy, timeoutMs }: Options): Promise<unknown> {
    const operations = steps.map((each) => this.operation(each));
    const results = await this.client.batch(operations, { r, w, n, sloppy, timeoutMs });
    for (const [at, each] of steps.entries()) {
      if (each["as"] !== undefined) this.#saved.set(String(each["as"]), results[at]);
    }
    return results;
  }

  private operation(each: Step): quorate.BatchOperation {
    const { op } = each;
    const known = BATCH_OPS[op];
    if (known === undefined) throw new Error(`unknown op ${op} of a batch`);
    refuseUnknown(op, Object.keys(each), ["op", "as", "bucket", "key", ...known]);
    const place = { bucket: String(each["bucket"] ?? this.#bucket), key: String(each["key"]) };
    const { context, contentType, index, ifAbsent, ifPresent, ifMatch, idempotencyKey, expiresIn } =
      this.options(each);
    const conditions = { context, ifPresent, ifMatch, idempotencyKey };
    switch (op) {
      case "put": {
        const value = valueBytes(each["value"]);
        return { op, ...place, value, contentType, index, expiresIn, ifAbsent, ...conditions };
      }
      case "delete":
        return { op, ...place, ...conditions };
      case "change":
        return { op, ...place, operation: each["operation"] as Json, context, idempotencyKey };
      default:
        return { op: "get", ...place };
    }
  }

  private resolve(step: Step, options: quorate.KeepOptions, index?: quorate.Index): Promise<unknown> {
    const siblings = this.seen(String(step["siblings"])) as quorate.Siblings;
    if (step["keep"] === undefined) {
      return siblings.resolve((all) => {
        const value = liveTexts(all).join(String(step["join"]));
        return index === undefined ? value : { value, index };
      }, options);
    }
    if (index !== undefined) throw new Error("what is kept keeps its entries");
    const wanted = valueBytes(step["keep"]);
    const kept = siblings.siblings.find((sibling) =>
      isDeepStrictEqual(new Uint8Array(sibling.value), wanted),
    );
    if (kept === undefined) throw new Error("the sibling to keep is not there");
    return siblings.resolve(() => kept, options);
  }

  private async allKeys(bucket: string, prefix?: string, pageSize?: number): Promise<quorate.KeyPage> {
    const keys: string[] = [];
    for await (const key of this.client.keys(bucket, { prefix, pageSize })) keys.push(key);
    return { keys, cursor: undefined, complete: true };
  }
}

/** Properties of a bucket under the names that they have in this client. */
function ownNames({ expires_in_s: expiresInS, feed_retention_s: feedRetentionS, ...others }: Json): Json {
  const given = Object.entries({ expiresInS, feedRetentionS }).filter(([, seconds]) => seconds !== undefined);
  return { ...others, ...Object.fromEntries(given) };
}

function waitOptions({ r, n, sloppy, timeoutMs, context }: Options): quorate.WaitOptions {
  return { r, n, sloppy, timeoutMs, context };
}

/** Fails on an operation or an argument that this runner does not know. */
function check(what: string, step: Step, fields: readonly string[]): void {
  const known = OPS[step.op];
  if (known === undefined) throw new Error(`${what}: unknown op ${step.op}`);
  refuseUnknown(what, Object.keys(step), [...fields, ...known]);
}

function sourceOf(step: Step): quorate.Source {
  const whole = valueBytes(step["value"]);
  if (step["stream"] !== true) return whole;
  return function* pieces() {
    for (let at = 0; at < whole.length; at += 10_000) yield whole.subarray(at, at + 10_000);
  };
}

function textsOf(read: quorate.Read): string[] {
  if (read.kind === "absent") return [];
  return read.kind === "value" ? [read.text()] : liveTexts(read.siblings);
}

function liveTexts(siblings: readonly quorate.Sibling[]): string[] {
  return siblings
    .filter((sibling) => !sibling.deleted)
    .map((sibling) => sibling.text())
    .sort();
}
