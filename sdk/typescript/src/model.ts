/** What operations take and give: reads that carry their context, and the answers to writes. */

import type { Index, IndexEntries } from "./entries.js";
import type { Applied, Typed, TypedFields } from "./typed.js";

/** For R and W. */
export type Count = number | "one" | "quorum" | "all";
/** How long a value lives: seconds, of which a part counts as a whole one; or `never`. */
export type Lifetime = number | "never";
/** Pieces of a value. */
export type Pieces = Iterable<Uint8Array> | AsyncIterable<Uint8Array>;
/** A value to send: bytes; text; pieces, sent once; or a function that gives pieces for each attempt. */
export type Source = Uint8Array | string | Pieces | (() => Pieces);
/** What can be given as a context: a read, a write, or the context's text. */
export type ContextLike = string | AnyRead | Written | TypedFields<unknown> | Applied<unknown>;

/** Options of a read. What is not given follows the bucket. */
export interface GetOptions {
  /** How many replicas must answer. */
  readonly r?: Count | undefined;
  /** How many home replicas are asked; at most the bucket's n. */
  readonly n?: number | undefined;
  /** Whether fallbacks count. */
  readonly sloppy?: boolean | undefined;
  /** How long the server may take, apart from waiting. */
  readonly timeoutMs?: number | undefined;
  /** Whether the server keeps a trace of the request: see `Client.explanation`. */
  readonly explain?: boolean | undefined;
}

/** Options of a read that waits. What is not given follows the bucket. */
export interface WaitOptions extends Omit<GetOptions, "explain"> {
  /** What was seen: what it does not cover is new. Without it all that is there is new. */
  readonly context?: ContextLike | undefined;
  /** How long to wait, from 1 to 60000. Default 30000. */
  readonly waitMs?: number | undefined;
}

/** Which page of a feed. */
export interface FeedPageOptions {
  /**
   * `now` (what is written from now on), `oldest` (all that is kept), or the cursor of a page before or of
   * `CursorExpired`, with the same prefix.
   */
  readonly start: string;
  /** Only changes of keys that start with this. */
  readonly prefix?: string | undefined;
  /** The most changes, up to 1000. The server's default is 100. */
  readonly limit?: number | undefined;
  /** How long to wait for a change if there is none, from 1 to 60000. Not at all if not given. */
  readonly waitMs?: number | undefined;
}

/** Options of every write. What is not given follows the bucket. */
interface WriteOptions {
  /** How many nodes must have stored the write. */
  readonly w?: Count | undefined;
  readonly n?: number | undefined;
  readonly sloppy?: boolean | undefined;
  readonly timeoutMs?: number | undefined;
  readonly explain?: boolean | undefined;
  /** 1 to 255 visible ASCII characters; a random one if not given. The same for the same write only. */
  readonly idempotencyKey?: string | undefined;
}

/** Options of a write of a value. What is not given follows the bucket. */
export interface KeepOptions extends WriteOptions {
  /** After what time the value expires. */
  readonly expiresIn?: Lifetime | undefined;
}

/** Options of a delete. Conditions are checked by a read at the coordinator: they are advisory. */
export interface DeleteOptions extends WriteOptions {
  /** What was seen: the write replaces exactly that. */
  readonly context?: ContextLike | undefined;
  /** Only if there is a value. */
  readonly ifPresent?: boolean | undefined;
  /** Only if what is stored is what this read or write showed; or an entity tag. */
  readonly ifMatch?: string | AnyRead | Written | undefined;
}

/** Options of a put. */
export interface PutOptions extends DeleteOptions {
  /** Only if there is no value. */
  readonly ifAbsent?: boolean | undefined;
  /** After what time the value expires. If not given, as the bucket says. */
  readonly expiresIn?: Lifetime | undefined;
  /** If not given: `text/plain; charset=utf-8` for text, else `application/octet-stream`. */
  readonly contentType?: string | undefined;
  /** Metadata; names are kept in lower case. */
  readonly meta?: Readonly<Record<string, string>> | undefined;
  /** Entries under which the key is found: `{ email_s: "a@x", age_i: [42] }`; see `Client.index`. */
  readonly index?: Index | undefined;
}

/** The answer to a write that W nodes have acknowledged. */
export interface Written {
  readonly kind: "written";
  readonly bucket: string;
  readonly key: string;
  /** For the next write; only if the write left exactly one sibling. Else read the key again. */
  readonly context: string | undefined;
  /** For `ifMatch`; only if the write left exactly one sibling. */
  readonly etag: string | undefined;
  /** How many siblings the key has now: from 2 on there is a conflict. `undefined` if not told. */
  readonly siblings: number | undefined;
  /** How many nodes have acknowledged. */
  readonly acks: number | undefined;
  /** How many of those keep the write as a hint for a node that is down. */
  readonly hints: number | undefined;
  /** The id of the request's explanation, if asked for. */
  readonly explainId: string | undefined;
  readonly requestId: string | undefined;
}

/** What a resolver or a change returns to delete the key. */
export const DELETE: unique symbol = Symbol("delete");

/** A value to write, with its content type, metadata and index entries. */
export interface NewValue {
  readonly value: Uint8Array | string;
  readonly contentType?: string | undefined;
  readonly meta?: Readonly<Record<string, string>> | undefined;
  readonly index?: Index | undefined;
  /** In place of the option of the write. */
  readonly expiresIn?: Lifetime | undefined;
}

/** One of several concurrent values of a key, or a concurrent delete. */
export class Sibling {
  /** The name of the write. */
  readonly dot: string;
  /** Empty for a delete. */
  readonly value: Uint8Array;
  readonly deleted: boolean;
  readonly contentType: string | undefined;
  readonly meta: Readonly<Record<string, string>>;
  /** Its entries in indexes. */
  readonly index: IndexEntries;
  /** The node that took the write. */
  readonly writer: string | undefined;
  /** RFC 3339, by the clock of that node. */
  readonly writtenAt: string | undefined;
  /** When it expires, or expired; `undefined` if it does not. */
  readonly expiresAt: Date | undefined;

  constructor(fields: Omit<Sibling, "text">) {
    this.dot = fields.dot;
    this.value = fields.value;
    this.deleted = fields.deleted;
    this.contentType = fields.contentType;
    this.meta = fields.meta;
    this.index = fields.index;
    this.writer = fields.writer;
    this.writtenAt = fields.writtenAt;
    this.expiresAt = fields.expiresAt;
  }

  /** The value as UTF-8 text; throws a `TypeError` if it is none. */
  text(): string {
    return decodeText(this.value);
  }
}

/** What a resolver returns: a value, or one of the siblings to keep as it is, or `DELETE`. */
export type Resolution = Uint8Array | string | NewValue | Sibling | typeof DELETE;
/** What a change returns: as a resolver; `undefined` leaves the key as it is. */
export type Change = Resolution | undefined;

/** The client that a read came from, as far as a read needs it. */
export interface Writes {
  put(bucket: string, key: string, value: Source, options?: PutOptions): Promise<Written>;
  delete(bucket: string, key: string, options?: DeleteOptions): Promise<Written>;
  keep(siblings: Siblings, sibling: Sibling, options?: KeepOptions): Promise<Written>;
}

/** What every read of a key has. */
export interface ReadFields {
  readonly bucket: string;
  readonly key: string;
  /** What this read saw, for the next write. `undefined` only if the key was never written. */
  readonly context: string | undefined;
  readonly etag: string | undefined;
  /** The id of the request's explanation, if asked for. */
  readonly explainId: string | undefined;
  readonly requestId: string | undefined;
}

/** What every read of a key has, and the writes that replace what it saw. */
abstract class BaseRead implements ReadFields {
  readonly bucket: string;
  readonly key: string;
  readonly context: string | undefined;
  readonly etag: string | undefined;
  readonly explainId: string | undefined;
  readonly requestId: string | undefined;
  readonly #client: Writes;

  constructor(fields: ReadFields, client: Writes) {
    this.bucket = fields.bucket;
    this.key = fields.key;
    this.context = fields.context;
    this.etag = fields.etag;
    this.explainId = fields.explainId;
    this.requestId = fields.requestId;
    this.#client = client;
  }

  /** Writes a value that replaces what this read saw. */
  put(value: Source, options: Omit<PutOptions, "context"> = {}): Promise<Written> {
    return this.#client.put(this.bucket, this.key, value, { ...options, context: this.context });
  }

  /** Deletes what this read saw. */
  delete(options: Omit<DeleteOptions, "context"> = {}): Promise<Written> {
    return this.#client.delete(this.bucket, this.key, { ...options, context: this.context });
  }

  /** The client, for subclasses. */
  protected get client(): Writes {
    return this.#client;
  }
}

/** What is said about a value. */
export interface Described {
  readonly contentType: string;
  readonly meta: Readonly<Record<string, string>>;
  /** Its entries in indexes. */
  readonly index: IndexEntries;
  readonly lastModified: string | undefined;
  /** When it expires; `undefined` if it does not. */
  readonly expiresAt: Date | undefined;
}

/** The one value of a key. */
export class Value extends BaseRead implements Described {
  readonly kind = "value";
  readonly value: Uint8Array;
  readonly contentType: string;
  readonly meta: Readonly<Record<string, string>>;
  readonly index: IndexEntries;
  readonly lastModified: string | undefined;
  readonly expiresAt: Date | undefined;

  constructor(fields: ReadFields & Described, value: Uint8Array, client: Writes) {
    super(fields, client);
    this.value = value;
    this.contentType = fields.contentType;
    this.meta = fields.meta;
    this.index = fields.index;
    this.lastModified = fields.lastModified;
    this.expiresAt = fields.expiresAt;
  }

  /** The value as UTF-8 text; throws a `TypeError` if it is none. */
  text(): string {
    return decodeText(this.value);
  }
}

/** The pieces of a value that is being received. `return` gives up what is left. */
export interface PieceStream extends AsyncIterableIterator<Uint8Array, undefined> {
  return(): Promise<IteratorResult<Uint8Array, undefined>>;
}

/** The one value of a key, to be read in pieces, once. Read it to its end, or `cancel` it. */
export class ValueStream extends BaseRead implements Described {
  readonly kind = "stream";
  readonly contentType: string;
  readonly meta: Readonly<Record<string, string>>;
  readonly index: IndexEntries;
  readonly lastModified: string | undefined;
  readonly expiresAt: Date | undefined;
  readonly #pieces: PieceStream;

  constructor(fields: ReadFields & Described, pieces: PieceStream, client: Writes) {
    super(fields, client);
    this.#pieces = pieces;
    this.contentType = fields.contentType;
    this.meta = fields.meta;
    this.index = fields.index;
    this.lastModified = fields.lastModified;
    this.expiresAt = fields.expiresAt;
  }

  [Symbol.asyncIterator](): PieceStream {
    return this.#pieces;
  }

  /** The whole value. */
  async bytes(): Promise<Uint8Array> {
    const pieces: Uint8Array[] = [];
    for await (const piece of this.#pieces) pieces.push(piece);
    return joined(pieces);
  }

  /** Gives up what is left of the value, and the connection. */
  async cancel(): Promise<void> {
    await this.#pieces.return();
  }
}

/** A conflict: several concurrent values, of which some may be deletes. */
export class Siblings extends BaseRead {
  readonly kind = "siblings";
  readonly siblings: readonly Sibling[];

  constructor(fields: ReadFields, siblings: readonly Sibling[], client: Writes) {
    super(fields, client);
    this.siblings = siblings;
  }

  /** The siblings that are values. */
  get live(): readonly Sibling[] {
    return this.siblings.filter((sibling) => !sibling.deleted);
  }

  /** Lets `resolver` decide on the siblings, deletes included, and writes its decision. */
  async resolve(
    resolver: (siblings: readonly Sibling[]) => Resolution | Promise<Resolution>,
    options: KeepOptions = {},
  ): Promise<Written> {
    const decision = await resolver(this.siblings);
    if (decision === DELETE) return this.delete(options);
    if (decision instanceof Sibling) return this.keep(decision, options);
    const { value, expiresIn = options.expiresIn, ...described } = asNewValue(decision);
    return this.put(value, { ...options, ...described, expiresIn });
  }

  /** Keeps one sibling as it is, with its type, metadata and index entries; the others are superseded. */
  keep(sibling: Sibling, options: KeepOptions = {}): Promise<Written> {
    return sibling.deleted ? this.delete(options) : this.client.keep(this, sibling, options);
  }
}

/** No value: the key was never written, or was deleted, or its value expired. */
export class Absent extends BaseRead {
  readonly kind = "absent";
  /** Whether there was one. */
  readonly deleted: boolean;
  /** Whether it is gone because it expired. */
  readonly expired: boolean;

  constructor(fields: ReadFields, deleted: boolean, expired: boolean, client: Writes) {
    super(fields, client);
    this.deleted = deleted;
    this.expired = expired;
  }
}

/**
 * In a feed: what a key has now is longer than 64 KiB and was left out. Read the key. It has no context: what was
 * not shown cannot be replaced before it is read.
 */
export interface LargeValue {
  readonly kind: "large";
  readonly bucket: string;
  readonly key: string;
  /** How many bytes it has; of a conflict, all siblings together. */
  readonly size: number;
  /** How many siblings there are: from 2 on there is a conflict. */
  readonly siblings: number;
  readonly etag: string | undefined;
  /** `undefined` for a conflict. */
  readonly contentType: string | undefined;
  readonly meta: Readonly<Record<string, string>>;
  /** Its entries in indexes. */
  readonly index: IndexEntries;
  /** When it expires; `undefined` if it does not. */
  readonly expiresAt: Date | undefined;
}

/**
 * What a key is now: what a read of it gives, with its context (`Typed` in a bucket with a type); or its size.
 * `kind` tells them apart.
 */
export type FeedChange = Value | Siblings | Absent | LargeValue | Typed<unknown>;

/** One page of a feed: what changed keys are now. */
export interface FeedPage {
  /** One for each key, in no order that means anything. */
  readonly changes: readonly FeedChange[];
  /** Where the next page starts, at any node. Store it after the changes have been processed. */
  readonly cursor: string;
  /** Whether all writes acknowledged before the request are delivered. If not, a later page has them. */
  readonly complete: boolean;
}

/** What `get` gives. */
export type Read = Value | Siblings | Absent;
/** What `open` gives. */
export type OpenRead = ValueStream | Siblings | Absent;
/** Any read of a key. */
export type AnyRead = Value | ValueStream | Siblings | Absent;

/** One page of a listing. */
export interface KeyPage {
  readonly keys: readonly string[];
  /** Where the next page starts; `undefined` after the last. */
  readonly cursor: string | undefined;
  /** False if too few replicas of some part answered, so that keys may be missing. */
  readonly complete: boolean;
}

/** What holds for a bucket; what was not set follows the cluster's defaults. */
export interface BucketProperties {
  readonly n: number;
  readonly r: Count;
  readonly w: Count;
  /** `siblings` or `lww`; `merged` if the bucket has a type. */
  readonly conflicts: string;
  readonly sloppy: boolean;
  /** `value`, or the type of its values: `counter`, `set`, `flag`, `map`, `register_lww`, `hll`. */
  readonly type: string;
  /** After how many seconds values expire, unless a write says otherwise; `undefined`: they do not. */
  readonly expiresInS: number | undefined;
  /** For how many seconds changes can be read in the bucket's feed, 60 to 2592000; `undefined`: no feed. */
  readonly feedRetentionS: number | undefined;
}

/** A decision that is not a delete and not a sibling, in its long form. */
export function asNewValue(decision: Uint8Array | string | NewValue): NewValue {
  const isPlain = typeof decision === "string" || decision instanceof Uint8Array;
  return isPlain ? { value: decision } : decision;
}

/** Pieces put together. */
export function joined(pieces: readonly Uint8Array[]): Uint8Array {
  if (pieces.length === 1 && pieces[0] !== undefined) return pieces[0];
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

function decodeText(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
}
