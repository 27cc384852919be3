/** Answers, read with suspicion: what no Quorate node would say is a `ProtocolError`. No I/O. */

import { type IndexEntries, type IndexPage, ofHeaders, ofJson, valueOf } from "./entries.js";
import { type Facts, NotFound, type Outcome, ProtocolError } from "./errors.js";
import {
  Absent,
  type BucketProperties,
  type Count,
  type Described,
  type KeyPage,
  type PieceStream,
  type ReadFields,
  Sibling,
  Siblings,
  Value,
  type Writes,
  ValueStream,
  type Written,
} from "./model.js";
import { OCTETS, type Request } from "./wire.js";

const PROBLEM = "urn:quorate:problem:";
const META = "quorate-meta-";
const RETRY_AFTER_S_MAX = 1e6;

/** An answer. `body` is empty if it was left unread or could not be read whole. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Uint8Array;
  /** Whether the whole body was read. */
  readonly isWhole: boolean;
  /** The pieces of the body, if it was left unread. */
  readonly pieces?: PieceStream | undefined;
}

type Json = Readonly<Record<string, unknown>>;

/** Reads the answer to a GET of a key. */
export function read(
  request: Request,
  answer: Answer,
  client: Writes,
): Value | ValueStream | Siblings | Absent {
  const fields = fieldsOf(request, answer);
  if (answer.status === 404) return absent(answer, fields, client);
  if (fields.context === undefined) throw wrong(answer, "has no Quorate-Context");
  if (answer.status === 300) return new Siblings(fields, siblingsOf(answer), client);
  if (answer.status !== 200) throw wrong(answer, "has a status that a read does not have");
  const described: Described = {
    contentType: header(answer, "content-type") ?? OCTETS,
    meta: metaOf(answer),
    index: indexOf(answer),
    lastModified: header(answer, "last-modified"),
    expiresAt: endOf(answer),
  };
  const all = { ...fields, ...described };
  if (answer.pieces !== undefined) return new ValueStream(all, answer.pieces, client);
  return new Value(all, answer.body, client);
}

/** What every read of a key has. */
export function fieldsOf(request: Request, answer: Answer): ReadFields {
  const [bucket, key] = request.place ?? ["", ""];
  return {
    bucket,
    key,
    context: header(answer, "quorate-context") || undefined,
    etag: header(answer, "etag"),
    explainId: header(answer, "quorate-explain"),
    requestId: header(answer, "x-request-id"),
  };
}

function absent(answer: Answer, fields: ReadFields, client: Writes): Absent {
  const facts = factsOf(answer);
  if (facts.problem === "key_not_found") {
    return new Absent({ ...fields, context: undefined }, false, false, client);
  }
  if (facts.problem === "key_deleted" && fields.context !== undefined) {
    return new Absent(fields, true, header(answer, "quorate-expired") === "true", client);
  }
  if (facts.problem !== undefined && facts.problem !== "key_deleted") {
    throw new NotFound(`${facts.problem}: ${facts.detail}`, { facts });
  }
  throw wrong(answer, "says 404 without a problem that explains it");
}

/** Reads the answer to a write of a key. */
export function written(request: Request, answer: Answer): Written {
  const [bucket, key] = request.place ?? ["", ""];
  return {
    kind: "written",
    bucket,
    key,
    context: header(answer, "quorate-context") || undefined,
    etag: header(answer, "etag"),
    siblings: count(header(answer, "quorate-siblings")),
    acks: count(header(answer, "quorate-acks")),
    hints: count(header(answer, "quorate-hints")),
    explainId: header(answer, "quorate-explain"),
    requestId: header(answer, "x-request-id"),
  };
}

/** Reads the answer to `GET /keys/{bucket}`. */
export function keyPage(answer: Answer): KeyPage {
  const { keys, cursor, complete } = jsonObject(answer) as { [name: string]: unknown };
  if (!isTextList(keys)) throw wrong(answer, "has no list of keys");
  if (!(cursor === null || typeof cursor === "string") || typeof complete !== "boolean") {
    throw wrong(answer, "has no cursor, or does not say whether it is complete");
  }
  return { keys, cursor: cursor ?? undefined, complete };
}

/** Reads the answer to `GET /index/{bucket}/{index}`. */
export function indexPage(name: string, answer: Answer): IndexPage {
  const { entries, cursor, complete } = exactJsonObject(answer) as { [name: string]: unknown };
  if (!Array.isArray(entries)) throw wrong(answer, "has no list of entries");
  if (!(cursor === null || typeof cursor === "string") || typeof complete !== "boolean") {
    throw wrong(answer, "has no cursor, or does not say whether it is complete");
  }
  const read = (entries as unknown[]).map((each) => {
    const { value, key } = (isObject(each) ? each : {}) as { [name: string]: unknown };
    if (typeof key !== "string") throw wrong(answer, "has an entry without a key");
    return { value: orWrong(answer, "an entry without a value", () => valueOf(name, value)), key };
  });
  return { entries: read, cursor: cursor ?? undefined, complete };
}

/** Reads the answer to `GET` or `PUT /buckets/{bucket}`. */
export function properties(answer: Answer): BucketProperties {
  const body = jsonObject(answer) as { [name: string]: unknown };
  const { n, r, w, conflicts, sloppy, type = "value" } = body;
  const isCount = (it: unknown): it is Count => typeof it === "number" || typeof it === "string";
  if (typeof n !== "number" || !isCount(r) || !isCount(w)) throw wrong(answer, "has no bucket properties");
  if (typeof conflicts !== "string" || typeof sloppy !== "boolean" || typeof type !== "string") {
    throw wrong(answer, "has no bucket properties");
  }
  const seconds = (name: string): number | undefined => {
    const given = body[name] ?? undefined;
    if (given === undefined || (typeof given === "number" && Number.isInteger(given))) return given;
    throw wrong(answer, `has a bucket property ${name} that is no number`);
  };
  const [expiresInS, feedRetentionS] = [seconds("expires_in_s"), seconds("feed_retention_s")];
  return { n, r, w, conflicts, sloppy, type, expiresInS, feedRetentionS };
}

/** What a node knows of the cluster. */
export interface Cluster {
  /** The client address of each node that advertises one, by name. */
  readonly addresses: ReadonlyMap<string, string>;
  /** The epoch of the layout that it follows; 0 if it does not say. */
  readonly epoch: number;
}

/** Reads `GET /cluster`. */
export function cluster(answer: Answer): Cluster {
  const { nodes, layout } = jsonObject(answer) as { [name: string]: unknown };
  if (!Array.isArray(nodes)) throw wrong(answer, "has no list of nodes");
  const found = new Map<string, string>();
  for (const node of nodes as unknown[]) {
    if (!isObject(node)) continue;
    const { node: name, http_addr: address } = node as { [name: string]: unknown };
    if (typeof name === "string" && typeof address === "string" && address !== "") found.set(name, address);
  }
  const version = isObject(layout) ? layout["version"] : undefined;
  return { addresses: found, epoch: typeof version === "number" ? (count(String(version)) ?? 0) : 0 };
}

/** The epoch of the layout that the node follows, if it says. */
export function epochOf(answer: Answer): number | undefined {
  return count(header(answer, "quorate-epoch"));
}

/** Which nodes store the keys of each partition, in order of preference: places in `nodes`. */
export interface Homes {
  readonly nodes: readonly string[];
  readonly homes: readonly (readonly number[])[];
}

/** Reads `GET /ring/partitions`. */
export function homes(answer: Answer): Homes {
  const { nodes, homes: lists } = jsonObject(answer) as { [name: string]: unknown };
  if (!isTextList(nodes)) throw wrong(answer, "has no list of nodes");
  const isPlace = (it: unknown): boolean => Number.isInteger(it) && nodes[it as number] !== undefined;
  const isPlaces = (it: unknown): it is number[] => Array.isArray(it) && it.every(isPlace);
  if (!Array.isArray(lists) || lists.length === 0 || !Number.isInteger(Math.log2(lists.length))) {
    throw wrong(answer, "has no list of partitions, or not a power of two of them");
  }
  if (!lists.every(isPlaces)) throw wrong(answer, "has a partition whose nodes are not in the list");
  return { nodes, homes: lists };
}

/** Reads an error answer. What cannot be read is left out. */
export function factsOf(answer: Answer): Facts {
  let members: Json = {};
  if (answer.isWhole && mediaType(answer) === "application/problem+json") {
    const parsed = parseJson(answer.body);
    if (isObject(parsed)) members = parsed;
  }
  const kind = members["type"];
  const isOurs = typeof kind === "string" && kind.startsWith(PROBLEM) && kind.length > PROBLEM.length;
  const waitS = count(header(answer, "retry-after")); // only seconds: a date depends on two clocks
  return {
    problem: isOurs ? kind.slice(PROBLEM.length) : undefined,
    status: answer.status,
    title: textOf(members["title"]),
    detail: textOf(members["detail"]),
    members,
    retryAfterMs: waitS === undefined ? undefined : Math.min(waitS, RETRY_AFTER_S_MAX) * 1000,
    requestId: header(answer, "x-request-id"),
  };
}

/** What one failed attempt at a write may have left behind. */
export function outcomeOf(facts: Facts): Outcome {
  const said = facts.members?.["outcome"];
  if (said === "not_applied" || said === "partial" || said === "unknown") return said;
  const status = facts.status ?? 0;
  return status >= 400 && status < 500 ? "not_applied" : "unknown";
}

/** Reads an answer whose body is a JSON object. */
export function jsonObject(answer: Answer): Json {
  return objectOf(answer, (text) => text);
}

/** Reads an answer as `jsonObject` does, with texts in place of numbers that a double may not hold. */
export function exactJsonObject(answer: Answer): Json {
  return objectOf(answer, exactText);
}

function objectOf(answer: Answer, change: (text: string) => string): Json {
  if (mediaType(answer) !== "application/json") throw wrong(answer, "is not JSON");
  const parsed = parseJson(answer.body, change);
  if (!isObject(parsed)) throw wrong(answer, "is not a readable JSON object");
  return parsed;
}

function siblingsOf(answer: Answer): readonly Sibling[] {
  const listed = exactJsonObject(answer)["siblings"];
  if (!Array.isArray(listed) || listed.length === 0) throw wrong(answer, "has no list of siblings");
  return (listed as unknown[]).map((each) => siblingOf(answer, each));
}

function siblingOf(answer: Answer, each: unknown): Sibling {
  const fields = isObject(each) ? each : {};
  const { dot, value, meta = {}, index: entries = {}, deleted } = fields as { [name: string]: unknown };
  if (typeof dot !== "string") throw wrong(answer, "has a sibling without a dot");
  const writer = textOf(fields["writer"]);
  const writtenAt = textOf(fields["written_at"]);
  const expiresAt = expiresAtOf(answer, fields["expires_at"]);
  if (deleted === true) {
    const nothing = { value: new Uint8Array(), contentType: undefined, meta: {}, index: {} };
    return new Sibling({ dot, ...nothing, deleted: true, writer, writtenAt, expiresAt });
  }
  if (typeof value !== "string" || !isObject(meta)) throw wrong(answer, "has a sibling without a value");
  if (!Object.values(meta).every((it) => typeof it === "string")) {
    throw wrong(answer, "has a sibling with metadata that is no text");
  }
  const bytes = contentOf(value, fields["encoding"]);
  if (bytes === undefined) throw wrong(answer, "has a sibling with a value that cannot be decoded");
  const contentType = textOf(fields["content_type"]) ?? OCTETS;
  const all = { dot, value: bytes, deleted: false, contentType, meta: meta as Record<string, string> };
  const index = indexOfJson(answer, entries);
  return new Sibling({ ...all, index, writer, writtenAt, expiresAt });
}

/** When the value of an answer expires, if it does. */
export function endOf(answer: Answer): Date | undefined {
  return expiresAtOf(answer, header(answer, "quorate-expires-at"));
}

/** A time, in RFC 3339 with milliseconds, if there is one. */
function expiresAtOf(answer: Answer, text: unknown): Date | undefined {
  if (text === undefined) return undefined;
  const isTime = typeof text === "string" && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(text);
  const at = new Date(isTime ? text : Number.NaN);
  // Date takes the 30th of February for a day of March.
  if (Number.isNaN(at.getTime()) || at.toISOString() !== text) {
    throw wrong(answer, "has a time of expiry that is none");
  }
  return at;
}

/** The bytes of a value in JSON; `undefined` if they cannot be decoded. */
export function contentOf(value: string, encoding: unknown): Uint8Array | undefined {
  if (encoding === undefined) return new TextEncoder().encode(value);
  if (
    encoding !== "base64" ||
    !/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(value)
  ) {
    return undefined;
  }
  return Uint8Array.from(atob(value), (character) => character.charCodeAt(0));
}

/** The metadata of a value, by name. */
export function metaOf(answer: Answer): Readonly<Record<string, string>> {
  const pairs: [string, string][] = [];
  for (const [name, text] of answer.headers) {
    if (name.startsWith(META)) pairs.push([name.slice(META.length), fromUtf8Header(text) ?? text]);
  }
  return Object.fromEntries(pairs);
}

/** The index entries of a value. */
export function indexOf(answer: Answer): IndexEntries {
  return orWrong(answer, "index entries that are none", () => ofHeaders(answer.headers));
}

/** The index entries of a value in JSON. */
export function indexOfJson(answer: Answer, json: unknown): IndexEntries {
  return orWrong(answer, "index entries that are none", () => ofJson(json));
}

function orWrong<T>(answer: Answer, what: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw wrong(answer, `has ${what}: ${error instanceof Error ? error.message : ""}`);
  }
}

/** A header as text; `undefined` if it is not there or not UTF-8. */
export function header(answer: Answer, name: string): string | undefined {
  const text = answer.headers.get(name);
  return text === null ? undefined : fromUtf8Header(text);
}

/** fetch gives the bytes of a header as characters up to U+00FF. */
function fromUtf8Header(text: string): string | undefined {
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

function mediaType(answer: Answer): string {
  return (header(answer, "content-type") ?? "").split(";")[0]?.trim().toLowerCase() ?? "";
}

/** A whole number of so many digits that a double may not hold it; and where texts begin and end. */
const LONG_NUMBER_OR_END = /\\.|"|(?<![\w.+-])-?\d{16,}(?![\w.])/gs;

/** JSON with texts in place of long numbers. In one pass without going back: the text may be long. */
function exactText(json: string): string {
  if (!/\d{16}/.test(json)) return json;
  let isInText = false;
  return json.replace(LONG_NUMBER_OR_END, (it) => {
    if (it === '"') isInText = !isInText;
    return isInText || it === '"' || it.startsWith("\\") ? it : `"${it}"`;
  });
}

function parseJson(bytes: Uint8Array, change = (text: string) => text): unknown {
  try {
    return JSON.parse(change(new TextDecoder("utf-8", { fatal: true }).decode(bytes)));
  } catch {
    return undefined;
  }
}

/** The error for an answer that no node gives. */
export function wrong(answer: Answer, what: string): ProtocolError {
  const facts = { status: answer.status, requestId: header(answer, "x-request-id") };
  return new ProtocolError(`the answer (status ${answer.status}) ${what}; is this a Quorate node?`, {
    facts,
  });
}

/** A header's number, if it is one. */
export function count(text: string | undefined): number | undefined {
  return text !== undefined && /^[0-9]{1,9}$/.test(text) ? Number(text) : undefined;
}

/** Whether it is a JSON object. */
export function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isTextList(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((it) => typeof it === "string");
}

function textOf(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}
