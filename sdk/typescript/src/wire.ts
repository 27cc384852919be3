/** Requests, built and checked before anything is sent. No I/O. */

import { headersOf, type IndexQuery, listsOf, queryOf as indexQueryOf } from "./entries.js";
import { InvalidArgument } from "./errors.js";
import type {
  ContextLike,
  DeleteOptions,
  FeedPageOptions,
  GetOptions,
  KeepOptions,
  Lifetime,
  Pieces,
  PutOptions,
  Sibling,
  Siblings,
  Source,
  WaitOptions,
} from "./model.js";
import type { ChangeOptions, Operation, TypedDeleteOptions, TypedGetOptions } from "./typed.js";

/** The type of a value that was written without one. */
export const OCTETS = "application/octet-stream";
const TEXT = "text/plain; charset=utf-8";
/** 100 years. */
const LIFETIME_S_MAX = 3_162_240_000;
/** How long a node waits at most. */
const WAIT_MS_MAX = 60_000;
const WAIT_MS_DEFAULT = 30_000;

/** One request, without the node that it goes to. */
export interface Request {
  readonly method: string;
  /** Path and query, encoded. */
  readonly target: string;
  readonly headers: readonly (readonly [string, string])[];
  readonly body: Uint8Array | Pieces | (() => Pieces) | undefined;
  readonly isWrite: boolean;
  /** Bucket and key, for the choice of a node that stores the key. */
  readonly place: readonly [string, string] | undefined;
  /** Whether the value of the answer is to be left unread. */
  readonly streams: boolean;
  /** Whether it must not be sent again once it may have been carried out. */
  readonly once?: boolean;
  /** How long the node may wait for something new before it answers, beyond what it takes. */
  readonly waitMs?: number;
}

/** Whether it can be sent more than once. */
export function isRepeatable(request: Request): boolean {
  if (request.once) return false;
  const { body } = request;
  return body === undefined || body instanceof Uint8Array || typeof body === "function";
}

/** The request as an attempt sends it: one that waits does so no longer than `leftMs`. */
export function waiting(request: Request, leftMs: number): Request {
  if (request.waitMs === undefined) return request;
  const waitMs = Math.max(1, Math.min(request.waitMs, Math.ceil(leftMs)));
  const mark = request.target.includes("?") ? "&" : "?";
  return { ...request, target: `${request.target}${mark}wait_ms=${waitMs}`, waitMs };
}

/** `GET /kv/{bucket}/{key}`. */
export function get(bucket: string, key: string, options: GetOptions, streams: boolean): Request {
  const { r, n, sloppy, timeoutMs, explain } = options;
  const query = queryOf({ r, n, sloppy, timeout_ms: timeoutMs, explain: explain || undefined });
  const headers = [["accept", "application/json, */*;q=0.5"]] as const;
  const target = keyPath("kv", bucket, key) + query;
  return { method: "GET", target, headers, body: undefined, isWrite: false, place: [bucket, key], streams };
}

/** `GET /kv/{bucket}/{key}?wait_ms=`. */
export function wait(bucket: string, key: string, options: WaitOptions): Request {
  const { context, waitMs = WAIT_MS_DEFAULT, r, n, sloppy, timeoutMs } = options;
  const text = contextText(context);
  const request = get(bucket, key, { r, n, sloppy, timeoutMs }, false);
  const seen: readonly [string, string][] = text === undefined ? [] : [["quorate-context", text]];
  return { ...request, headers: [...request.headers, ...seen], waitMs: checkedWait(waitMs) };
}

/** `GET /feed/{bucket}`. */
export function feed(bucket: string, options: FeedPageOptions): Request {
  const { start, prefix = "", limit, waitMs } = options;
  if (typeof start !== "string" || start === "") {
    throw new InvalidArgument('start: must be "now", "oldest" or a cursor');
  }
  const query = queryOf({ prefix: prefix === "" ? undefined : prefix, cursor: start, limit });
  const request = plain("GET", `/feed/${segment("bucket", bucket)}${query}`);
  return waitMs === undefined ? request : { ...request, waitMs: checkedWait(waitMs) };
}

function checkedWait(waitMs: number): number {
  if (Number.isInteger(waitMs) && waitMs > 0 && waitMs <= WAIT_MS_MAX) return waitMs;
  throw new InvalidArgument(`waitMs: must be a whole number of milliseconds from 1 to ${WAIT_MS_MAX}`);
}

/** `PUT /kv/{bucket}/{key}`. */
export function put(bucket: string, key: string, value: Source, options: PutOptions): Request {
  const type = options.contentType ?? (typeof value === "string" ? TEXT : OCTETS);
  const headers: [string, string][] = [["content-type", headerText("contentType", type)]];
  for (const [name, text] of Object.entries(options.meta ?? {})) {
    if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name)) {
      throw new InvalidArgument(`meta: ${JSON.stringify(name)} cannot be part of a header's name`);
    }
    headers.push([`quorate-meta-${name}`, utf8Header(headerText(`meta: ${name}`, text, true))]);
  }
  headers.push(...headersOf(listsOf(options.index)));
  if (options.ifAbsent) headers.push(["if-none-match", "*"]);
  headers.push(...lifetimeOf(options));
  return write("PUT", keyPath("kv", bucket, key), [bucket, key], options, headers, bodyOf(value));
}

/** `DELETE /kv/{bucket}/{key}`. */
export function del(bucket: string, key: string, options: DeleteOptions): Request {
  return write("DELETE", keyPath("kv", bucket, key), [bucket, key], options, [], undefined);
}

/** `POST /siblings/{bucket}/{key}` with the dot to keep. */
export function keep(siblings: Siblings, sibling: Sibling, options: KeepOptions): Request {
  const { bucket, key, context } = siblings;
  const body = new TextEncoder().encode(JSON.stringify({ keep: sibling.dot }));
  const path = keyPath("siblings", bucket, key);
  const headers: [string, string][] = [["content-type", "application/json"], ...lifetimeOf(options)];
  return write("POST", path, [bucket, key], { ...options, context }, headers, body);
}

/** `GET /types/{bucket}/{key}`. */
export function typedGet(bucket: string, key: string, options: TypedGetOptions): Request {
  const { r, n, sloppy, timeoutMs } = options;
  const target = keyPath("types", bucket, key) + queryOf({ r, n, sloppy, timeout_ms: timeoutMs });
  return { ...plain("GET", target), place: [bucket, key] };
}

/** `POST /types/{bucket}/{key}`. */
export function change(
  bucket: string,
  key: string,
  operation: Operation,
  options: ChangeOptions & { readonly context?: ContextLike | undefined },
): Request {
  if (operation.removes && options.context === undefined) {
    throw new InvalidArgument("context: what removes needs one; read, and change what was read");
  }
  const { json, once } = operation;
  const { w, n, sloppy, timeoutMs, idempotencyKey, context, returnBody } = options;
  const request = write(
    "POST",
    keyPath("types", bucket, key),
    [bucket, key],
    { w, n, sloppy, timeoutMs, idempotencyKey, context },
    [["content-type", "application/json"]],
    new TextEncoder().encode(json),
    returnBody ? { return_body: true } : {},
  );
  return { ...request, once };
}

/** `DELETE /types/{bucket}/{key}`. */
export function typedDelete(
  bucket: string,
  key: string,
  options: TypedDeleteOptions & { readonly context?: ContextLike | undefined },
): Request {
  const { w, n, sloppy, timeoutMs, idempotencyKey, context } = options;
  const known = { w, n, sloppy, timeoutMs, idempotencyKey, context };
  return write("DELETE", keyPath("types", bucket, key), [bucket, key], known, [], undefined);
}

/** `GET /keys/{bucket}`. */
export function keys(
  bucket: string,
  prefix: string,
  limit: number | undefined,
  cursor: string | undefined,
): Request {
  const query = queryOf({ prefix: prefix === "" ? undefined : prefix, limit, cursor });
  return plain("GET", `/keys/${segment("bucket", bucket)}${query}`);
}

/** `GET /index/{bucket}/{index}`. */
export function index(
  bucket: string,
  name: string,
  query: IndexQuery,
  limit: number | undefined,
  cursor: string | undefined,
): Request {
  const asked = queryOf({ ...indexQueryOf(name, query), limit, cursor });
  return plain("GET", `/index/${segment("bucket", bucket)}/${name}${asked}`);
}

/** `GET`, `PUT` or `DELETE /buckets/{bucket}`. */
export function bucketRequest(
  method: "GET" | "PUT" | "DELETE",
  bucket: string,
  properties?: object,
): Request {
  const request = plain(method, `/buckets/${segment("bucket", bucket)}`);
  if (properties === undefined) return { ...request, isWrite: method !== "GET" };
  const given: Record<string, unknown> = { ...properties };
  if (given["conflicts"] === "merged") delete given["conflicts"]; // only answers say so, of typed buckets
  for (const [own, name] of [
    ["expiresInS", "expires_in_s"],
    ["feedRetentionS", "feed_retention_s"],
  ] as const) {
    if (!(own in given)) continue;
    given[name] = given[own];
    delete given[own];
  }
  const body = new TextEncoder().encode(JSON.stringify(given));
  return { ...request, headers: [["content-type", "application/json"]], body, isWrite: true };
}

/** Any other GET. */
export function plain(method: string, target: string): Request {
  return { method, target, headers: [], body: undefined, isWrite: false, place: undefined, streams: false };
}

/** `GET /explain/{id}`. */
export function explanation(id: string): Request {
  return plain("GET", `/explain/${segment("id", id)}`);
}

function write(
  method: string,
  path: string,
  place: readonly [string, string],
  options: DeleteOptions,
  headers: [string, string][],
  body: Request["body"],
  also: { readonly return_body?: boolean } = {},
): Request {
  const { w, n, sloppy, timeoutMs, explain } = options;
  const query = queryOf({ w, n, sloppy, timeout_ms: timeoutMs, explain: explain || undefined, ...also });
  const context = contextText(options.context);
  if (context !== undefined) headers.push(["quorate-context", context]);
  if (options.ifPresent) headers.push(["if-match", "*"]);
  if (options.ifMatch !== undefined) headers.push(["if-match", etagOf(options.ifMatch)]);
  if (headers.filter(([name]) => name.startsWith("if-")).length > 1) {
    throw new InvalidArgument("only one of ifAbsent, ifPresent and ifMatch can be given");
  }
  headers.push(["idempotency-key", idempotencyKey(options.idempotencyKey)]);
  return { method, target: path + query, headers, body, isWrite: true, place, streams: false };
}

function idempotencyKey(given: string | undefined): string {
  if (given === undefined) return crypto.randomUUID();
  if (!/^[!-~]{1,255}$/.test(given)) {
    throw new InvalidArgument("idempotencyKey: must be 1 to 255 visible ASCII characters");
  }
  return given;
}

/** A lifetime as a header, in whole seconds. A value lives no shorter than was asked for. */
function lifetimeOf({ expiresIn }: { readonly expiresIn?: Lifetime | undefined }): [string, string][] {
  if (expiresIn === undefined) return [];
  if (expiresIn === "never") return [["quorate-expires-in", "never"]];
  if (typeof expiresIn !== "number" || !(expiresIn > 0 && expiresIn <= LIFETIME_S_MAX)) {
    throw new InvalidArgument(
      `expiresIn: must be "never", or seconds, more than 0 and up to ${LIFETIME_S_MAX}`,
    );
  }
  return [["quorate-expires-in", String(Math.ceil(expiresIn))]];
}

function etagOf(match: NonNullable<DeleteOptions["ifMatch"]>): string {
  const etag = typeof match === "string" ? match : match.etag;
  if (etag === undefined) {
    throw new InvalidArgument("ifMatch: this answer has no entity tag; read the key again");
  }
  return headerText("ifMatch", etag);
}

function contextText(context: ContextLike | undefined): string | undefined {
  if (context === undefined) return undefined;
  const text = typeof context === "string" ? context : context.context;
  if (text !== undefined) return headerText("context", text);
  if (typeof context === "object" && "kind" in context && context.kind === "absent") {
    return undefined; // nothing to replace
  }
  throw new InvalidArgument(
    "context: this answer has none (a write that left other siblings, a change without returnBody); read the " +
      "key again",
  );
}

function bodyOf(value: Source): Request["body"] {
  if (typeof value === "string") {
    return new TextEncoder().encode(wellFormed("value", value));
  }
  const isPieces =
    typeof value === "object" &&
    value !== null &&
    (Symbol.iterator in value || Symbol.asyncIterator in value);
  if (value instanceof Uint8Array || typeof value === "function" || isPieces) return value;
  throw new InvalidArgument("value: must be a Uint8Array, a string, or pieces of bytes");
}

/** Text fit for a header: it arrives as it is, and cannot begin another header. */
function headerText(what: string, text: string, unicode = false): string {
  if (typeof text !== "string") throw new InvalidArgument(`${what}: must be text`);
  if (/[\u0000-\u001f\u007f]/.test(text)) {
    throw new InvalidArgument(`${what}: must be without control characters`);
  }
  if (!unicode && /[^\u0000-\u007f]/.test(text)) throw new InvalidArgument(`${what}: must be ASCII`);
  if (/^ | $/.test(text)) {
    throw new InvalidArgument(`${what}: must not begin or end with a space, which headers lose`);
  }
  return text;
}

/** Headers are bytes, which fetch takes as characters up to U+00FF: UTF-8 goes through as those. */
export function utf8Header(text: string): string {
  return String.fromCharCode(...new TextEncoder().encode(wellFormed("meta", text)));
}

function wellFormed(what: string, text: string): string {
  if (/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(text)) {
    throw new InvalidArgument(`${what}: must be text that can be UTF-8`);
  }
  return text;
}

function keyPath(route: string, bucket: string, key: string): string {
  return `/${route}/${segment("bucket", bucket)}/${segment("key", key)}`;
}

/** One path segment. fetch resolves `.` and `..` even if they are escaped, so that they cannot be sent. */
function segment(what: string, text: string): string {
  if (typeof text !== "string" || text === "") throw new InvalidArgument(`${what}: must not be empty`);
  if (text === "." || text === "..") {
    throw new InvalidArgument(`${what}: ${text} cannot be a whole segment of a URL in fetch`);
  }
  return encodeURIComponent(wellFormed(what, text));
}

/** A query string of what is given. */
export function queryOf(parameters: Record<string, string | number | boolean | undefined>): string {
  const pairs = Object.entries(parameters)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${encodeURIComponent(wellFormed(name, String(value)))}`);
  return pairs.length > 0 ? `?${pairs.join("&")}` : "";
}
