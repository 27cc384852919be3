/** The client. */

import {
  type BatchOperation,
  type BatchOptions,
  type BatchResult,
  itemsOf,
  partsOf,
  resultOf,
} from "./batch.js";
import type { IndexEntry, IndexPage, IndexQuery, IndexValue } from "./entries.js";
import {
  ConditionFailed,
  CursorExpired,
  IncompleteListing,
  InvalidArgument,
  ProtocolError,
} from "./errors.js";
import * as feed from "./feed.js";
import { Counter, Estimate, FieldMap, Flag, Register, TextSet } from "./handles.js";
import {
  asNewValue,
  type BucketProperties,
  type Change,
  type DeleteOptions,
  DELETE,
  type FeedPage,
  type FeedPageOptions,
  type GetOptions,
  type KeepOptions,
  type KeyPage,
  type OpenRead,
  type PutOptions,
  type Read,
  Sibling,
  type Siblings,
  type Source,
  Value,
  type WaitOptions,
  type Writes,
  ValueStream,
  type Written,
} from "./model.js";
import { Nodes, type NodeView, parseUrls } from "./nodes.js";
import { call, callBatch, lookUp, type Policy } from "./operation.js";
import * as parse from "./parse.js";
import { applied, typed } from "./parse_typed.js";
import { send } from "./transport.js";
import type { Changes } from "./typed.js";
import * as wire from "./wire.js";

const VERSION = "0.1.0";
const UPDATE_ROUNDS_MAX = 10;
const READ = new Set([200, 300, 404]);
const WRITTEN = new Set([204]);
const WAITED = new Set([...READ, 304]);
const OK = new Set([200]);

/** How a client behaves. */
export interface ClientOptions {
  /** Sent as `Authorization: Bearer …`. */
  readonly token?: string | undefined;
  /** How long one operation may take in all, retries included. Default 15000. */
  readonly deadlineMs?: number | undefined;
  /** How often one operation is tried at most. Default 5. */
  readonly attemptsMax?: number | undefined;
  /** How long a node may be silent. Default 7000: longer than the server's own time-out. */
  readonly attemptTimeoutMs?: number | undefined;
  /** Whether the other nodes are found through `GET /cluster`. Default true. */
  readonly discover?: boolean | undefined;
  /** The longest answer that is read into memory, in bytes. Default 256 MiB. */
  readonly valueBytesMax?: number | undefined;
  /** In place of the global `fetch`. */
  readonly fetch?: typeof fetch | undefined;
}

/** A client of one cluster. `urls`: one or more nodes, with commas or as a list. */
export class Client implements Writes {
  readonly #nodes: Nodes;
  readonly #policy: Policy;
  readonly #discovers: boolean;
  readonly #changes: Changes;

  constructor(urls: string | Iterable<string>, options: ClientOptions = {}) {
    const { deadlineMs = 15_000, attemptsMax = 5, attemptTimeoutMs = 7_000 } = options;
    const { valueBytesMax = 256 * 1024 * 1024, token } = options;
    for (const [name, value] of Object.entries({
      deadlineMs,
      attemptsMax,
      attemptTimeoutMs,
      valueBytesMax,
    })) {
      if (!(value >= 1 && value < 2 ** 31)) throw new InvalidArgument(`${name}: must be from 1 to 2^31`);
    }
    const headers: [string, string][] = [
      ["user-agent", `quorate-typescript/${VERSION}`],
      ["accept-encoding", "identity"],
    ];
    if (token !== undefined) {
      if (!/^[!-~]+$/.test(token)) throw new InvalidArgument("token: must be visible ASCII characters");
      headers.push(["authorization", `Bearer ${token}`]);
    }
    const transport = { fetch: options.fetch ?? fetch, headers, valueBytesMax };
    this.#nodes = new Nodes(parseUrls(urls));
    this.#discovers = options.discover ?? true;
    this.#policy = {
      deadlineMs,
      attemptsMax,
      attemptTimeoutMs,
      send: (url, request, timing) => send(transport, url, request, timing),
      now: () => performance.now(),
      sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
    };
    this.#changes = {
      read: async (bucket, key, kind, options) => {
        const request = wire.typedGet(bucket, key, options);
        return typed(request, await this.#call(request, OK), kind);
      },
      change: async (bucket, key, kind, operation, options) => {
        const request = wire.change(bucket, key, operation, options);
        return applied(request, await this.#call(request, options.returnBody ? OK : WRITTEN), kind);
      },
      deleteTyped: async (bucket, key, options) => this.#write(wire.typedDelete(bucket, key, options)),
    };
  }

  /** Reads a key: its value, several siblings, or nothing. Write through the result to replace it. */
  async get(bucket: string, key: string, options: GetOptions = {}): Promise<Read> {
    const request = wire.get(bucket, key, options, false);
    return this.#read(request, await this.#call(request, READ));
  }

  /**
   * Waits for something of a key that `options.context`, a read of it, has not seen, and reads the key.
   *
   * A write, a delete and the end of a value are something new; the answer comes as soon as there is any, at
   * once if there is already, and is `undefined` if there is none for `waitMs`. Without a context all that is
   * there is new, and `Absent` says that there is nothing. `waitMs` is added to `deadlineMs` and to
   * `attemptTimeoutMs`. Not for values with a type.
   */
  async wait(bucket: string, key: string, options: WaitOptions = {}): Promise<Read | undefined> {
    const request = wire.wait(bucket, key, options);
    const answer = await this.#call(request, WAITED);
    return answer.status === 304 ? undefined : this.#read(request, answer);
  }

  /** Reads a key whose value may be large: as `get`, but a single value comes in pieces. */
  async open(bucket: string, key: string, options: GetOptions = {}): Promise<OpenRead> {
    const request = wire.get(bucket, key, options, true);
    const answer = await this.#call(request, READ);
    try {
      const read = parse.read(request, answer, this);
      if (read instanceof Value) throw new ProtocolError("the value was not left unread");
      return read;
    } catch (error) {
      await answer.pieces?.return();
      throw error;
    }
  }

  /**
   * Writes a value. It replaces what `options.context` saw; without a context it replaces nothing.
   *
   * Pieces are sent once and, as they can be read only once, never repeated; a function that gives pieces
   * is called for each attempt.
   */
  async put(bucket: string, key: string, value: Source, options: PutOptions = {}): Promise<Written> {
    return this.#write(wire.put(bucket, key, value, options));
  }

  /** Deletes what `options.context` saw; without a context, what a read shows now. */
  async delete(bucket: string, key: string, options: DeleteOptions = {}): Promise<Written> {
    return this.#write(wire.del(bucket, key, options));
  }

  /** Resolves a conflict by keeping one of its siblings as it is. */
  async keep(siblings: Siblings, sibling: Sibling, options: KeepOptions = {}): Promise<Written> {
    return this.#write(wire.keep(siblings, sibling, options));
  }

  /**
   * Reads, lets `change` say what to write, and writes it; again if another write came in between.
   *
   * `change` gives a value, a `NewValue`, one of the siblings, `DELETE`, or `undefined` to leave the key as
   * it is. It may be called several times. A value keeps the content type, metadata and index entries of what
   * it replaces, but not its lifetime: that is `expiresIn`, or the bucket's.
   * Two updates through different nodes can still meet: then the key has siblings, none is lost.
   */
  async update(
    bucket: string,
    key: string,
    change: (read: Read) => Change | Promise<Change>,
    options: Omit<KeepOptions, "idempotencyKey"> = {},
  ): Promise<Written | undefined> {
    for (let round = 1; ; round += 1) {
      const read = await this.get(bucket, key);
      const decision = await change(read);
      if (decision === undefined) return undefined;
      try {
        return await this.#write(changed(read, decision, options));
      } catch (error) {
        // If an earlier attempt may have been applied, changing again could change twice.
        const mayBegin = error instanceof ConditionFailed && error.outcome === "not_applied";
        if (!mayBegin || round >= UPDATE_ROUNDS_MAX) throw error;
      }
    }
  }

  /**
   * Carries out many operations together.
   *
   * The results are in the order of the operations: each what the operation gives alone, or the error that it
   * would throw, which is not thrown. They run side by side, in no order, and some may fail. More than 1,000
   * operations, or 4 MiB, are sent as several requests, each of which may take `deadlineMs`. Throws
   * `InvalidArgument`, and sends nothing, if any operation is wrong.
   */
  async batch(operations: Iterable<BatchOperation>, options: BatchOptions = {}): Promise<BatchResult[]> {
    const results: BatchResult[] = [];
    for (const part of partsOf(itemsOf(operations))) {
      const deadline = this.#policy.now() + this.#policy.deadlineMs;
      if (this.#discovers) await lookUp(this.#nodes, this.#policy);
      const answers = await callBatch(part, options, this.#nodes, this.#policy, deadline);
      results.push(...answers.map(({ item, answer }) => resultOf(item, answer, this)));
    }
    return results;
  }

  /** A counter: a key of a bucket of type `counter`. Nothing is sent yet. */
  counter(bucket: string, key: string): Counter {
    return new Counter(this.#changes, bucket, key);
  }

  /** A set: a key of a bucket of type `set`. Nothing is sent yet. */
  set(bucket: string, key: string): TextSet {
    return new TextSet(this.#changes, bucket, key);
  }

  /** A flag: a key of a bucket of type `flag`. Nothing is sent yet. */
  flag(bucket: string, key: string): Flag {
    return new Flag(this.#changes, bucket, key);
  }

  /** A map: a key of a bucket of type `map`. Nothing is sent yet. */
  map(bucket: string, key: string): FieldMap {
    return new FieldMap(this.#changes, bucket, key);
  }

  /** A register: a key of a bucket of type `register_lww`. Nothing is sent yet. */
  register(bucket: string, key: string): Register {
    return new Register(this.#changes, bucket, key);
  }

  /** An estimate: a key of a bucket of type `hll`. Nothing is sent yet. */
  estimate(bucket: string, key: string): Estimate {
    return new Estimate(this.#changes, bucket, key);
  }

  /** One page of live keys in order (at most 1000; the server's default is 100). */
  async listKeys(
    bucket: string,
    options: { prefix?: string | undefined; limit?: number | undefined; cursor?: string | undefined } = {},
  ): Promise<KeyPage> {
    const { prefix = "", limit, cursor } = options;
    return parse.keyPage(await this.#call(wire.keys(bucket, prefix, limit, cursor), OK));
  }

  /** All live keys in order. Throws `IncompleteListing` unless `allowIncomplete`. */
  async *keys(
    bucket: string,
    options: { prefix?: string | undefined; pageSize?: number | undefined; allowIncomplete?: boolean } = {},
  ): AsyncGenerator<string, void> {
    const { prefix, pageSize = 1000, allowIncomplete = false } = options;
    let cursor: string | undefined;
    do {
      const page: KeyPage = await this.listKeys(bucket, { prefix, limit: pageSize, cursor });
      checkPage(page, "keys", cursor, allowIncomplete);
      yield* page.keys;
      cursor = page.cursor;
    } while (cursor !== undefined);
  }

  /**
   * One page of the keys that have an entry in an index, ordered by value, then by key.
   *
   * `eq`: entries with this value; or `from` and `to`, the first and the last value, both of which belong to
   * the range and may be left out. Texts if the name of the index ends in `_s`, numbers or `bigint`s if in
   * `_i`; hits in such an index are `bigint`s. `limit`: the most entries, up to 1000; the server's default is
   * 100. `cursor`: that of a page before of the same query. A page may have no entries although more follow:
   * its cursor is `undefined` after the last.
   */
  async indexPage<Name extends string>(
    bucket: string,
    index: Name,
    query: IndexQuery<Name> & { limit?: number | undefined; cursor?: string | undefined } = {},
  ): Promise<IndexPage<IndexValue<Name>>> {
    const request = wire.index(bucket, index, query as IndexQuery, query.limit, query.cursor);
    return parse.indexPage(index, await this.#call(request, OK)) as IndexPage<IndexValue<Name>>;
  }

  /**
   * All entries of a query, which is as for `indexPage`.
   *
   * A key with several such values comes once with each. What changes meanwhile may be seen or not; what is
   * there all the time is seen. Throws `IncompleteListing` unless `allowIncomplete`.
   */
  async *index<Name extends string>(
    bucket: string,
    index: Name,
    query: IndexQuery<Name> & { pageSize?: number | undefined; allowIncomplete?: boolean } = {},
  ): AsyncGenerator<IndexEntry<IndexValue<Name>>, void> {
    const { eq, from, to, pageSize = 1000, allowIncomplete = false } = query;
    let cursor: string | undefined;
    do {
      const asked = { eq, from, to, limit: pageSize, cursor };
      const page: IndexPage<IndexValue<Name>> = await this.indexPage(bucket, index, asked);
      checkPage(page, "entries", cursor, allowIncomplete);
      yield* page.entries;
      cursor = page.cursor;
    } while (cursor !== undefined);
  }

  /**
   * One page of the changes of a bucket with `feedRetentionS`, after `options.start`.
   *
   * `waitMs` is added to `deadlineMs` and to `attemptTimeoutMs`. A page that fails at one node is asked for at
   * another. Throws `CursorExpired` if changes were missed, and `NoFeed`.
   */
  async feedPage(bucket: string, options: FeedPageOptions): Promise<FeedPage> {
    try {
      return feed.page(bucket, await this.#call(wire.feed(bucket, options), OK), this);
    } catch (error) {
      if (!(error instanceof CursorExpired) || error.cursor !== "") throw error;
      throw new ProtocolError(`${error.message}, without a cursor to go on with`, { facts: error.facts });
    }
  }

  /**
   * Follows the changes of a bucket, page by page and without end; options as for `feedPage`, but for `waitMs`,
   * which is 20000 if it is not given.
   *
   * A change is what the key is now: states in between may be missing, and a state may come again. Store the
   * cursor of a page after its changes have been processed, and start there after a failure: then each is
   * processed at least once. After `waitMs` without a change there is a page without changes, whose cursor is
   * to be stored too: one that is not renewed expires. With `now` the first page comes at once: its cursor is
   * where the feed begins. An error ends the iteration.
   */
  async *feed(bucket: string, options: FeedPageOptions): AsyncGenerator<FeedPage, void> {
    const { prefix, limit, waitMs = 20_000 } = options;
    for (let start = options.start, isFirst = true; ; isFirst = false) {
      const wait = isFirst && start === "now" ? undefined : waitMs;
      const page = await this.feedPage(bucket, { start, prefix, limit, waitMs: wait });
      yield page;
      start = page.cursor;
    }
  }

  /** The properties of a bucket. */
  async getBucket(bucket: string): Promise<BucketProperties> {
    return parse.properties(await this.#call(wire.bucketRequest("GET", bucket), OK));
  }

  /**
   * Sets properties. Those not given follow the defaults. A bucket gets a `type` while it has no keys (else
   * `BucketNotEmpty`), and keeps it (else `WrongType`).
   */
  async setBucket(bucket: string, properties: Partial<BucketProperties>): Promise<BucketProperties> {
    return parse.properties(await this.#call(wire.bucketRequest("PUT", bucket, properties), OK));
  }

  /** Lets all properties of a bucket follow the defaults again. Its keys stay. */
  async resetBucket(bucket: string): Promise<void> {
    await this.#call(wire.bucketRequest("DELETE", bucket), WRITTEN);
  }

  /** The trace of a request made with `explain`; `NotFound` if it is no longer kept. */
  async explanation(id: string): Promise<Readonly<Record<string, unknown>>> {
    return parse.jsonObject(await this.#call(wire.explanation(id), OK));
  }

  /** Looks up the nodes of the cluster and gives those known. */
  async nodes(): Promise<readonly NodeView[]> {
    this.#nodes.expire();
    await lookUp(this.#nodes, this.#policy);
    return this.#nodes.all().map(({ url, name }) => ({ url, name }));
  }

  #read(request: wire.Request, answer: parse.Answer): Read {
    const read = parse.read(request, answer, this);
    if (read instanceof ValueStream) throw new ProtocolError("the value was not read");
    return read;
  }

  async #write(request: wire.Request): Promise<Written> {
    return parse.written(request, await this.#call(request, WRITTEN));
  }

  async #call(request: wire.Request, accepts: ReadonlySet<number>): Promise<parse.Answer> {
    const deadline = this.#policy.now() + this.#policy.deadlineMs + (request.waitMs ?? 0);
    if (this.#discovers) await lookUp(this.#nodes, this.#policy);
    return call(request, this.#nodes, this.#policy, accepts, deadline);
  }
}

/** Throws unless a listing may go on after this page, which was asked for with `cursor`. */
function checkPage(
  page: { readonly cursor: string | undefined; readonly complete: boolean },
  what: string,
  cursor: string | undefined,
  allowIncomplete: boolean,
): void {
  if (!page.complete && !allowIncomplete) {
    throw new IncompleteListing(`too few replicas of some partition answered: ${what} may be missing`);
  }
  if (page.cursor !== undefined && page.cursor === cursor) {
    throw new ProtocolError("the listing does not advance: the server gave the same cursor again");
  }
}

/** The write of a change, on the condition that nothing else was written meanwhile. */
function changed(read: Read, decision: Exclude<Change, undefined>, options: KeepOptions): wire.Request {
  const { bucket, key } = read;
  const plain = { ...options, context: read };
  const isAbsent = read.kind === "absent";
  if (decision instanceof Sibling && read.kind === "siblings" && !decision.deleted) {
    return wire.keep(read, decision, plain); // guarded by its context; it takes no other condition
  }
  if (decision === DELETE || decision instanceof Sibling) {
    return wire.del(bucket, key, isAbsent ? plain : { ...plain, ifMatch: read });
  }
  const { value, expiresIn = options.expiresIn, ...described } = asNewValue(decision);
  const isBare = typeof decision === "string" || decision instanceof Uint8Array;
  const kept =
    read.kind === "value" && isBare
      ? { contentType: read.contentType, meta: read.meta, index: read.index }
      : described;
  const guard = isAbsent ? { ifAbsent: true } : { ifMatch: read };
  return wire.put(bucket, key, value, { ...plain, ...kept, ...guard, expiresIn });
}
