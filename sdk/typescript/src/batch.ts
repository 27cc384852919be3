/** Batches: their operations, the documents that carry them, and their results. No I/O. */

import * as entries from "./entries.js";
import { InvalidArgument, QuorateError } from "./errors.js";
import {
  type ContextLike,
  type Count,
  type DeleteOptions,
  joined,
  type PutOptions,
  type Read,
  ValueStream,
  type Writes,
  type Written,
} from "./model.js";
import * as parse from "./parse.js";
import { applied } from "./parse_typed.js";
import { type Applied, increment, type Kind, type Operation } from "./typed.js";
import * as wire from "./wire.js";

/** How many operations one request carries at most. */
export const OPERATIONS_MAX = 1000;
/** About how long one request is at most; a longer operation goes alone. */
export const BYTES_MAX = 4 * 1024 * 1024;

/** Options of all operations of a batch that take them. What is not given follows the bucket. */
export interface BatchOptions {
  /** How many replicas must answer a read. */
  readonly r?: Count | undefined;
  /** How many nodes must have stored a write. */
  readonly w?: Count | undefined;
  /** How many home replicas are asked; at most the bucket's n. */
  readonly n?: number | undefined;
  /** Whether fallbacks count. */
  readonly sloppy?: boolean | undefined;
  /** How long the server may take for an operation. */
  readonly timeoutMs?: number | undefined;
}

interface Place {
  readonly bucket: string;
  readonly key: string;
}

/** Reads a key. */
export interface BatchGet extends Place {
  readonly op: "get";
}

/** Writes a value; options as for `Client.put`, but without metadata, which a batch cannot write. */
export interface BatchPut
  extends
    Place,
    Pick<
      PutOptions,
      | "context"
      | "expiresIn"
      | "contentType"
      | "index"
      | "ifAbsent"
      | "ifPresent"
      | "ifMatch"
      | "idempotencyKey"
    > {
  readonly op: "put";
  readonly value: Uint8Array | string;
}

/** Deletes a key; options as for `Client.delete`. */
export interface BatchDelete
  extends Place, Pick<DeleteOptions, "context" | "ifPresent" | "ifMatch" | "idempotencyKey"> {
  readonly op: "delete";
}

/** Changes a typed value. */
export interface BatchChange extends Place {
  readonly op: "change";
  /** As in the HTTP API: `{ increment: 5n }`, `{ add: ["new"] }`, `{ enable: true }`; see docs/types.md. */
  readonly operation: Readonly<Record<string, unknown>>;
  /** What was seen; what removes needs it. */
  readonly context?: ContextLike | undefined;
  readonly idempotencyKey?: string | undefined;
}

/** One operation of a batch. */
export type BatchOperation = BatchGet | BatchPut | BatchDelete | BatchChange;
/** What an operation gives alone: a read, `Written`, `Applied`; or the error that it would throw. */
export type BatchResult = Read | Written | Applied<unknown> | QuorateError;

/** One operation: the request that it stands for, and its part of the document. */
export interface Item {
  readonly request: wire.Request;
  readonly json: Uint8Array;
  readonly isChange: boolean;
}

const OF_READS: ReadonlySet<number> = new Set([200, 300, 404]);
const OF_WRITES: ReadonlySet<number> = new Set([204]);

/** The statuses that are no error. */
export function acceptedOf(item: Item): ReadonlySet<number> {
  return item.request.isWrite ? OF_WRITES : OF_READS;
}

/** Checks operations as if each were sent alone; throws `InvalidArgument` that names the wrong one. */
export function itemsOf(operations: Iterable<BatchOperation>): readonly Item[] {
  return Array.from(operations, (operation, at) => {
    try {
      return itemOf(operation);
    } catch (error) {
      if (!(error instanceof InvalidArgument)) throw error;
      throw new InvalidArgument(`operations[${at}]: ${error.message}`);
    }
  });
}

function itemOf(operation: BatchOperation): Item {
  const { bucket, key } = operation;
  switch (operation.op) {
    case "get":
      return withJson(operation, wire.get(bucket, key, {}, false), {});
    case "delete":
      return withJson(operation, wire.del(bucket, key, operation), {});
    case "put": {
      const { value } = operation;
      if (typeof value !== "string" && !(value instanceof Uint8Array)) {
        throw new InvalidArgument("value: must be a Uint8Array or a string; a batch is not sent in pieces");
      }
      const { bucket: _bucket, key: _key, op: _op, value: _value, ...options } = operation;
      const request = wire.put(bucket, key, value, options);
      const lifetime = new Map(request.headers).get("quorate-expires-in");
      const seconds = lifetime === "never" || lifetime === undefined ? lifetime : Number(lifetime);
      const shown = valueOf(request.body as Uint8Array);
      const index = entries.listsOf(operation.index);
      const also = index.length > 0 ? { index: entries.jsonOf(index) } : {};
      return withJson(operation, request, { ...shown, expires_in: seconds }, also);
    }
    case "change": {
      const change = changeOf(operation.operation);
      const { idempotencyKey, context } = operation;
      const request = wire.change(bucket, key, change, { idempotencyKey, context });
      return withJson(operation, request, {}, { operation: change.json });
    }
    default:
      throw new InvalidArgument('op: must be "get", "put", "delete" or "change"');
  }
}

/** The operation on a typed value, from its document. */
function changeOf(document: unknown): Operation {
  if (!parse.isObject(document))
    throw new InvalidArgument("operation: must be a document as in the HTTP API");
  const { increment: by, ...others } = document as { [name: string]: unknown };
  if (typeof by === "bigint" && Object.keys(others).length === 0) return increment(by, false);
  let json: string;
  try {
    json = JSON.stringify(document);
  } catch {
    throw new InvalidArgument("operation: must be a document as in the HTTP API");
  }
  // JSON.stringify escapes what no text can have, and only that, so.
  if (/(?<!\\)(?:\\\\)*\\ud[89a-f][0-9a-f]{2}/.test(json)) {
    throw new InvalidArgument("operation: must be text that can be UTF-8");
  }
  return { json, removes: removes(document), once: false };
}

/** Whether a part of a change removes, and so needs a context. */
function removes(document: Readonly<Record<string, unknown>>): boolean {
  const isSome = (value: unknown): boolean => Array.isArray(value) && value.length > 0;
  if (isSome(document["remove"]) || document["enable"] === false) return true;
  const update = document["update"];
  return Object.values(parse.isObject(update) ? update : {}).some((each) => {
    const { flag, set } = (parse.isObject(each) ? each : {}) as { [name: string]: unknown };
    return flag === false || (parse.isObject(set) && isSome(set["remove"]));
  });
}

function valueOf(bytes: Uint8Array): { readonly value: string; readonly encoding?: "base64" } {
  try {
    return { value: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes) };
  } catch {
    let text = "";
    for (let at = 0; at < bytes.length; at += 8192) {
      text += String.fromCharCode(...bytes.subarray(at, at + 8192));
    }
    return { value: btoa(text), encoding: "base64" };
  }
}

function withJson(
  { op, bucket, key }: BatchOperation,
  request: wire.Request,
  members: object,
  texts: Readonly<Record<string, string>> = {},
): Item {
  const headers = new Map(request.headers);
  const document = {
    op,
    bucket,
    key,
    ...members,
    content_type: op === "put" ? headers.get("content-type") : undefined,
    context: headers.get("quorate-context"),
    if_match: headers.get("if-match"),
    if_none_match: headers.get("if-none-match"),
    idempotency_key: headers.get("idempotency-key"),
  };
  const json = JSON.stringify(document);
  // What is JSON already goes in as it is: numbers in it may have more digits than a double holds.
  const also = Object.entries(texts).map(([name, text]) => `,"${name}":${text}`);
  const whole = `${json.slice(0, -1)}${also.join("")}}`;
  return { request, json: new TextEncoder().encode(whole), isChange: op === "change" };
}

/** Splits a batch into as many as have to be sent. */
export function partsOf(items: readonly Item[]): readonly (readonly Item[])[] {
  const parts: Item[][] = [];
  let part: Item[] = [];
  let size = 0;
  for (const item of items) {
    if (part.length === 0 || part.length === OPERATIONS_MAX || size + item.json.length > BYTES_MAX) {
      part = [];
      size = 0;
      parts.push(part);
    }
    part.push(item);
    size += item.json.length + 1;
  }
  return parts;
}

/** `POST /batch`. */
export function requestOf(items: readonly Item[], options: BatchOptions): wire.Request {
  const { r, w, n, sloppy, timeoutMs } = options;
  const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
  const comma = bytes(",");
  const listed = items.flatMap(({ json }, at) => (at === 0 ? [json] : [comma, json]));
  return {
    ...wire.plain("POST", `/batch${wire.queryOf({ r, w, n, sloppy, timeout_ms: timeoutMs })}`),
    headers: [["content-type", "application/json"]],
    body: joined([bytes('{"operations":['), ...listed, bytes("]}")]),
    isWrite: items.some((item) => item.request.isWrite),
  };
}

/** Reads the results as the answers that each operation alone would have got. */
export function answersOf(reply: parse.Answer, count: number): readonly parse.Answer[] {
  const { results } = parse.exactJsonObject(reply) as { [name: string]: unknown };
  if (!Array.isArray(results) || results.length !== count)
    throw parse.wrong(reply, `has not ${count} results`);
  return (results as unknown[]).map((each) => answerOf(reply, each));
}

/** The members of a result that are headers of an answer. */
const HEADERS: readonly (readonly [string, string])[] = [
  ["context", "quorate-context"],
  ["etag", "etag"],
  ["siblings_count", "quorate-siblings"],
  ["acks", "quorate-acks"],
  ["hints", "quorate-hints"],
  ["content_type", "content-type"],
  ["expires_at", "quorate-expires-at"],
];

/** Reads one result as the answer that its operation alone would have got. */
export function answerOf(reply: parse.Answer, each: unknown): parse.Answer {
  const result = parse.isObject(each) ? each : {};
  const status = result["status"];
  if (typeof status !== "number") throw parse.wrong(reply, "has a result without a status");
  const headers = new Headers();
  const set = (name: string, value: unknown): void => {
    if (typeof value !== "string" && typeof value !== "number") return;
    try {
      headers.set(name, wire.utf8Header(String(value)));
    } catch {
      throw parse.wrong(reply, `has a result with a ${name} that is no header`);
    }
  };
  set("x-request-id", parse.header(reply, "x-request-id"));
  if (result["expired"] === true) set("quorate-expired", "true");
  for (const [member, name] of HEADERS) set(name, result[member]);
  const meta = result["meta"] ?? {};
  if (!parse.isObject(meta) || !Object.values(meta).every((it) => typeof it === "string")) {
    throw parse.wrong(reply, "has a result with metadata that is no text");
  }
  for (const [name, text] of Object.entries(meta)) set(`quorate-meta-${name}`, text);
  const index = Object.entries(parse.indexOfJson(reply, result["index"] ?? {})) as entries.Lists;
  for (const [name, text] of entries.headersOf(index)) set(name, text);
  const json = (type: string, value: unknown): Uint8Array => {
    set("content-type", type);
    return new TextEncoder().encode(JSON.stringify(value));
  };
  let body: Uint8Array | undefined = new Uint8Array();
  const { problem, siblings, value, encoding } = result as { [name: string]: unknown };
  if (problem !== undefined) body = json("application/problem+json", problem);
  else if (status === 300) body = json("application/json", { siblings });
  else if (status === 200) body = typeof value === "string" ? parse.contentOf(value, encoding) : undefined;
  if (body === undefined) throw parse.wrong(reply, "has a result with a value that cannot be decoded");
  return { status, headers, body, isWhole: true };
}

/** For changes, of which a batch does not give back the value. */
const NO_VALUE: Kind<unknown> = { name: "", of: () => undefined };

/** Reads the answer to an operation. */
export function resultOf(item: Item, answer: parse.Answer | QuorateError, client: Writes): BatchResult {
  if (answer instanceof QuorateError) return answer;
  try {
    if (item.isChange) return applied(item.request, answer, NO_VALUE);
    if (item.request.isWrite) return parse.written(item.request, answer);
    const read = parse.read(item.request, answer, client);
    return read instanceof ValueStream ? parse.wrong(answer, "was not read") : read;
  } catch (error) {
    if (error instanceof QuorateError) return error;
    throw error;
  }
}
