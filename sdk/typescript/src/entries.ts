/** Entries of values in indexes, and what is asked of an index: their types, how they are sent and read. */

import { InvalidArgument } from "./errors.js";
import { text } from "./typed.js";

type OneOrMore<V> = V | readonly V[];

/**
 * Entries to write, by the name of the index: of texts if it ends in `_s`, of 64-bit integers if in `_i`.
 * What is beyond 2^53 - 1 has to be a `bigint`.
 */
export interface Index {
  readonly [name: `${string}_s`]: OneOrMore<string>;
  readonly [name: `${string}_i`]: OneOrMore<number | bigint>;
}

/** The entries of a value that was read, by the name of the index. Integers are `bigint`s, as totals are. */
export interface IndexEntries {
  readonly [name: `${string}_s`]: readonly string[];
  readonly [name: `${string}_i`]: readonly bigint[];
}

/** What an index with this name has: texts or integers. */
export type IndexValue<Name extends string> = Name extends `${string}_i`
  ? bigint
  : Name extends `${string}_s`
    ? string
    : string | bigint;

/** A value that an index with this name is asked for. */
type Asked<Name extends string> = IndexValue<Name> | (bigint extends IndexValue<Name> ? number : never);

/** Which entries of an index. All of them if nothing is given. */
export interface IndexQuery<Name extends string = string> {
  /** Those with this value; not together with `from` and `to`. */
  readonly eq?: Asked<Name> | undefined;
  /** Those from this value on. */
  readonly from?: Asked<Name> | undefined;
  /** Those up to this value, and with it. */
  readonly to?: Asked<Name> | undefined;
}

/** One hit of a query: a value in the index, and the key that has it. */
export interface IndexEntry<V = string | bigint> {
  readonly value: V;
  readonly key: string;
}

/** One page of the entries of an index, ordered by value, then by key. */
export interface IndexPage<V = string | bigint> {
  /** At most as many as asked for. There may be none although more follow: `cursor` says so. */
  readonly entries: readonly IndexEntry<V>[];
  /** Where the next page starts, at any node; `undefined` after the last. */
  readonly cursor: string | undefined;
  /** False if too few replicas of some part answered, so that entries may be missing. */
  readonly complete: boolean;
}

/** Entries as a list for each index. */
export type Lists = readonly (readonly [string, readonly (string | bigint)[]])[];

const HEADER = "quorate-index-";

/** The entries to send, of which indexes without any are left out. */
export function listsOf(index: Index | undefined): Lists {
  if (index === undefined) return [];
  if (typeof index !== "object" || index === null || Array.isArray(index)) {
    throw new InvalidArgument("index: must be an object with the names of indexes");
  }
  return Object.entries(index as Readonly<Record<string, unknown>>)
    .filter(([, given]) => given !== undefined)
    .map(([name, given]) => {
      const what = `index: ${checkedName("index", name)}`;
      const values: readonly unknown[] = Array.isArray(given) ? given : [given];
      return [name, values.map((each) => checkedValue(what, name, each))] as const;
    })
    .filter(([, values]) => values.length > 0);
}

/** Entries as headers, one for each index. */
export function headersOf(lists: Lists): [string, string][] {
  return lists.map(([name, values]) => [HEADER + name, values.map(escaped).join(", ")]);
}

/** Entries as JSON. Numbers in it may have more digits than a double holds. */
export function jsonOf(lists: Lists): string {
  const members = lists.map(([name, values]) => {
    const shown = values.map((each) => (typeof each === "bigint" ? String(each) : JSON.stringify(each)));
    return `${JSON.stringify(name)}:[${shown.join(",")}]`;
  });
  return `{${members.join(",")}}`;
}

/** What is asked of an index, as parameters. */
export function queryOf(name: string, query: IndexQuery): Record<"eq" | "from" | "to", string | undefined> {
  checkedName("index", name);
  const { eq, from, to } = query;
  if (eq !== undefined && (from !== undefined || to !== undefined)) {
    throw new InvalidArgument("eq: cannot be given together with from or to");
  }
  const end = (what: string, value: unknown): string | undefined =>
    value === undefined ? undefined : String(checkedValue(what, name, value));
  return { eq: end("eq", eq), from: end("from", from), to: end("to", to) };
}

function checkedName(what: string, name: string): string {
  if (typeof name === "string" && /^[a-z0-9_-]{1,62}_[is]$/.test(name)) return name;
  throw new InvalidArgument(
    `${what}: ${JSON.stringify(name)} is none: 3 to 64 characters of a-z, 0-9, - and _ that end in _s or _i`,
  );
}

function checkedValue(what: string, name: string, value: unknown): string | bigint {
  if (name.endsWith("_i")) {
    const isWhole = typeof value === "bigint" || (typeof value === "number" && Number.isSafeInteger(value));
    if (isWhole && BigInt.asIntN(64, BigInt(value)) === BigInt(value)) return BigInt(value);
    throw new InvalidArgument(`${what}: must be a bigint of 64 bits, or a whole number up to 2^53 - 1`);
  }
  if (value === "") throw new InvalidArgument(`${what}: must not be empty`);
  return text(what, value as string);
}

/** A value as it is in a header: all but visible ASCII is escaped, and so are percent signs and commas. */
function escaped(value: string | bigint): string {
  return String(value).replace(/[^!-~]+|[%,]/g, (part) =>
    Array.from(
      new TextEncoder().encode(part),
      (byte) => `%${byte.toString(16).toUpperCase().padStart(2, "0")}`,
    ).join(""),
  );
}

/** A value from a header. What is no escape is left as it is. Throws if it is not UTF-8. */
function unescaped(part: string): string {
  const characters = part.replace(/%([0-9A-Fa-f]{2})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 16)),
  );
  const bytes = Uint8Array.from(characters, (character) => character.charCodeAt(0));
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
}

/** Reads entries from the headers of an answer; throws if they are none. */
export function ofHeaders(headers: Headers): IndexEntries {
  const lists: [string, readonly (string | bigint)[]][] = [];
  for (const [header, all] of headers) {
    if (!header.startsWith(HEADER)) continue;
    const name = header.slice(HEADER.length);
    const values = all.split(",").map((each) => unescaped(each.replace(/^[ \t]+|[ \t]+$/g, "")));
    lists.push([name, values.map((each) => valueOf(name, each))]);
  }
  return Object.fromEntries(lists) as IndexEntries;
}

/** Reads the entries of a value from JSON; throws if they are none. */
export function ofJson(json: unknown): IndexEntries {
  if (typeof json !== "object" || json === null || Array.isArray(json)) throw new TypeError("no object");
  const lists = Object.entries(json).map(([name, values]: [string, unknown]) => {
    if (!Array.isArray(values)) throw new TypeError(`${name}: no list of values`);
    return [name, (values as unknown[]).map((each) => valueOf(name, each))] as const;
  });
  return Object.fromEntries(lists) as IndexEntries;
}

/** A value in an index; throws if it is none. A number that a double may not hold is given as text. */
export function valueOf(name: string, value: unknown): string | bigint {
  const isNumber = name.endsWith("_i") && typeof value === "string" && /^-?[0-9]{1,60}$/.test(value);
  return checkedValue(checkedName("index", name), name, isNumber ? BigInt(value) : value);
}
