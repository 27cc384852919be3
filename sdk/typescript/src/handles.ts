/** Typed values: one class for each type. */

import type { ContextLike, Written } from "./model.js";
import { COUNTER, ESTIMATE, FLAG, MAP, REGISTER, SET } from "./parse_typed.js";
import {
  type Applied,
  assign,
  type ChangeOptions,
  type Changes,
  enable,
  type Fields,
  increment,
  type Kind,
  type MapChange,
  mapChange,
  type Operation,
  type SetChange,
  setChange,
  type Typed,
  type TypedDeleteOptions,
  type TypedFields,
  type TypedGetOptions,
} from "./typed.js";

/** Options, with what was seen. */
type Seen<Options> = Options & { readonly context: ContextLike };

/** A typed key. */
abstract class Handle<V> {
  readonly bucket: string;
  readonly key: string;
  readonly #client: Changes;
  readonly #kind: Kind<V>;

  constructor(client: Changes, kind: Kind<V>, bucket: string, key: string) {
    this.bucket = bucket;
    this.key = key;
    this.#client = client;
    this.#kind = kind;
  }

  /** Deletes what `options.context` saw; without a context, what a read shows now. What others change stays. */
  delete(
    options: TypedDeleteOptions & { readonly context?: ContextLike | undefined } = {},
  ): Promise<Written> {
    return this.#client.deleteTyped(this.bucket, this.key, options);
  }

  protected read(options: TypedGetOptions): Promise<Typed<V>> {
    return this.#client.read(this.bucket, this.key, this.#kind, options);
  }

  protected apply(
    operation: Operation,
    options: ChangeOptions & { readonly context?: ContextLike | undefined },
  ): Promise<Applied<V>> {
    return this.#client.change(this.bucket, this.key, this.#kind, operation, options);
  }
}

/** A read that removes what it saw. */
abstract class RemovingRead<V> implements Typed<V> {
  readonly kind = "typed";
  readonly bucket: string;
  readonly key: string;
  readonly value: V;
  readonly exists: boolean;
  readonly context: string;
  readonly etag: string | undefined;
  readonly requestId: string | undefined;

  constructor(fields: TypedFields<V>) {
    this.bucket = fields.bucket;
    this.key = fields.key;
    this.value = fields.value;
    this.exists = fields.exists;
    this.context = fields.context;
    this.etag = fields.etag;
    this.requestId = fields.requestId;
  }
}

/** A counter, of a bucket of type `counter`. Totals are `bigint`s, exact to their last digit. */
export class Counter extends Handle<bigint> {
  constructor(client: Changes, bucket: string, key: string) {
    super(client, COUNTER, bucket, key);
  }

  /** Reads the total; 0 if nothing was counted. */
  get(options: TypedGetOptions = {}): Promise<Typed<bigint>> {
    return this.read(options);
  }

  /**
   * Adds a number; a negative one subtracts.
   *
   * A retry has the key of the first attempt and counts once, through any node, while the cluster is whole. An
   * attempt that was lost with the node that took it can still count beside its retry; with `atMostOnce` it
   * is never sent again once it may have arrived.
   */
  async increment(
    by: number | bigint,
    options: ChangeOptions & { readonly atMostOnce?: boolean | undefined } = {},
  ): Promise<Applied<bigint>> {
    return this.apply(increment(by, options.atMostOnce ?? false), options);
  }
}

/** A set of texts, of a bucket of type `set`. */
export class TextSet extends Handle<ReadonlySet<string>> {
  constructor(client: Changes, bucket: string, key: string) {
    super(client, SET, bucket, key);
  }

  /** Reads the elements; remove them through what was read. */
  async get(options: TypedGetOptions = {}): Promise<SetRead> {
    return new SetRead(await this.read(options), this);
  }

  /** Adds elements. A remove that did not see this leaves them. */
  async add(elements: readonly string[], options: ChangeOptions = {}): Promise<Applied<ReadonlySet<string>>> {
    return this.apply(setChange({ add: elements }), options);
  }

  /** Adds and removes, of what `options.context` saw. With a read at hand, use its `remove` or `change`. */
  async change(change: SetChange, options: Seen<ChangeOptions>): Promise<Applied<ReadonlySet<string>>> {
    return this.apply(setChange(change), options);
  }
}

/** A set, as it was read. */
export class SetRead extends RemovingRead<ReadonlySet<string>> {
  readonly #set: TextSet;

  constructor(fields: TypedFields<ReadonlySet<string>>, set: TextSet) {
    super(fields);
    this.#set = set;
  }

  /** Removes elements, as far as they were read: one that someone adds meanwhile stays. */
  remove(elements: readonly string[], options: ChangeOptions = {}): Promise<Applied<ReadonlySet<string>>> {
    return this.change({ remove: elements }, options);
  }

  /** Adds and removes at once. */
  change(change: SetChange, options: ChangeOptions = {}): Promise<Applied<ReadonlySet<string>>> {
    return this.#set.change(change, { ...options, context: this.context });
  }
}

/** A flag, of a bucket of type `flag`. */
export class Flag extends Handle<boolean> {
  constructor(client: Changes, bucket: string, key: string) {
    super(client, FLAG, bucket, key);
  }

  /** Reads it; switch it off through what was read. */
  async get(options: TypedGetOptions = {}): Promise<FlagRead> {
    return new FlagRead(await this.read(options), this);
  }

  /** Switches it on. A disabling that did not see this leaves it on. */
  async enable(options: ChangeOptions = {}): Promise<Applied<boolean>> {
    return this.apply(enable(true), options);
  }

  /** Switches off what `options.context` saw. With a read at hand, use its `disable`. */
  async disable(options: Seen<ChangeOptions>): Promise<Applied<boolean>> {
    return this.apply(enable(false), options);
  }
}

/** A flag, as it was read. */
export class FlagRead extends RemovingRead<boolean> {
  readonly #flag: Flag;

  constructor(fields: TypedFields<boolean>, flag: Flag) {
    super(fields);
    this.#flag = flag;
  }

  /** Switches it off, as far as it was read: if someone enables it meanwhile, it stays on. */
  disable(options: ChangeOptions = {}): Promise<Applied<boolean>> {
    return this.#flag.disable({ ...options, context: this.context });
  }
}

/** Named fields, each a register, a flag or a set, of a bucket of type `map`. */
export class FieldMap extends Handle<Fields> {
  constructor(client: Changes, bucket: string, key: string) {
    super(client, MAP, bucket, key);
  }

  /** Reads the fields; remove them through what was read. */
  async get(options: TypedGetOptions = {}): Promise<MapRead> {
    return new MapRead(await this.read(options), this);
  }

  /** Changes fields. What removes needs `options.context`: with a read at hand, use its `update`. */
  async update(
    change: MapChange,
    options: ChangeOptions & { readonly context?: ContextLike | undefined } = {},
  ): Promise<Applied<Fields>> {
    return this.apply(mapChange(change), options);
  }
}

/** A map, as it was read. */
export class MapRead extends RemovingRead<Fields> {
  readonly #map: FieldMap;

  constructor(fields: TypedFields<Fields>, map: FieldMap) {
    super(fields);
    this.#map = map;
  }

  /** Changes fields, and removes of what was read. */
  update(change: MapChange, options: ChangeOptions = {}): Promise<Applied<Fields>> {
    return this.#map.update(change, { ...options, context: this.context });
  }
}

/** A text, of concurrent ones the last, of a bucket of type `register_lww`. */
export class Register extends Handle<string | undefined> {
  constructor(client: Changes, bucket: string, key: string) {
    super(client, REGISTER, bucket, key);
  }

  /** Reads the text; `undefined` if none was assigned. */
  get(options: TypedGetOptions = {}): Promise<Typed<string | undefined>> {
    return this.read(options);
  }

  /** Replaces the text, whatever it is. Of concurrent ones the last by the nodes' clocks stays. */
  async assign(value: string, options: ChangeOptions = {}): Promise<Applied<string | undefined>> {
    return this.apply(assign(value), options);
  }
}

/** About how many different texts were added (HyperLogLog), of a bucket of type `hll`. */
export class Estimate extends Handle<number> {
  constructor(client: Changes, bucket: string, key: string) {
    super(client, ESTIMATE, bucket, key);
  }

  /** Reads the estimate. */
  get(options: TypedGetOptions = {}): Promise<Typed<number>> {
    return this.read(options);
  }

  /** Adds texts. One that was added before changes nothing. */
  async add(elements: readonly string[], options: ChangeOptions = {}): Promise<Applied<number>> {
    return this.apply(setChange({ add: elements }), options);
  }
}
