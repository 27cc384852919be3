/** Runs one case of `sdk/conformance`. */

import { randomBytes } from "node:crypto";
import { isDeepStrictEqual } from "node:util";

import * as quorate from "../../src/index.js";
import * as typed from "./typed.js";
import { type Json, Proxy, type Sent, Stub, valueBytes } from "./servers.js";

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
  put: [...WRITE, "value", "content_type", "meta", "expires_in", "stream"],
  delete: WRITE,
  resolve: ["siblings", "join", "keep", "expires_in"],
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
  ...typed.OPS,
};
const BATCH_OPS: Record<string, readonly string[]> = {
  get: [],
  put: ["value", "content_type", "context", "if", "idempotency_key", "expires_in"],
  delete: ["context", "if", "idempotency_key"],
  change: ["operation", "context", "idempotency_key"],
};

/** How long after a step the one begins that it has as `meanwhile`. */
const MEANWHILE_MS = 200;

/** What came of a step. */
interface Result {
  value: any;
  error: quorate.QuorateError | undefined;
  tookMs: number;
  sent: Sent[];
  /** How often the stub was asked about the cluster, since the case began. */
  looks: number;
}

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
        return this.resolve(step, { expiresIn: options.expiresIn });
      case "update":
        return this.client.update(bucket, key, (read) => textsOf(read).join("|") + String(step["append"]));
      case "list_keys": {
        const from = cursor === undefined ? undefined : this.saved(cursor).cursor;
        return this.client.listKeys(bucket, { prefix, limit, cursor: from });
      }
      case "all_keys":
        return this.allKeys(bucket, prefix, limit);
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
    const { context, etag, contentType, meta, explainId, expiresAt } = read;
    return { kind: "value", value, context, etag, contentType, meta, explainId, expiresAt };
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
    const { context, contentType, ifAbsent, ifPresent, ifMatch, idempotencyKey, expiresIn } =
      this.options(each);
    const conditions = { context, ifPresent, ifMatch, idempotencyKey };
    switch (op) {
      case "put": {
        const value = valueBytes(each["value"]);
        return { op, ...place, value, contentType, expiresIn, ifAbsent, ...conditions };
      }
      case "delete":
        return { op, ...place, ...conditions };
      case "change":
        return { op, ...place, operation: each["operation"] as Json, context, idempotencyKey };
      default:
        return { op: "get", ...place };
    }
  }

  private resolve(step: Step, options: quorate.KeepOptions): Promise<unknown> {
    const siblings = this.seen(String(step["siblings"])) as quorate.Siblings;
    if (step["keep"] === undefined) {
      return siblings.resolve((all) => liveTexts(all).join(String(step["join"])), options);
    }
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

/** The neutral name of an error's class: `NoQuorum` is `no_quorum`. */
function classOf(error: quorate.QuorateError): string {
  const name = error.name.replace(/(?<=[a-z])(?=[A-Z])/g, "_").toLowerCase();
  return (
    ({ protocol_error: "protocol", deadline_exceeded: "deadline" } as Record<string, string>)[name] ?? name
  );
}

function mismatches(expect: Json, result: Result): string[] {
  if ((result.error !== undefined) !== (expect["error"] !== undefined)) {
    return [`expected ${String(expect["error"] ?? "no error")}`];
  }
  return Object.entries(expect).flatMap(([name, wanted]) => {
    const [actual, inForm] = compared(name, wanted, result);
    const same = isDeepStrictEqual(actual, inForm);
    return same ? [] : [`${name}: expected ${shortened(inForm)}, got ${shortened(actual)}`];
  });
}

/** What is not as expected of one result of a batch. */
function mismatchesOf(expect: Json | undefined, one: unknown): string[] {
  const error = one instanceof quorate.QuorateError ? one : undefined;
  return mismatches(expect ?? {}, { value: one, error, tookMs: 0, sent: [], looks: 0 });
}

/** What is not as expected of each change on a page. */
function ofChanges(changes: readonly quorate.FeedChange[], wanted: Record<string, Json>): [unknown, unknown] {
  const keys = changes.map(({ key }) => key);
  if (new Set(keys).size !== keys.length) throw new Error(`a key is twice on a page: ${keys}`);
  const found = changes.map((change) => {
    const expect = wanted[change.key];
    return [change.key, expect === undefined ? ["is not expected"] : mismatchesOf(expect, change)];
  });
  return [Object.fromEntries(found), Object.fromEntries(Object.keys(wanted).map((key) => [key, []]))];
}

function shortened(value: unknown): string {
  const json = JSON.stringify(value, (_, it) => (typeof it === "bigint" ? String(it) : it));
  return (json ?? "undefined").slice(0, 400);
}

const sorted = (bytes: readonly Uint8Array[]): string[] =>
  bytes.map((each) => Buffer.from(each).toString("hex")).sort();

/** What is there and what should be, in the same form. */
function compared(name: string, wanted: any, result: Result): [unknown, unknown] {
  const { value, error, sent, looks, tookMs } = result;
  switch (name) {
    case "error":
      return [error === undefined ? undefined : classOf(error), wanted];
    case "problem":
      return [error?.problem, wanted];
    case "status":
      return [error?.status, wanted];
    case "parameter":
      return [error?.parameter, wanted];
    case "header":
      return [error?.header, wanted];
    case "outcome":
      return [error?.outcome, wanted];
    case "retry_after_ms":
      return [error?.retryAfterMs, wanted];
    case "kind":
      return [value.kind === "absent" && value.deleted ? "deleted" : value.kind, wanted];
    case "value":
      return [new Uint8Array(value.value), valueBytes(wanted)];
    case "content_type":
      return [value.contentType, wanted];
    case "meta":
      return [{ ...value.meta }, wanted];
    case "values":
      return [sorted(value.live.map((it: any) => it.value)), sorted(wanted.map(valueBytes))];
    case "content_types":
      return [value.live.map((it: any) => it.contentType).sort(), [...wanted].sort()];
    case "deletes":
      return [value.siblings.length - value.live.length, wanted];
    case "has_context":
      return [value.context !== undefined, wanted];
    case "siblings":
      return [value.siblings, wanted];
    case "acks_min":
      return [value.acks >= wanted, true];
    case "keys":
      return "changes" in value
        ? [value.changes.map((it: any) => it.key).sort(), [...wanted].sort()]
        : [[...value.keys], wanted];
    case "changes":
      return ofChanges(value.changes, wanted);
    case "changes_max":
      return [value.changes.length <= wanted, true];
    case "cursor":
      return [(error as quorate.CursorExpired | undefined)?.cursor ?? value?.cursor, wanted];
    case "resync":
      return [(error as quorate.CursorExpired | undefined)?.resync, wanted];
    case "unchanged":
      return [value === undefined, wanted];
    case "bytes":
      return [value.size, wanted];
    case "complete":
      return [value.complete, wanted];
    case "has_cursor":
      return [value.cursor !== undefined, wanted];
    case "properties": {
      const { expiresInS = null, feedRetentionS = null } = value;
      const shown = { ...value, expires_in_s: expiresInS, feed_retention_s: feedRetentionS };
      return [Object.fromEntries(Object.keys(wanted).map((it) => [it, shown[it]])), wanted];
    }
    case "results":
      return [value.map((one: any, at: number) => mismatchesOf(wanted[at], one)), wanted.map(() => [])];
    case "expires":
      return [value.expiresAt !== undefined, wanted];
    case "expires_at":
      return [value.expiresAt?.toISOString(), wanted];
    case "expires_in_s_min":
      return [value.expiresAt - Date.now() >= wanted * 1000, true];
    case "expires_in_s_max":
      return [value.expiresAt - Date.now() <= wanted * 1000, true];
    case "expiring":
      return [value.siblings.filter((it: any) => it.expiresAt !== undefined).length, wanted];
    case "expired":
      return [value.expired, wanted];
    case "nodes_min":
      return [value.length >= wanted, true];
    case "typed_value":
      return typed.compared(value, wanted);
    case "exists":
      return [(value.read ?? value).exists, wanted];
    case "explained":
      return [value.explainId !== undefined, wanted];
    case "took_ms_min":
      return [tookMs >= wanted, true];
    case "took_ms_max":
      return [tookMs <= wanted, true];
    case "looks_min":
      return [looks >= wanted, true];
    case "looks_max":
      return [looks <= wanted, true];
    case "one_idempotency_key":
      return [hasOneKey(sent), wanted];
    case "sent":
      return [
        sent.map((each, index) => (wanted[index] === undefined ? each : asExpected(each, wanted[index]))),
        wanted,
      ];
    default:
      throw new Error(`unknown expectation ${name}`);
  }
}

function hasOneKey(sent: readonly Sent[]): boolean {
  const keys = new Set(sent.map((each) => each.headers["idempotency-key"]));
  return keys.size === 1 && !keys.has(undefined);
}

/** The request in the form of its expectation, with only what that names. */
function asExpected(sent: Sent, wanted: Json): Json {
  const known = sent as unknown as Json;
  refuseUnknown("sent", Object.keys(wanted), [...Object.keys(known), "json"]);
  return Object.fromEntries(
    Object.keys(wanted).map((name) => {
      if (name === "json") return [name, JSON.parse(sent.body)];
      if (name !== "headers") return [name, known[name]];
      const pairs = Object.entries(wanted["headers"] as Record<string, string>).map(([header, text]) => {
        const given = sent.headers[header];
        return [header, text === "*" && given ? "*" : given];
      });
      return [name, Object.fromEntries(pairs)];
    }),
  );
}

function refuseUnknown(what: string, given: readonly string[], known: readonly string[]): void {
  const unknown = given.filter((name) => !known.includes(name));
  if (unknown.length > 0) throw new Error(`${what}: unknown ${unknown.join(", ")}`);
}
