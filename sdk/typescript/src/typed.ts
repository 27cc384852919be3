/** Values that merge by themselves: counters, sets, flags, maps, registers, estimates. */

import { InvalidArgument } from "./errors.js";
import type { ContextLike, Count, Written } from "./model.js";

/** Options of a read of a typed value. What is not given follows the bucket. */
export interface TypedGetOptions {
  /** How many replicas must answer. */
  readonly r?: Count | undefined;
  /** How many home replicas are asked; at most the bucket's n. */
  readonly n?: number | undefined;
  /** Whether fallbacks count. */
  readonly sloppy?: boolean | undefined;
  /** How long the server may take. */
  readonly timeoutMs?: number | undefined;
}

/** Options of a delete of a typed value. What is not given follows the bucket. */
export interface TypedDeleteOptions {
  /** How many nodes must have stored it. */
  readonly w?: Count | undefined;
  readonly n?: number | undefined;
  readonly sloppy?: boolean | undefined;
  readonly timeoutMs?: number | undefined;
  /** 1 to 255 visible ASCII characters; a random one if not given. The same for the same change only. */
  readonly idempotencyKey?: string | undefined;
}

/** Options of a change of a typed value. */
export interface ChangeOptions extends TypedDeleteOptions {
  /** Whether the answer has the value that is there now, and its context. */
  readonly returnBody?: boolean | undefined;
}

/** What is added to a set, and what is removed from what was read of it. */
export interface SetChange {
  readonly add?: readonly string[] | undefined;
  readonly remove?: readonly string[] | undefined;
}

/** What is changed of a map. `disable`, `removeFrom` and `remove` take away what was read. */
export interface MapChange {
  /** The text of fields. */
  readonly assign?: Readonly<Record<string, string>> | undefined;
  /** Fields to switch on. */
  readonly enable?: readonly string[] | undefined;
  /** Fields to switch off. */
  readonly disable?: readonly string[] | undefined;
  /** Elements to add to the sets of fields. */
  readonly add?: Readonly<Record<string, readonly string[]>> | undefined;
  /** Elements to remove from the sets of fields. */
  readonly removeFrom?: Readonly<Record<string, readonly string[]>> | undefined;
  /** Fields to remove, with all that was read of them. */
  readonly remove?: readonly string[] | undefined;
}

/** What a map has under one name. A text, a flag and a set can share one: they are fields of their own. */
export interface Field {
  /** The text, if one was assigned. */
  readonly register: string | undefined;
  readonly flag: boolean;
  readonly set: ReadonlySet<string>;
}

/** The fields of a map, by name. */
export type Fields = ReadonlyMap<string, Field>;

/** What every typed read has. */
export interface TypedFields<V> {
  readonly bucket: string;
  readonly key: string;
  /** The empty value (0, off, nothing) if nothing is stored. */
  readonly value: V;
  /** Whether anything is stored. Not if the key was never written or was deleted, nor if all was removed. */
  readonly exists: boolean;
  /** What this read saw: a change with it removes exactly that. */
  readonly context: string;
  readonly etag: string | undefined;
  readonly requestId: string | undefined;
}

/** A typed value, as it was read. */
export interface Typed<V> extends TypedFields<V> {
  readonly kind: "typed";
}

/** The answer to a change that W nodes have acknowledged. */
export interface Applied<V> {
  readonly kind: "applied";
  readonly bucket: string;
  readonly key: string;
  /** How many nodes have acknowledged. `undefined` if not told. */
  readonly acks: number | undefined;
  /** How many of those keep the change as a hint for a node that is down. */
  readonly hints: number | undefined;
  /** What is there now; with `returnBody` only. */
  readonly read: Typed<V> | undefined;
  /** For a change that removes; with `returnBody` only. */
  readonly context: string | undefined;
  readonly requestId: string | undefined;
}

/** A type, by its name in the HTTP API. */
export interface Kind<V> {
  readonly name: string;
  /** Reads a value from JSON; `undefined` if it is none. `source` is the text of the whole answer. */
  readonly of: (json: unknown, source: string) => { readonly value: V } | undefined;
}

/** The client that a handle came from, as far as it needs it. */
export interface Changes {
  read<V>(bucket: string, key: string, kind: Kind<V>, options: TypedGetOptions): Promise<Typed<V>>;
  change<V>(
    bucket: string,
    key: string,
    kind: Kind<V>,
    operation: Operation,
    options: ChangeOptions & { readonly context?: ContextLike | undefined },
  ): Promise<Applied<V>>;
  deleteTyped(
    bucket: string,
    key: string,
    options: TypedDeleteOptions & { readonly context?: ContextLike | undefined },
  ): Promise<Written>;
}

/** A change as it is sent. */
export interface Operation {
  /** The document. */
  readonly json: string;
  /** Whether a part of it removes, and so needs a context. */
  readonly removes: boolean;
  /** Whether it must not be sent again once it may have been carried out. */
  readonly once: boolean;
}

/** The change of a counter. */
export function increment(by: number | bigint, once: boolean): Operation {
  const isWhole = typeof by === "bigint" || Number.isSafeInteger(by);
  if (!isWhole || BigInt.asIntN(64, BigInt(by)) !== BigInt(by)) {
    throw new InvalidArgument("by: must be a bigint of 64 bits, or a whole number up to 2^53 - 1");
  }
  return { json: `{"increment":${BigInt(by)}}`, removes: false, once };
}

/** The change of a flag. */
export function enable(on: boolean): Operation {
  return { json: JSON.stringify({ enable: on }), removes: !on, once: false };
}

/** The change of a register. */
export function assign(value: string): Operation {
  return { json: JSON.stringify({ assign: text("value", value) }), removes: false, once: false };
}

/** The change of a set, or of an estimate. */
export function setChange(change: SetChange): Operation {
  const json = ofSet(change);
  return { json: JSON.stringify(json), removes: json.remove !== undefined, once: false };
}

/** The change of a map. */
export function mapChange(change: MapChange): Operation {
  const update = new Map<string, Record<string, unknown>>();
  const put = (what: string, name: string, of: string, value: unknown): void => {
    update.set(name, { ...update.get(text(what, name)), [of]: value });
  };
  for (const [name, value] of Object.entries(change.assign ?? {})) {
    put("assign", name, "register_lww", text("assign", value));
  }
  const on = texts("enable", change.enable ?? []);
  const off = texts("disable", change.disable ?? []);
  if (on.some((name) => off.includes(name))) {
    throw new InvalidArgument("enable and disable: a field cannot be in both");
  }
  for (const name of on) put("enable", name, "flag", true);
  for (const name of off) put("disable", name, "flag", false);
  const { add = {}, removeFrom = {} } = change;
  for (const name of new Set([...Object.keys(add), ...Object.keys(removeFrom)])) {
    const elements = { add: own(add, name), remove: own(removeFrom, name) };
    put("add", name, "set", ofSet(elements));
  }
  const remove = texts("remove", change.remove ?? []);
  const hasSetRemove = Object.values(removeFrom).some((elements) => elements.length > 0);
  const json = {
    ...(update.size > 0 ? { update: Object.fromEntries(update) } : {}),
    ...(remove.length > 0 ? { remove } : {}),
  };
  const removes = remove.length > 0 || off.length > 0 || hasSetRemove;
  return { json: JSON.stringify(json), removes, once: false };
}

function own<T>(record: Readonly<Record<string, T>>, name: string): T | undefined {
  return Object.hasOwn(record, name) ? record[name] : undefined;
}

function ofSet(change: SetChange): { add?: readonly string[]; remove?: readonly string[] } {
  const add = texts("add", change.add ?? []);
  const remove = texts("remove", change.remove ?? []);
  return { ...(add.length > 0 ? { add } : {}), ...(remove.length > 0 ? { remove } : {}) };
}

/** Texts as a list. One text is not taken for a list of its characters. */
function texts(what: string, given: readonly string[]): readonly string[] {
  if (!Array.isArray(given)) throw new InvalidArgument(`${what}: must be an array of texts`);
  return given.map((each: string) => text(what, each));
}

/** The text, if it can be sent. */
export function text(what: string, given: string): string {
  if (typeof given !== "string") throw new InvalidArgument(`${what}: must be text`);
  if (/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(given)) {
    throw new InvalidArgument(`${what}: must be text that can be UTF-8`);
  }
  return given;
}
