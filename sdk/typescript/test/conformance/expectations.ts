/** What must come of a step, and what came of it. */

import { isDeepStrictEqual } from "node:util";

import * as quorate from "../../src/index.js";
import * as indexes from "./indexes.js";
import * as typed from "./typed.js";
import { type Json, type Sent, valueBytes } from "./servers.js";

/** What came of a step. */
export interface Result {
  value: any;
  error: quorate.QuorateError | undefined;
  tookMs: number;
  sent: Sent[];
  /** How often the stub was asked about the cluster, since the case began. */
  looks: number;
}

/** The neutral name of an error's class: `NoQuorum` is `no_quorum`. */
function classOf(error: quorate.QuorateError): string {
  const name = error.name.replace(/(?<=[a-z])(?=[A-Z])/g, "_").toLowerCase();
  return (
    ({ protocol_error: "protocol", deadline_exceeded: "deadline" } as Record<string, string>)[name] ?? name
  );
}

/** What is not as expected. */
export function mismatches(expect: Json, result: Result): string[] {
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

/** A value as JSON, for messages. */
export function shortened(value: unknown): string {
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
    case "index":
      return [indexes.shown(value.index), indexes.shown(wanted)];
    case "indexes":
      return indexes.inAnyOrder(value, wanted);
    case "entries":
      return indexes.hits(value, wanted);
    case "entries_max":
      return [value.entries.length <= wanted, true];
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

/** Fails on names that are not known. */
export function refuseUnknown(what: string, given: readonly string[], known: readonly string[]): void {
  const unknown = given.filter((name) => !known.includes(name));
  if (unknown.length > 0) throw new Error(`${what}: unknown ${unknown.join(", ")}`);
}
