/** A client for Quorate, a leaderless quorum key-value store. */

export type {
  BatchChange,
  BatchDelete,
  BatchGet,
  BatchOperation,
  BatchOptions,
  BatchPut,
  BatchResult,
} from "./batch.js";
export { Client, type ClientOptions } from "./client.js";
export type { Index, IndexEntries, IndexEntry, IndexPage, IndexQuery, IndexValue } from "./entries.js";
export * from "./errors.js";
export {
  Absent,
  type AnyRead,
  type BucketProperties,
  type Change,
  type ContextLike,
  type Count,
  DELETE,
  type DeleteOptions,
  type FeedChange,
  type FeedPage,
  type FeedPageOptions,
  type GetOptions,
  type KeepOptions,
  type KeyPage,
  type LargeValue,
  type Lifetime,
  type NewValue,
  type OpenRead,
  type Pieces,
  type PutOptions,
  type Read,
  type Resolution,
  Sibling,
  Siblings,
  type Source,
  Value,
  ValueStream,
  type WaitOptions,
  type Written,
} from "./model.js";
export {
  Counter,
  Estimate,
  FieldMap,
  Flag,
  FlagRead,
  MapRead,
  Register,
  SetRead,
  TextSet,
} from "./handles.js";
export type { NodeView } from "./nodes.js";
export type {
  Applied,
  ChangeOptions,
  Field,
  Fields,
  MapChange,
  SetChange,
  Typed,
  TypedDeleteOptions,
  TypedFields,
  TypedGetOptions,
} from "./typed.js";
